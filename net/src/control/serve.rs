//! The gateway's end of reports, and everybody's end of questions.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::records::RecordKey;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::{
    HOLDINGS, MESSAGE_BYTES, MemberEvent, Opening, PendingQuestion, Question, Reply, Report, SILENCE, Welcome,
};
use crate::document::Document;
use crate::endpoint::node_id;
use crate::frame;
use crate::network::Contact;
use crate::node_places::NodePlaces;
use crate::peers::Peers;
use crate::present::Present;

/// How soon a record should have come by itself.
const SPREAD: Duration = Duration::from_millis(200);
/// Streams that one member may have open: a report and some questions.
pub(crate) const STREAMS: usize = 64;
/// How long a report waits that begins soon after the member's last one: each has the records exchanged.
const HELLOS_APART: Duration = Duration::from_secs(1);

/// Speaks with members. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Control {
    pub document: Arc<Document>,
    pub peers: Peers,
    pub present: Arc<Present>,
    /// The newest stream of each member that reports. The lock is held for one look-up.
    pub streams: Arc<Mutex<HashMap<NodeId, u64>>>,
    /// When the latest report of each member may begin. The lock is held for one look-up.
    pub hellos: Arc<Mutex<HashMap<NodeId, Instant>>>,
    /// The lock is held for one look-up.
    pub places: Arc<Mutex<NodePlaces>>,
    pub members: mpsc::Sender<MemberEvent>,
    pub questions: mpsc::Sender<PendingQuestion>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl ProtocolHandler for Control {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            let places = self.places.lock().of(node);
            let Ok(place) = places.acquire_owned().await else {
                break;
            };
            let control = self.clone();
            tasks.spawn(async move {
                if let Err(error) = control.stream(node, send, receive).await {
                    tracing::debug!(node = node.short(), %error, "a control stream ended");
                }
                drop(place);
            });
            // What has ended is let go of.
            while tasks.try_join_next().is_some() {}
        }
        Ok(())
    }
}

impl Control {
    async fn stream(&self, node: NodeId, mut send: SendStream, mut receive: RecvStream) -> io::Result<()> {
        let opening = timeout(SILENCE, frame::read(&mut receive, MESSAGE_BYTES));
        match opening.await?? {
            Opening::Ask(question) => {
                let reply = self.answer(node, question).await;
                frame::write(&mut send, &reply).await?;
                let _ = send.finish();
                Ok(())
            }
            Opening::Report(hello) => {
                let begins = {
                    let mut hellos = self.hellos.lock();
                    let now = Instant::now();
                    let next = hellos.get(&node).map_or(now, |latest| *latest + HELLOS_APART);
                    // Who comes often waits no longer than its own patience: the reporter gives up after a silence.
                    let begins = next.clamp(now, now + HELLOS_APART);
                    hellos.insert(node, begins);
                    begins
                };
                tokio::time::sleep_until(begins).await;
                let hello = hello.cut();
                let (known, peers) = (self.peers.book(), &self.peers);
                peers.learn(&Contact {
                    id: node,
                    addresses: hello.addresses.clone(),
                });
                frame::write(&mut send, &Welcome { known }).await?;
                // It has come back, or was never here: what is new on either side is exchanged.
                if let Err(error) = self.document.sync(&[node]).await {
                    tracing::warn!(node = node.short(), %error, "the records cannot be exchanged");
                }
                let _here = self.present.enter(node);
                let stream = {
                    let mut streams = self.streams.lock();
                    let newest = streams.entry(node).or_default();
                    *newest += 1;
                    *newest
                };
                let _gone = Gone {
                    node,
                    stream,
                    streams: self.streams.clone(),
                    members: self.members.clone(),
                };
                self.tell(MemberEvent::Up(node, hello)).await?;
                self.reports(node, &mut receive).await
            }
        }
    }

    async fn reports(&self, node: NodeId, receive: &mut RecvStream) -> io::Result<()> {
        loop {
            match timeout(SILENCE, frame::read(receive, MESSAGE_BYTES)).await?? {
                Report::Beat(load) => self.tell(MemberEvent::Beat(node, load.cut())).await?,
                Report::Holds { added, removed } => {
                    let added = timeout(SILENCE, digests(receive, added)).await??;
                    let removed = timeout(SILENCE, digests(receive, removed)).await??;
                    let holds = MemberEvent::Holds { node, added, removed };
                    self.tell(holds).await?;
                }
                Report::Residents { added, removed } => {
                    let added = timeout(SILENCE, digests(receive, added)).await??;
                    let removed = timeout(SILENCE, digests(receive, removed)).await??;
                    let residents = MemberEvent::Residents { node, added, removed };
                    self.tell(residents).await?;
                }
            }
        }
    }

    async fn tell(&self, event: MemberEvent) -> io::Result<()> {
        let ended = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.members.send(event).await.map_err(ended)
    }

    async fn answer(&self, node: NodeId, question: Question) -> Reply {
        if let Question::Confirm { key } = &question {
            return Reply::Confirmed(self.confirm(node, key).await);
        }
        let (reply, answer) = oneshot::channel();
        let asked = PendingQuestion {
            node,
            question,
            reply,
        };
        let stopping = || Reply::Failed(Problem::new(ProblemKind::Draining, "the node is stopping"));
        if self.questions.send(asked).await.is_err() {
            return stopping();
        }
        answer.await.unwrap_or_else(|_| stopping())
    }
}

impl Control {
    /// Waits for a record of `node`'s, which is on its way.
    async fn confirm(&self, node: NodeId, key: &str) -> bool {
        let Some(key) = record_key(key) else {
            return false;
        };
        let mut changes = self.document.changes();
        let held = async {
            let mut asked = false;
            loop {
                changes.mark_unchanged();
                match self.document.holds(&key).await {
                    Ok(true) => return true,
                    Err(error) => {
                        tracing::warn!(%error, "a record cannot be confirmed");
                        return false;
                    }
                    Ok(false) => {}
                }
                let spread = timeout(SPREAD, changes.changed()).await;
                if spread.is_err() && !asked {
                    // It did not come by itself.
                    asked = true;
                    let _ = self.document.sync(&[node]).await;
                }
            }
        };
        timeout(SILENCE, held).await.unwrap_or(false)
    }
}

/// The record's key that `hex` spells.
pub(crate) fn record_key(hex: &str) -> Option<RecordKey> {
    RecordKey::decode(&HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?)
}

pub(crate) async fn digests(receive: &mut (impl AsyncRead + Unpin), count: u32) -> io::Result<Vec<Digest>> {
    if count as usize > HOLDINGS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; count as usize * 32];
    receive.read_exact(&mut bytes).await?;
    let digests = bytes.as_chunks::<32>().0.iter();
    Ok(digests.map(|bytes| Digest::from_bytes(*bytes)).collect())
}

/// Says that a member is gone, however its report ended.
struct Gone {
    node: NodeId,
    stream: u64,
    streams: Arc<Mutex<HashMap<NodeId, u64>>>,
    members: mpsc::Sender<MemberEvent>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let newest = self.streams.lock().get(&self.node).copied();
        if newest != Some(self.stream) {
            // It has come back on another stream, and its old one only ended late.
            return;
        }
        let (node, members) = (self.node, self.members.clone());
        if let Err(mpsc::error::TrySendError::Full(event)) = members.try_send(MemberEvent::Gone(node)) {
            tokio::spawn(async move { members.send(event).await });
        }
    }
}
