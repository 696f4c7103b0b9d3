//! Nodes, as the records and each other know them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{DatasetName, Digest, NodeId};

/// Most labels of a node, and most bytes of a label's key or value.
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 64;

/// What a node may do in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Writes records, takes requests, places calls. It may run functions as well.
    Gateway,
    /// Holds shards and runs functions. It reads records and writes none.
    Host,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Host => "host",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidNode;

    fn from_str(text: &str) -> Result<Self, InvalidNode> {
        match text {
            "gateway" => Ok(Role::Gateway),
            "host" => Ok(Role::Host),
            _ => Err(InvalidNode::Role(text.to_owned())),
        }
    }
}

/// `region=eu`: what placement and residency ask for. Set by who invites, never by the node itself.
pub type Labels = BTreeMap<String, String>;

/// One label, or one condition on labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Label {
    pub key: String,
    pub value: String,
}

impl Label {
    pub fn holds(&self, labels: &Labels) -> bool {
        labels.get(&self.key) == Some(&self.value)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl FromStr for Label {
    type Err = InvalidNode;

    fn from_str(text: &str) -> Result<Self, InvalidNode> {
        let invalid = || InvalidNode::Label(text.to_owned());
        let (key, value) = text.split_once('=').ok_or_else(invalid)?;
        let fits = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.len() <= MAX_LABEL_BYTES && part.bytes().all(allowed)
        };
        match fits(key) && fits(value) {
            true => Ok(Label {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            false => Err(invalid()),
        }
    }
}

/// Labels of one node; each key once.
pub fn labels(given: impl IntoIterator<Item = Label>) -> Result<Labels, InvalidNode> {
    let mut labels = Labels::new();
    for label in given {
        if let Some(before) = labels.insert(label.key.clone(), label.value) {
            return Err(InvalidNode::Twice(label.key, before));
        }
    }
    match labels.len() {
        ..=MAX_LABELS => Ok(labels),
        _ => Err(InvalidNode::TooManyLabels),
    }
}

/// Why a text says nothing of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNode {
    #[error("`{0}` is no role: host or gateway")]
    Role(String),
    #[error("`{0}` is no label: KEY=VALUE of letters, digits, - _ and ., at most {MAX_LABEL_BYTES} each")]
    Label(String),
    #[error("label `{0}` is there twice; the first is `{0}={1}`")]
    Twice(String, String),
    #[error("a node has at most {MAX_LABELS} labels")]
    TooManyLabels,
    #[error("`{0}` is no node id: 64 hexadecimal digits")]
    Id(String),
}

impl FromStr for NodeId {
    type Err = InvalidNode;

    fn from_str(text: &str) -> Result<Self, InvalidNode> {
        let invalid = || InvalidNode::Id(text.to_owned());
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(invalid());
        };
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() {
            return Err(invalid());
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digits = std::str::from_utf8(pair).map_err(|_| invalid())?;
            // `from_str_radix` takes a sign.
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(NodeId::from_bytes(bytes))
    }
}

/// Written as in text, everywhere.
impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A node that belongs to the network, as its inviter wrote it down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeVersion {
    pub id: NodeId,
    pub role: Role,
    pub labels: Labels,
    /// Bytes of shards that it offers to keep for others; `None` leaves it to its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Datasets that a host may have recorded: gateways write that down for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_put: Vec<DatasetName>,
    /// Where it was reached when it joined.
    pub addresses: Vec<SocketAddr>,
    pub joined_unix_ms: u64,
}

/// A node's standing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum NodeRecord {
    Joined(Box<NodeVersion>),
    /// Whether it is to take nothing new and to hand over what it holds.
    Draining {
        draining: bool,
    },
    /// It returned what others did not: it runs nothing, and nothing it made is used, until it is drained no more.
    Quarantined {
        reason: String,
    },
    /// It went by its own will.
    Left,
    /// It is not trusted any more. Of what it wrote only this counts: the digests of key and value.
    Expelled {
        accepted: Vec<Digest>,
        /// Whether the function tokens that it gave out go on to count. It can make others like them.
        #[serde(default)]
        keep_tokens: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_and_nothing_else_is_one() {
        let id = NodeId::from_bytes(*b"0123456789abcdef0123456789abcde\xff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "00",
            &"+f".repeat(32),
            &"0g".repeat(32),
            &"00".repeat(33),
            "ü",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn labels_have_a_key_and_a_value_once() {
        let label: Label = "region=eu-1".parse().unwrap();
        assert!(label.holds(&labels([label.clone()]).unwrap()));
        assert!(!label.holds(&Labels::new()));
        for text in ["region", "=eu", "region=", "re gion=eu", "region=eu,us"] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
        assert!(labels(["a=1".parse().unwrap(), "a=2".parse().unwrap()]).is_err());
    }
}
