//! Whether a path means the same to everybody who reads it.
//!
//! The gateway takes a route from a path, a token's checks read it percent-decoded, and a guest reads it as it came, or
//! decoded, or with its dot segments taken out. A check that allows `public/` must not let `public/../private` through, in
//! whatever spelling. So a path that some readers would fold and others would not is refused before a token's checks or a
//! guest see it.

use std::borrow::Cow;

use nearfield_protocol::{Problem, ProblemKind};

/// Refuses a path with dot segments, also percent-encoded ones and those with parameters (`..;x`), or with a backslash,
/// which some take for a slash.
pub fn check(path: &str) -> Result<(), Problem> {
    // Few paths have any of these, so most are only looked through.
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
        return Ok(());
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    if decoded.contains(&b'\\') {
        return Err(refused("holds a backslash"));
    }
    if decoded.contains(&0) {
        return Err(refused("holds a zero byte"));
    }
    let mut names = decoded
        .split(|&byte| byte == b'/')
        .map(|segment| segment.split(|&byte| byte == b';').next().unwrap_or_default());
    match names.any(|name| matches!(name.trim_ascii(), b"." | b"..")) {
        true => Err(refused("holds a segment `.` or `..`")),
        false => Ok(()),
    }
}

/// Refuses an encoded slash in what a function sees of a path: some would take it for a slash. The values of a route's
/// parameters may hold one, because they are told one by one. Refuses an empty first segment, too: some take `//x` for `/x`, and some
/// for a host.
pub fn check_below(below: &str) -> Result<(), Problem> {
    if below.starts_with("//") {
        return Err(refused("begins with an empty segment below its route"));
    }
    let mut encoded = below.as_bytes().windows(3);
    match encoded.any(|text| text.eq_ignore_ascii_case(b"%2f")) {
        true => Err(refused("holds an encoded slash")),
        false => Ok(()),
    }
}

/// The path with the letters, digits and marks as themselves that need no encoding: both mean the same (RFC 3986 §6.2.2.2), and
/// whoever does not decode paths would see two.
pub fn plain(path: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let decoded = |at: usize| {
        let hex = path.get(at + 1..at + 3)?;
        u8::from_str_radix(hex, 16)
            .ok()
            .filter(|byte| is_plain(*byte) && hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    if !path.match_indices('%').any(|(at, _)| decoded(at).is_some()) {
        return Cow::Borrowed(path);
    }
    let (mut plain, mut from) = (String::with_capacity(path.len()), 0);
    for (at, _) in path.match_indices('%') {
        if let Some(byte) = decoded(at) {
            plain.push_str(&path[from..at]);
            plain.push(char::from(byte));
            from = at + 3;
        }
    }
    plain.push_str(&path[from..]);
    Cow::Owned(plain)
}

fn refused(what: &str) -> Problem {
    Problem::new(
        ProblemKind::BadRequest,
        format!("the path {what}, which readers take for different paths: send the path that is meant"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passes(path: &str) -> bool {
        check(path).is_ok() && check_below(path).is_ok()
    }

    #[test]
    fn paths_with_one_meaning_pass() {
        for path in [
            "/",
            "",
            "*",
            "/a",
            "/a/",
            "/a//b",
            "/.well-known/x",
            "/a.b/..c/d..",
            "/...",
            "/a%20b",
            "/J%C3%BC",
            "/a;v=1/b",
            "/a%2e",
            "/100%",
            "/%252e%252e/x",
            "/%zz",
        ] {
            assert!(passes(path), "{path}");
        }
        for path in [
            "/.",
            "/..",
            "/public/../private",
            "/public/%2e%2e/private",
            "/public/%2E./private",
            "/public/.%2e/private",
            "/public/..;/private",
            "/public/..;a=b/private",
            "/public/..%3b/private",
            "/public%2f..%2fprivate",
            "/public%2F%2e%2e%2Fprivate",
            "/public\\..\\private",
            "/public%5c..%5cprivate",
            "/a\\b",
            "/a%5Cb",
            "/a%2fb",
            "/a/./b",
            "/a/.",
            "/a%00b",
            "/public/..%20/private",
            "/public/..%09/private",
        ] {
            assert!(!passes(path), "{path}");
        }
    }

    #[test]
    fn what_needs_no_encoding_has_none() {
        for (path, seen) in [
            ("/spin", "/spin"),
            ("/%73pin", "/spin"),
            ("/%73%70in/%7e%2D", "/spin/~-"),
            ("/a%20b%2Fc%25", "/a%20b%2Fc%25"),
            ("/%2573", "/%2573"),
            ("/%7", "/%7"),
            ("/%zz%6", "/%zz%6"),
            ("/ü%C3%BC%41", "/ü%C3%BCA"),
        ] {
            assert_eq!(plain(path), seen, "{path}");
        }
        assert!(check_below("//spin").is_err() && check_below("/a//b").is_ok());
    }

    /// One reader of paths: decodes or not, takes parameters off or not, folds dot segments or not.
    fn read(path: &str, decodes: bool, cuts: bool) -> Vec<String> {
        let text = match decodes {
            true => percent_encoding::percent_decode_str(path)
                .decode_utf8_lossy()
                .into_owned(),
            false => path.to_owned(),
        };
        let mut folded: Vec<String> = Vec::new();
        for segment in text.replace('\\', "/").split('/') {
            let name = match cuts {
                true => segment.split(';').next().unwrap_or_default(),
                false => segment,
            };
            match name {
                "." => {}
                ".." => drop(folded.pop()),
                _ => folded.push(segment.to_owned()),
            }
        }
        folded
    }

    fn piece() -> impl Strategy<Value = String> {
        const PIECES: [&str; 15] = [
            "/", "%2f", "%2F", ".", "%2e", "%2E", "..", ";", "%3b", "\\", "%5c", "a", "public", "%41", "%25",
        ];
        prop::sample::select(&PIECES[..]).prop_map(str::to_owned)
    }

    proptest! {
        /// Whoever reads a path that passes, however they do it, comes to the segments that the check saw.
        #[test]
        fn what_the_check_saw_is_what_every_reader_sees(pieces in proptest::collection::vec(piece(), 0..12)) {
            let path = format!("/{}", pieces.concat());
            if passes(&path) {
                let seen: Vec<String> = percent_encoding::percent_decode_str(&path)
                    .decode_utf8_lossy()
                    .split('/')
                    .map(str::to_owned)
                    .collect();
                for cuts in [false, true] {
                    prop_assert_eq!(&read(&path, true, cuts), &seen, "{}", path);
                    prop_assert_eq!(read(&path, false, cuts).len(), seen.len(), "{}", path);
                }
            }
        }
    }
}
