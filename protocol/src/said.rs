//! What a guest or a peer says, cut to a bound where it enters.

use std::fmt::{self, Write};

/// Most bytes of foreign text that an error, and with it the record of a call, keeps: enough for a sentence with its context,
/// little enough for the thousands of calls that are remembered.
pub const SAID_BYTES: usize = 4 << 10;

/// Stands for what was cut off.
const MORE: &str = " […]";

/// `text` as it is, or its first [`SAID_BYTES`] and a sign that there was more.
pub fn said(text: impl fmt::Display) -> String {
    cut(SAID_BYTES, text)
}

/// `text`, at most `max_bytes` of it and a sign that there was more. No more than that is ever in memory.
pub fn cut(max_bytes: usize, text: impl fmt::Display) -> String {
    let mut bounded = Bounded {
        text: String::new(),
        max_bytes,
    };
    if write!(bounded, "{text}").is_err() {
        bounded.text.push_str(MORE);
    }
    bounded.text
}

/// The same for a text that is there already: one that is short enough is not copied, and one that was cut is not cut again.
pub fn cut_string(max_bytes: usize, text: String) -> String {
    let was_cut = text.len() <= max_bytes + MORE.len() && text.ends_with(MORE);
    match text.len() <= max_bytes || was_cut {
        true => text,
        false => cut(max_bytes, text),
    }
}

/// Takes text up to its bound, then refuses more, which ends the formatting.
struct Bounded {
    text: String,
    max_bytes: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let left = self.max_bytes - self.text.len();
        let taken = more.floor_char_boundary(left);
        self.text.push_str(&more[..taken]);
        match taken == more.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_fits_stays_and_what_does_not_is_cut(text in "\\PC{0,40}", max_bytes in 0usize..60) {
            let cut = cut(max_bytes, &text);
            prop_assert_eq!(&cut_string(max_bytes, text.clone()), &cut);
            prop_assert_eq!(&cut_string(max_bytes, cut.clone()), &cut);
            if text.len() <= max_bytes {
                prop_assert_eq!(cut, text);
            } else {
                let kept = cut.strip_suffix(MORE).unwrap();
                prop_assert!(kept.len() <= max_bytes && text.starts_with(kept));
                // A character has four bytes at most.
                prop_assert!(kept.len() + 4 > max_bytes);
            }
        }
    }

    #[test]
    fn an_endless_text_ends() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("and on ")?;
                }
            }
        }
        assert_eq!(said(Endless).len(), SAID_BYTES + MORE.len());
    }
}
