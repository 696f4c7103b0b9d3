//! What nodes tell and ask each other beside bytes and calls.
//!
//! Every node keeps a stream to each gateway and reports on it (`report`): that it is alive, how busy it is, what it holds.
//! A gateway takes the reports in (`serve`) and hands them on as [`MemberEvent`]s. Anything else is a [`Question`] on a
//! stream of its own.

mod report;
mod serve;

use std::time::Duration;

use nearfield_protocol::gpu::GpuAdvert;
use nearfield_protocol::records::{DatasetVersion, RecordClock};
use nearfield_protocol::said::cut_string;
use nearfield_protocol::{DatasetName, Digest, NodeId, Problem};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use report::{Reporter, Residents, changed};
pub(crate) use serve::{Control, STREAMS};
#[cfg(any(test, fuzzing))]
pub(crate) use serve::{digests, record_key};

use crate::network::Contact;
use crate::peers::MAX_ADDRESSES;

/// A node says this often that it is there.
pub const BEAT: Duration = Duration::from_secs(1);
/// A node that says nothing for as long is gone.
pub const SILENCE: Duration = Duration::from_secs(3);
/// Longest message: a welcome lists every node, a question names at most [`MAX_ASKED`] digests.
const MESSAGE_BYTES: usize = 4 << 20;
/// Digests in one message of holdings.
const HOLDINGS: usize = 32_768;
/// Digests in one question.
pub const MAX_ASKED: usize = 4_096;

/// What the first message on a stream says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Opening {
    Report(Hello),
    Ask(Question),
}

/// How a node introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub addresses: Vec<std::net::SocketAddr>,
    /// It runs functions.
    pub hosting: bool,
    /// The build that it runs.
    pub version: String,
}

/// Longest name of a build or of a GPU that is kept: what a member says of itself is told on.
const NAME_BYTES: usize = 128;

impl Hello {
    /// The same, its lists and texts no longer than they are kept.
    fn cut(mut self) -> Hello {
        self.addresses.truncate(MAX_ADDRESSES);
        self.version = cut_string(NAME_BYTES, self.version);
        self
    }
}

impl Load {
    /// The same, its texts no longer than they are kept.
    fn cut(mut self) -> Load {
        if let Some(gpu) = &mut self.gpu
            && gpu.name.len() > NAME_BYTES
        {
            gpu.name = cut_string(NAME_BYTES, gpu.name.to_string()).into();
        }
        self
    }
}

/// How busy a node is, and how fast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Calls that run or wait there.
    pub calls: u32,
    /// Fuel that one of its cores burns in a millisecond, as measured; 0 if not yet.
    pub fuel_per_ms: u64,
    pub cores: u32,
    /// Runs of jobs that it works on at once.
    pub job_workers: u32,
    /// Bytes a millisecond that blobs from other nodes reach it at, as measured; 0 if not yet.
    pub link_bytes_per_ms: u64,
    /// Bytes that it can still take; `None` if that is not known.
    pub free_bytes: Option<u64>,
    /// Its GPU, if it offers one.
    #[serde(default)]
    pub gpu: Option<GpuAdvert>,
}

/// What a node reports after its hello.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    Beat(Load),
    /// So many digests follow that it holds now, then so many that it holds no more.
    Holds {
        added: u32,
        removed: u32,
    },
    /// The same of blobs of which something is in the memory of its GPU.
    Residents {
        added: u32,
        removed: u32,
    },
}

/// A gateway's answer to a hello.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    known: Vec<Contact>,
}

/// What becomes known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEvent {
    /// It is there, and holds nothing that it has not reported since.
    Up(NodeId, Hello),
    Beat(NodeId, Load),
    Holds {
        node: NodeId,
        added: Vec<Digest>,
        removed: Vec<Digest>,
    },
    /// Blobs of which something came into the memory of its GPU, or went.
    Residents {
        node: NodeId,
        added: Vec<Digest>,
        removed: Vec<Digest>,
    },
    Gone(NodeId),
}

/// What members ask each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Whether record and value are on disk, once they are.
    Confirm {
        /// The record's key, in hexadecimal.
        key: String,
    },
    /// Which nodes hold each of these: to a gateway.
    Holders { digests: Vec<Digest> },
    /// To fetch these blobs, which belong to `dataset`, and keep them: from a gateway.
    Keep {
        dataset: Option<Digest>,
        digests: Vec<Digest>,
        from: Vec<Contact>,
    },
    /// To keep these no longer than there is room: others do.
    Spare { digests: Vec<Digest> },
    /// To let go of these, which may not rest on the node that is asked: others keep them. From a gateway.
    Erase { digests: Vec<Digest> },
    /// To write down a dataset's version: to a gateway.
    Record {
        name: DatasetName,
        /// The version that it follows; 0 for none.
        after: u64,
        version: Box<DatasetVersion>,
        /// The blobs that say what it is.
        heads: Vec<Digest>,
        /// Who holds them, if that is not the asker: a gateway asks for a host that took a put for it.
        #[serde(default)]
        holder: Option<NodeId>,
    },
    /// To write down that the asker leaves: to a gateway.
    Leave,
    /// To forget results that are remembered: from a gateway.
    Forget(Forget),
}

/// Which remembered results.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forget {
    /// Those that were computed for a dataset, by its name or digest.
    For(String),
    /// All, since the node that is asked was quarantined by a record of this clock.
    All { until: RecordClock },
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Confirmed(bool),
    /// For each digest the nodes that hold it.
    Holders(Vec<Vec<Contact>>),
    /// How many of them are kept now.
    Kept(u64),
    Recorded(Box<DatasetVersion>),
    /// So many results.
    Forgotten(u64),
    Done,
    Failed(Problem),
}

pub(crate) fn asking(question: Question) -> impl Serialize {
    Opening::Ask(question)
}

/// A question of a member, to be answered.
#[derive(Debug)]
pub struct PendingQuestion {
    pub node: NodeId,
    pub question: Question,
    pub reply: oneshot::Sender<Reply>,
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::gpu::AdapterKind;

    use super::*;

    #[test]
    fn what_a_member_says_of_itself_is_cut_where_it_enters() {
        let hello = Hello {
            addresses: vec!["192.0.2.1:1".parse().unwrap(); 100_000],
            hosting: true,
            version: "9".repeat(1 << 20),
        };
        let cut = hello.cut();
        assert_eq!(cut.addresses.len(), MAX_ADDRESSES);
        assert!(cut.version.len() < 2 * NAME_BYTES && cut.version.starts_with("999"));
        let gpu = GpuAdvert {
            name: "é".repeat(1 << 20).into(),
            kind: AdapterKind::Hardware,
            resident_bytes: 1,
        };
        let load = Load {
            gpu: Some(gpu),
            ..Load::default()
        };
        assert!(load.cut().gpu.unwrap().name.len() < 2 * NAME_BYTES);
    }
}
