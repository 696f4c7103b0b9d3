//! Where in the text of a JSON value a pointer leads. Keys are the text itself, so nothing is made a number of on the way.

use std::ops::Range;

use nearfield_protocol::units::parse_digits;

/// What a pointer led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointed {
    /// The text of a string, a number or a boolean: the first one.
    pub leaf: Option<Range<usize>>,
    /// The name of a member on the way that stands there more than once.
    pub twice: Option<String>,
}

/// Follows `tokens` through `json`, which must be valid: what is not leads nowhere. Goes as deep as there are tokens.
pub(crate) fn follow(json: &[u8], tokens: &[String]) -> Pointed {
    let mut walk = Walk {
        json,
        at: 0,
        twice: None,
    };
    let leaf = walk.value(tokens).flatten();
    Pointed {
        leaf,
        twice: walk.twice,
    }
}

struct Walk<'a> {
    json: &'a [u8],
    at: usize,
    twice: Option<String>,
}

/// `None` where the text is not JSON after all.
type KeyRange = Option<Option<Range<usize>>>;

impl Walk<'_> {
    fn value(&mut self, tokens: &[String]) -> KeyRange {
        let first = self.peek()?;
        let Some((token, rest)) = tokens.split_first() else {
            let start = self.at;
            self.skip()?;
            let is_leaf = !matches!(first, b'{' | b'[' | b'n');
            return Some(is_leaf.then_some(start..self.at));
        };
        match first {
            b'{' => self.object(token, rest),
            b'[' => self.array(token, rest),
            _ => {
                self.skip()?;
                Some(None)
            }
        }
    }

    fn object(&mut self, token: &str, rest: &[String]) -> KeyRange {
        let (mut found, mut seen) = (None, false);
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(None);
        }
        loop {
            self.peek()?;
            let start = self.at;
            self.skip()?;
            let is_it = is_name(&self.json[start..self.at], token);
            self.expect(b':')?;
            if is_it {
                if seen {
                    self.twice.get_or_insert_with(|| token.to_owned());
                }
                seen = true;
                let leaf = self.value(rest)?;
                found = found.or(leaf);
            } else {
                self.peek()?;
                self.skip()?;
            }
            if !self.goes_on(b'}')? {
                return Some(found);
            }
        }
    }

    fn array(&mut self, token: &str, rest: &[String]) -> KeyRange {
        // RFC 6901 §4: an index has no sign, and no zero before it.
        let wanted = parse_digits::<usize>(token).filter(|_| token == "0" || !token.starts_with('0'));
        let mut found = None;
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(None);
        }
        for index in 0usize.. {
            if wanted == Some(index) {
                found = self.value(rest)?;
            } else {
                self.peek()?;
                self.skip()?;
            }
            if !self.goes_on(b']')? {
                break;
            }
        }
        Some(found)
    }

    /// Passes over the value that begins here, however deep it is.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match *self.json.get(self.at)? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                _ if depth == 0 => self.skip_word(),
                _ => self.at += 1,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            self.at += memchr::memchr2(b'"', b'\\', self.json.get(self.at..)?)?;
            match self.json[self.at] {
                b'"' => break,
                _ => self.at += 2,
            }
        }
        self.at += 1;
        Some(())
    }

    /// A number, `true`, `false` or `null`.
    fn skip_word(&mut self) {
        let rest = &self.json[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n');
        self.at += rest.iter().position(ends).unwrap_or(rest.len());
    }

    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.json.get(self.at) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Whether a comma comes, and not the end.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => Some(true),
            byte => (byte == end).then_some(false),
        }
    }
}

fn is_name(quoted: &[u8], token: &str) -> bool {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    match inner.contains(&b'\\') {
        false => inner == token.as_bytes(),
        true => serde_json::from_slice::<String>(quoted).is_ok_and(|name| name == token),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn leaf(json: &str, pointer: &[&str]) -> Option<String> {
        let tokens: Vec<String> = pointer.iter().map(|&token| token.to_owned()).collect();
        follow(json.as_bytes(), &tokens)
            .leaf
            .map(|range| json[range].to_owned())
    }

    #[test]
    fn the_text_of_a_number_is_its_own() {
        for number in ["18446744073709551617", "1.10", "1e3", "-0", "1E+400", "0.1e-7"] {
            let json = format!("{{\"x\": [null, {{\"a\":\"}}\\\"{{\"}}],\"id\" :\t{number}\r}}\n");
            assert_eq!(leaf(&json, &["id"]).as_deref(), Some(number));
        }
    }

    #[test]
    fn a_member_that_stands_there_twice_is_told() {
        let followed = |json: &str| follow(json.as_bytes(), &["a".into(), "b".into()]);
        assert_eq!(
            followed(r#"{"a":{"b":1,"\u0062":2}}"#).twice.as_deref(),
            Some("b")
        );
        assert_eq!(
            followed(r#"{"a":{"b":1},"c":1,"a":1}"#).twice.as_deref(),
            Some("a")
        );
        assert_eq!(followed(r#"{"a":{"b":1},"c":{"a":1,"a":1}}"#).twice, None);
    }

    #[test]
    fn what_is_not_json_leads_nowhere_and_ends() {
        let json = br#"{"a": {"id": [1, "x\"y", {"id": 7}]}, "id": 1.5}"#;
        for cut in 0..json.len() {
            for byte in [b'"', b'{', b'}', b'\\', b'x'] {
                let mut damaged = json.to_vec();
                damaged[cut] = byte;
                follow(&damaged, &["id".to_owned()]);
                follow(&damaged[..cut], &["a".to_owned(), "id".to_owned()]);
            }
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c\"\\\\/{}\\[\\], é]{0,5}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"é]{1,2}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_leads_where_a_parsed_value_says(
            value in json(),
            tokens in prop::collection::vec("[a-c\"é]{1,2}|[0-4]", 0..4),
            pretty in any::<bool>(),
        ) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let pointer: String = tokens.iter().map(|token| format!("/{token}")).collect();
            let expected = value.pointer(&pointer).filter(|value| {
                value.is_string() || value.is_number() || value.is_boolean()
            });
            let found = follow(text.as_bytes(), &tokens);
            let found = found.leaf.map(|range| serde_json::from_str::<Value>(&text[range]).unwrap());
            prop_assert_eq!(found.as_ref(), expected);
        }
    }
}
