//! A job's arguments as bytes: equal arguments are equal bytes.

use std::collections::BTreeMap;

use serde_json::Value;

/// A job's arguments as its guest sees them. No arguments are `{}`: a job that was given none and one that was given
/// an empty object have the same results.
pub fn canonical_args(args: &Value) -> Vec<u8> {
    match args {
        Value::Null => b"{}".to_vec(),
        args => canonical_json(args),
    }
}

/// Refuses integers that JSON readers would round to a double: beyond 64 bits, 2^64 + 1 and 2^64 would be one argument.
/// What `json` is otherwise is for its reader to say.
pub fn check_integers(json: &str) -> Result<(), InexactInteger> {
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[at..];
        let len = match rest.strip_prefix('"') {
            Some(text) => 1 + text_len(text),
            None => {
                let ends = |c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E') && !c.is_ascii_digit();
                let number = &rest[..rest.find(ends).unwrap_or(rest.len())];
                let integer = !number.contains(['.', 'e', 'E']);
                if integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                    return Err(InexactInteger(number.chars().take(80).collect()));
                }
                number.len()
            }
        };
        rest = &rest[len..];
    }
    Ok(())
}

/// Bytes of a JSON string behind its first quote, the last one included.
fn text_len(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 1)
}

/// An integer beyond 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the integer {0} has more than 64 bits, and would be rounded: give it as a string, \"{0}\"")]
pub struct InexactInteger(String);

/// JSON with sorted keys and no spaces: equal values have equal bytes.
pub fn canonical_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(value, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            let sorted: BTreeMap<_, _> = map.iter().collect();
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                out.push(b':');
                write_canonical(value, out);
            }
            out.push(b'}');
        }
        plain => out.extend_from_slice(plain.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_arguments_are_an_empty_object() {
        assert_eq!(canonical_args(&Value::Null), canonical_args(&json!({})));
        assert_ne!(canonical_args(&json!([])), canonical_args(&json!({})));
        assert_ne!(canonical_args(&json!({"x": null})), canonical_args(&json!({})));
    }

    #[test]
    fn integers_that_would_be_rounded_are_refused_by_name() {
        for exact in [
            "{}",
            "0",
            "18446744073709551615",
            "-9223372036854775808",
            "1e30",
            "0.1",
            "[1, 2.5, -3]",
            r#""18446744073709551616""#,
            r#"{"\\": "18446744073709551616", "\"99999999999999999999": 1}"#,
            "",
            "\"",
        ] {
            assert_eq!(check_integers(exact), Ok(()), "{exact}");
        }
        for (inexact, number) in [
            ("18446744073709551616", "18446744073709551616"),
            ("-9223372036854775809", "-9223372036854775809"),
            (r#"{"a": ["x\\", 99999999999999999999]}"#, "99999999999999999999"),
        ] {
            assert_eq!(
                check_integers(inexact),
                Err(InexactInteger(number.to_owned())),
                "{inexact}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_no_json_is_passed_over(text in "[\"\\\\0-9eE+.{}, a-]{0,40}") {
            let _ = check_integers(&text);
        }
    }

    #[test]
    fn equal_json_has_equal_bytes() {
        let value = json!({"b": [1, 2.5, null], "a": {"y": "ä\"", "x": true}});
        let text = r#"{"a":{"x":true,"y":"ä\""},"b":[1,2.5,null]}"#;
        assert_eq!(canonical_json(&value), text.as_bytes());
    }
}
