use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::job::ResultKey;

/// Longest name of a function or a dataset, in bytes: it stands in URLs, file names and record keys.
const MAX_NAME_BYTES: usize = 128;

/// Text that cannot name a function or a dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: use 1 to 128 of the letters a-z A-Z, digits, `-`, `_`, `.`, `/` (datasets only), \
     starting and ending with a letter or digit"
)]
pub struct InvalidName(String);

fn check(text: &str, slash: bool) -> Result<(), InvalidName> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c) || (slash && c == '/');
    let good = text.len() <= MAX_NAME_BYTES
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(inner)
        && !text.contains("//")
        && !text.split('/').any(|part| part.starts_with('.'));
    if good {
        Ok(())
    } else {
        Err(InvalidName(text.chars().take(MAX_NAME_BYTES).collect()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, slash: $slash:literal) => {
        $(#[$doc])*
        ///
        /// Cheap to clone.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                check(&text, $slash)?;
                Ok($type(text.into()))
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a deployed function: letters, digits, `-`, `_` and `.`.
    FunctionName, slash: false
}

name! {
    /// The name of a dataset: as a function's, and `/` between parts.
    DatasetName, slash: true
}

name! {
    /// The name of a part of a dataset, which is put and replaced by itself: as a function's.
    PartName, slash: false
}

/// A node's ed25519 public key: its identity on the network and the author of its records.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 32]);

impl NodeId {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        NodeId(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten hexadecimal digits, for headers, logs and tables.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// 16 bytes, the first six the time in milliseconds, so that ids sort by age. Written as 32
        /// hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(u128);

        impl $type {
            pub const fn new(unix_ms: u64, random: u128) -> Self {
                $type(((unix_ms as u128) << 80) | (random >> 48))
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let refused = || InvalidName(text.chars().take(40).collect());
                // `from_str_radix` takes a sign.
                if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(refused());
                }
                u128::from_str_radix(text, 16).map($type).map_err(|_| refused())
            }
        }
    };
}

id! {
    /// The identity of one call, in `nearfield-id`.
    CallId
}

id! {
    /// The identity of one job.
    JobId
}

impl CallId {
    /// What the log lines of a pure run carry: the same run always prints the same.
    pub fn of_result(key: &ResultKey) -> Self {
        let (chunks, _) = key.0.as_bytes().as_chunks::<16>();
        CallId(u128::from_be_bytes(chunks[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_what_urls_and_keys_can_hold() {
        for good in ["a", "app-logs", "v1.2", "A_b", "x9"] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "a\0b",
            "ü",
            "..",
            ".a",
            "a/b",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad}");
        }
        assert!("a/b".parse::<DatasetName>().is_ok());
        for bad in ["a//b", "/a", "a/", "a/../b", "a/.b"] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn call_ids_sort_by_time_and_come_back() {
        let early = CallId::new(1_000, u128::MAX);
        let late = CallId::new(1_001, 0);
        assert!(early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!(format!("+{}", &early.to_string()[1..]).parse::<CallId>().is_err());
    }
}
