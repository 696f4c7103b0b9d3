//! Counts in Rust source, by its tokens: what stands in comments, strings and characters does not count.

/// What was counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub lines: u64,
    /// `unsafe {`
    pub unsafe_blocks: u64,
    /// `.unwrap(`
    pub unwraps: u64,
}

/// Reads a whole file. What is no Rust is read as if it were, as far as it goes.
pub fn count(source: &[u8]) -> Code {
    let mut code = Code {
        lines: source.split_inclusive(|&byte| byte == b'\n').count() as u64,
        ..Code::default()
    };
    let mut at = 0;
    while let Some(&byte) = source.get(at) {
        let rest = &source[at..];
        at += match byte {
            b'/' if rest.starts_with(b"//") => until(rest, b"\n"),
            b'/' if rest.starts_with(b"/*") => block_comment(rest),
            b'"' => string(rest),
            b'\'' => character(rest),
            _ if in_word(byte) => {
                let length = word(rest);
                let after = &rest[length..];
                match &rest[..length] {
                    b"r" | b"br" | b"cr" => length + raw(after),
                    b"unsafe" => {
                        code.unsafe_blocks += u64::from(after.trim_ascii_start().starts_with(b"{"));
                        length
                    }
                    b"unwrap" => {
                        code.unwraps += u64::from(source[..at].ends_with(b".") && after.starts_with(b"("));
                        length
                    }
                    _ => length,
                }
            }
            _ => 1,
        };
    }
    code
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn word(text: &[u8]) -> usize {
    text.iter().take_while(|&&byte| in_word(byte)).count()
}

/// The length up to and with `end`, or of all.
fn until(text: &[u8], end: &[u8]) -> usize {
    let place = text.windows(end.len()).position(|part| part == end);
    place.map_or(text.len(), |place| place + end.len())
}

/// Comments nest.
fn block_comment(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// From one quote to the next that no backslash hides.
fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// What follows an `r`: the hashes and text of a raw string, the name of a raw identifier, or nothing of the kind.
fn raw(text: &[u8]) -> usize {
    let hashes = text.iter().take_while(|&&byte| byte == b'#').count();
    let after = &text[hashes..];
    if after.starts_with(b"\"") {
        let end: Vec<u8> = std::iter::once(b'"')
            .chain(std::iter::repeat_n(b'#', hashes))
            .collect();
        hashes + 1 + until(&after[1..], &end)
    } else {
        hashes + word(after)
    }
}

/// A character, or the quote of a lifetime.
fn character(text: &[u8]) -> usize {
    match text.get(1) {
        Some(b'\\') => 3 + until(text.get(3..).unwrap_or_default(), b"'"),
        Some(&first) => {
            let length = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if text.get(1 + length) == Some(&b'\'') {
                length + 2
            } else {
                1
            }
        }
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(source: &str) -> (u64, u64) {
        let code = count(source.as_bytes());
        assert_eq!(code.lines, source.lines().count() as u64, "{source}");
        (code.unsafe_blocks, code.unwraps)
    }

    #[test]
    fn blocks_and_calls_count() {
        assert_eq!(counted("unsafe { f() }.unwrap();"), (1, 1));
        assert_eq!(counted("unsafe\n  {}\nunsafe{}\n"), (2, 0));
        assert_eq!(counted("a.unwrap ().b.unwrap()"), (0, 1));
    }

    #[test]
    fn other_uses_of_the_words_do_not() {
        assert_eq!(
            counted("unsafe fn f() {} unsafe impl Send for T {} not_unsafe {}"),
            (0, 0)
        );
        assert_eq!(
            counted("x.unwrap_or(1); unwrap(); r#unsafe {}; fn unwrap() {}"),
            (0, 0)
        );
    }

    #[test]
    fn comments_strings_and_characters_do_not() {
        for hidden in [
            "// unsafe { x.unwrap() }\n",
            "/// `unsafe {`",
            "/* a /* b */ unsafe { */",
            "/* unsafe {",
            "\"unsafe { \\\" .unwrap()\"",
            "\"\\\\\" ; \"unsafe {\"",
            "r\"unsafe { \\\"",
            "r#\"unsafe { \" .unwrap(\"#",
            "br##\"\"# unsafe {\"##",
            "b\"unsafe {\"",
        ] {
            assert_eq!(counted(hidden), (0, 0), "{hidden}");
            let closed = !hidden.ends_with("unsafe {") && !hidden.ends_with("`");
            assert_eq!(
                counted(&format!("{hidden}unsafe {{}}")),
                (u64::from(closed), 0),
                "{hidden}"
            );
        }
    }

    #[test]
    fn a_quote_may_be_a_character_or_a_lifetime() {
        for before in [
            "'\"'",
            "'\\''",
            "'ö'",
            "'\\u{1F600}'",
            "b'\\\\'",
            "fn f<'a>(x: &'a str)",
            "'_",
            "'static",
        ] {
            assert_eq!(
                counted(&format!("{before} unsafe {{ x.unwrap() }}")),
                (1, 1),
                "{before}"
            );
        }
    }
}
