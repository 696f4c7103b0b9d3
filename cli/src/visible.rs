//! Text that others wrote, as a terminal may show it.

use std::borrow::Cow;

/// `text` with each character that would act on a terminal instead of being shown written out, as `\u{1b}`: control
/// characters but line ends and tabs, and those that turn the direction of what follows. A log or an error could otherwise
/// rewrite what stands on the screen, or type for its reader.
pub fn visible(text: &str) -> Cow<'_, str> {
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
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
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
}
