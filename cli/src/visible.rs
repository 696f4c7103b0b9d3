//! Text that others wrote, as a terminal may show it.

use std::borrow::Cow;

/// `text` with each character that would act on a terminal instead of being shown written out, as `\u{1b}`: control
/// characters but line ends and tabs, and those that turn the direction of what follows. A log or an error could otherwise
/// rewrite what stands on the screen, or type for its reader.
pub fn visible(text: &str) -> Cow<'_, str> {
    written_out(text, acts)
}

/// The same for what stands in one line, such as a name in a listing: line ends and tabs are written out, too. A name could
/// otherwise make a line of its own, which reads as another entry.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    written_out(text, |character| acts(character) || character.is_control())
}

fn written_out(text: &str, acts: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match acts(character) {
            true => shown.extend(character.escape_unicode()),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// The same for JSON, in whose strings it stays the same text: what JSON itself has to escape is escaped already.
pub fn visible_json(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match acts(character) {
            // All of them lie in the first plane.
            true => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

fn acts(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        '\u{2028}' | '\u{2029}' => true,
        character => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_written_out_and_the_rest_stays() {
        for plain in ["", "plain", "two\nlines\tand ümlauts 日本 🦀"] {
            assert_eq!(visible(plain), plain);
            assert_eq!(visible_json(plain), plain);
        }
        assert_eq!(
            visible("a\x1b]0;title\x07b\r\x08\x7f"),
            "a\\u{1b}]0;title\\u{7}b\\u{d}\\u{8}\\u{7f}"
        );
        assert_eq!(visible("\u{9b}31m\u{202e}txt"), "\\u{9b}31m\\u{202e}txt");
        assert_eq!(visible("a\u{61c}b"), "a\\u{61c}b");
        assert_eq!(visible_json("\"a\u{61c}b\""), "\"a\\u061cb\"");
        for character in (0..=0x2100).filter_map(char::from_u32) {
            let text = format!("a{character}b");
            let shown = visible(&text);
            assert!(!shown.contains(acts));
            let value = serde_json::Value::String(text.clone());
            let json = value.to_string();
            let shown = visible_json(&json);
            assert!(!shown.contains(acts));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(
            visible_line("plain name, ümlauts 日本 🦀"),
            "plain name, ümlauts 日本 🦀"
        );
        assert_eq!(
            visible_line("a\nb\r\tc\x1b\u{61c}"),
            "a\\u{a}b\\u{d}\\u{9}c\\u{1b}\\u{61c}"
        );
        for character in (0..=0x2100).filter_map(char::from_u32) {
            let text = format!("a{character}b");
            let shown = visible_line(&text);
            assert!(!shown.contains(|c: char| acts(c) || c.is_control()), "{shown:?}");
            assert_eq!(visible(&shown), shown, "it is written out once");
        }
    }
}
