//! What nodes agree on: functions, dataset versions, tokens and who belongs to them, as signed records.
//!
//! A key is `kind \0 name \0 clock`, the clock always 16 bytes. A name holds no NUL, so two keys of
//! which one starts with the other have the same kind and name and, being equally long, are equal.
//! This matters because the document that holds records deletes an author's older keys that start
//! with a new one.

use serde::{Deserialize, Serialize};

use crate::manifest::FunctionManifest;
use crate::node::Label;
use crate::{DatasetName, Digest, FunctionName};

/// What a record is about; the first part of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    Function,
    Dataset,
    Token,
    Node,
}

impl RecordKind {
    pub const ALL: [RecordKind; 4] = [
        RecordKind::Function,
        RecordKind::Dataset,
        RecordKind::Token,
        RecordKind::Node,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            RecordKind::Function => "function",
            RecordKind::Dataset => "dataset",
            RecordKind::Token => "token",
            RecordKind::Node => "node",
        }
    }

    /// What every key of this kind starts with.
    pub fn prefix(self) -> Vec<u8> {
        [self.name().as_bytes(), b"\0"].concat()
    }
}

/// When a record was written, by a hybrid logical clock: physical time, then a counter for records
/// within one millisecond or under a clock that went back, then the writer to break ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordClock {
    pub unix_ms: u64,
    pub counter: u32,
    /// The first four bytes of the writer's node id.
    pub writer: [u8; 4],
}

impl RecordClock {
    pub const BYTES: usize = 16;

    /// The clock of the record after `last`, never earlier than any seen.
    pub fn after(last: Option<RecordClock>, unix_ms: u64, writer: [u8; 4]) -> Self {
        match last {
            Some(last) if last.unix_ms >= unix_ms => {
                // A writer may have used all of a millisecond's counter up.
                let (counter, is_full) = last.counter.overflowing_add(1);
                let unix_ms = last.unix_ms.saturating_add(is_full.into());
                match unix_ms > Self::LATEST_UNIX_MS {
                    // As late as can be, until who wrote that is expelled.
                    true => RecordClock { writer, ..last },
                    false => RecordClock {
                        unix_ms,
                        counter,
                        writer,
                    },
                }
            }
            _ => RecordClock {
                unix_ms,
                counter: 0,
                writer,
            },
        }
    }

    /// The latest time that a record may have, in the year 2109. Beyond it nothing counts, so that no writer, by mistake or on purpose,
    /// leaves no clock for what others write after it.
    pub const LATEST_UNIX_MS: u64 = 1 << 42;

    /// Bytes that sort as clocks do.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.unix_ms.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.counter.to_be_bytes());
        bytes[12..].copy_from_slice(&self.writer);
        bytes
    }

    fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, writer @ ..] = bytes;
        RecordClock {
            unix_ms: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            counter: u32::from_be_bytes([i, j, k, l]),
            writer,
        }
    }
}

/// The key of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    pub kind: RecordKind,
    /// Holds no NUL: a function's or dataset's name, a token's or a node's id.
    pub name: String,
    pub clock: RecordClock,
}

impl RecordKey {
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(!self.name.contains('\0'));
        let mut key = self.kind.prefix();
        key.extend_from_slice(self.name.as_bytes());
        key.push(0);
        key.extend_from_slice(&self.clock.encode());
        key
    }

    /// `None` for a key that this build does not know.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let (kind, rest) = RecordKind::ALL.into_iter().find_map(|kind| {
            let rest = key.strip_prefix(kind.prefix().as_slice())?;
            Some((kind, rest))
        })?;
        let (name, clock) = rest.split_last_chunk()?;
        let name = std::str::from_utf8(name.strip_suffix(b"\0")?).ok()?;
        (!name.contains('\0')).then(|| RecordKey {
            kind,
            name: name.to_owned(),
            clock: RecordClock::decode(*clock),
        })
    }
}

/// One version of a function, or its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum FunctionRecord {
    Deployed(Box<FunctionVersion>),
    Removed,
}

/// A deployed function: the component and all that it is granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionVersion {
    pub name: FunctionName,
    /// Counts from 1.
    pub version: u64,
    pub component: Digest,
    pub manifest: FunctionManifest,
    pub deployed_unix_ms: u64,
    /// The version that this one brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u64>,
}

/// One version of a dataset, or its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DatasetRecord {
    Put(DatasetVersion),
    /// Versions before this one are no more.
    Pruned {
        before: u64,
    },
    Removed,
}

/// A dataset name's version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetVersion {
    pub name: DatasetName,
    /// Counts from 1.
    pub version: u64,
    /// The HashSeq blob.
    pub digest: Digest,
    pub size_bytes: u64,
    pub shards: u32,
    pub put_unix_ms: u64,
    /// How many hosts are to keep each shard; as many as there are, up to the default, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Only nodes with all of these labels may hold its bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Label>,
}

/// A function token that was given out, or its revocation. The token itself is never kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum TokenRecord {
    Issued(TokenVersion),
    Revoked,
}

/// What a function token grants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenVersion {
    /// Names the token in lists and in `token revoke`.
    pub id: String,
    /// The public half of the key that signed it, which its gateway alone has: 64 hexadecimal digits.
    pub key: String,
    pub function: FunctionName,
    /// Only while the function is this component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Digest>,
    /// Fuel that calls with this token may use within one UTC day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fuel_per_day: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_ms: Option<u64>,
    pub issued_unix_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: RecordKind, name: &str, unix_ms: u64) -> RecordKey {
        RecordKey {
            kind,
            name: name.into(),
            clock: RecordClock {
                unix_ms,
                counter: 0,
                writer: *b"node",
            },
        }
    }

    #[test]
    fn keys_come_back() {
        for kind in RecordKind::ALL {
            let key = key(kind, "app/logs-1", u64::MAX);
            assert_eq!(RecordKey::decode(&key.encode()), Some(key));
        }
        assert_eq!(RecordKey::decode(b"function\0short"), None);
        assert_eq!(RecordKey::decode(b"else\0name\x000123456789abcdef"), None);
    }

    #[test]
    fn no_key_starts_with_another() {
        // Clock bytes may be NUL or letters, so names that end where another's clock begins are the risk.
        let names = ["a", "ab", "a/b", "a-b", "b", "a0", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa"];
        let times = [0, 1, 0x6162_6364_6566_6768, 0x0061_0062_0063_0064];
        let mut keys = Vec::new();
        for kind in RecordKind::ALL {
            for name in names {
                keys.extend(times.map(|time| key(kind, name, time).encode()));
            }
        }
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert!(i == j || !b.starts_with(a), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_clock_never_goes_back() {
        let first = RecordClock::after(None, 100, *b"aaaa");
        let same = RecordClock::after(Some(first), 100, *b"aaaa");
        let back = RecordClock::after(Some(same), 50, *b"aaaa");
        let later = RecordClock::after(Some(back), 101, *b"aaaa");
        let full = RecordClock {
            counter: u32::MAX,
            ..first
        };
        let after_full = RecordClock::after(Some(full), 100, *b"aaaa");
        assert!(full < after_full && after_full.unix_ms == 101);
        let last = RecordClock {
            unix_ms: RecordClock::LATEST_UNIX_MS,
            ..full
        };
        assert_eq!(RecordClock::after(Some(last), 100, *b"aaaa"), last);
        assert!(first < same && same < back && back < later);
        assert!(key(RecordKind::Function, "f", 255).encode() < key(RecordKind::Function, "f", 256).encode());
    }
}
