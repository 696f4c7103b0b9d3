//! What a node asks gateways for: above all, to write a version down.

use std::time::Duration;

use nearfield_net::control::{Question, Reply};
use nearfield_net::{NetError, Node};
use nearfield_protocol::node::Label;
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, NodeId, ProblemKind};

/// How long a record that was written elsewhere may take to come here.
const WRITTEN: Duration = Duration::from_secs(2);
/// How long a gateway may take to read a dataset's list of shards and to write it down.
const RECORDING: Duration = Duration::from_secs(30);

/// The blobs that say what a version is, and who holds them, if that is not this node.
#[derive(Clone)]
pub struct Described {
    pub heads: Vec<Digest>,
    pub holder: Option<NodeId>,
}

/// Labels as people read them.
pub fn labels(only: &[Label]) -> String {
    let labels: Vec<String> = only.iter().map(Label::to_string).collect();
    labels.join(", ")
}

/// The other gateways: those that are there come first, and of them the one that leads.
fn nearest_gateways(node: &Node) -> Vec<NodeId> {
    let present = node.present();
    let mut gateways = node.gateways();
    gateways.sort_by_key(|id| (!present.contains(id), *id));
    gateways
}

fn no_gateway() -> NetError {
    NetError::Membership(
        "no gateway is known: is this node still a member? `nearfield ls nodes` shows the others".to_owned(),
    )
}

/// Asks the gateways, one after the other, until one answers.
pub async fn ask_gateways(node: &Node, question: Question, patience: Duration) -> Result<Reply, NetError> {
    let mut failed = no_gateway();
    let gateways = nearest_gateways(node);
    for gateway in gateways {
        match node.ask(gateway, question.clone(), patience).await {
            Ok(reply) => return Ok(reply),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Has a version written down by another gateway: by `leader`, or by any. One whose answer was lost may have done it: that is
/// looked for before another's refusal counts, or the same rows would be laid over themselves.
pub async fn record_by_gateway(
    node: &Node,
    leader: Option<NodeId>,
    name: &DatasetName,
    after: u64,
    version: DatasetVersion,
    described: Described,
) -> Result<DatasetVersion, NetError> {
    let digest = version.digest;
    let question = Question::Record {
        name: name.clone(),
        after,
        version: Box::new(version),
        heads: described.heads,
        holder: described.holder,
    };
    let gateways = leader.map_or_else(|| nearest_gateways(node), |leader| vec![leader]);
    let (mut failed, mut lost) = (no_gateway(), false);
    for gateway in gateways {
        match node.ask(gateway, question.clone(), RECORDING).await {
            Ok(Reply::Recorded(version)) => return Ok(*version),
            Ok(Reply::Failed(problem)) if problem.kind == ProblemKind::Conflict => {
                failed = NetError::Conflict {
                    name: name.to_string(),
                    found: node.records().dataset(name).map_or(0, |newest| newest.version),
                    expected: after,
                };
                break;
            }
            Ok(Reply::Failed(problem)) => {
                let is_final = matches!(problem.kind, ProblemKind::NotPermitted | ProblemKind::BadRequest);
                failed = NetError::Failed(problem);
                if is_final {
                    break;
                }
                // It may have failed after it wrote: another gateway did not confirm it, say.
                lost = true;
            }
            Ok(_) => {
                let text = format!(
                    "gateway {} answered a record with an unexpected reply",
                    gateway.short()
                );
                failed = NetError::Membership(text);
            }
            Err(error) => {
                failed = error;
                lost = true;
            }
        }
    }
    let written = match lost {
        true => written_after_all(node, name, after, digest).await,
        false => None,
    };
    written.ok_or(failed)
}

/// The version after `after` with this digest, if the records name it soon.
pub async fn written_after_all(
    node: &Node,
    name: &DatasetName,
    after: u64,
    digest: Digest,
) -> Option<DatasetVersion> {
    let find = || {
        let records = node.records();
        let versions = records.dataset_versions(name).iter();
        let mut ours = versions.filter(|version| version.version > after && version.digest == digest);
        ours.next().cloned()
    };
    let mut changes = node.changes();
    let come = changes.wait_for(|_| find().is_some());
    // The guard of what is watched is let go of before it is looked at again.
    let come = tokio::time::timeout(WRITTEN, come).await.map(|come| come.is_ok());
    if !matches!(come, Ok(true)) {
        return None;
    }
    find()
}
