//! This node: its endpoint, and what it serves on it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh_gossip::net::Gossip;
use nearfield_protocol::node::{Label, NodeVersion, Role};
use nearfield_protocol::{Digest, NodeId, unix_ms};
use nearfield_store::Store;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

use crate::bytes::{Giving, SERVED};
use crate::control::{Control, MemberEvent, PendingQuestion, Question, Reply, STREAMS};
use crate::document::Document;
use crate::endpoint::{addresses, bind, node_id};
use crate::error::NetError;
use crate::gate::{Admits, CONNECTIONS, Doors, EXCHANGES, Gate, LONGEST_EXCHANGE, Refused};
use crate::identity::Identity;
use crate::join::{Invitations, Joining, Offer, Rate, Refusals, Ticket};
use crate::network::{Contact, Network};
use crate::node_places::NodePlaces;
use crate::peers::{BYTES, CALL, CONTROL, JOIN, Peers};
use crate::present::{Here, Present};
use crate::residency::{Residency, Right};
use crate::view::Records;

/// Events, questions and calls that wait to be taken up.
const WAITING: usize = 256;
/// Longest answer to a question.
const ANSWER_BYTES: usize = 4 << 20;
/// How long a member that comes up waits for another one.
const FIRST_MEETING: Duration = Duration::from_secs(2);
/// How long the connections of a node that left go on.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a new member waits for the records that say so.
const FIRST_SYNC: Duration = Duration::from_secs(60);

/// This node: its endpoint, and the records it reads and writes. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    id: NodeId,
    router: Router,
    advertise: Vec<SocketAddr>,
    peers: Peers,
    document: Arc<Document>,
    doors: Arc<Doors>,
    residency: Arc<Residency>,
    invitations: Arc<Invitations>,
    present: Arc<Present>,
    store: Store,
    /// The lock is held while the file is written.
    network: Mutex<Network>,
    /// Some gateway's records and these were compared to the end since the start.
    heard: AtomicBool,
    /// It has left: nothing of the network is written any more.
    left: AtomicBool,
}

/// What other nodes bring, to be taken up by who composes this one.
pub struct Inbox {
    pub members: mpsc::Receiver<MemberEvent>,
    pub questions: mpsc::Receiver<PendingQuestion>,
    pub calls: mpsc::Receiver<CallStream>,
}

/// A gateway's request for this node's host: HTTP on a stream of its own.
#[derive(Debug)]
pub struct CallStream {
    pub node: NodeId,
    pub send: SendStream,
    pub receive: RecvStream,
}

/// How a node is reached.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where the endpoint listens, UDP.
    pub listen: SocketAddr,
    /// Where others reach it, if they cannot find that out themselves.
    pub advertise: Vec<SocketAddr>,
}

impl Node {
    /// Binds the endpoint and opens the records kept in `dir`; founds a network if it belongs to none.
    pub async fn open(
        dir: &Path,
        identity: &Identity,
        store: Store,
        options: &NodeOptions,
    ) -> Result<(Self, Inbox), NetError> {
        let (endpoint, lookup) = bind(identity, options.listen, &options.advertise).await?;
        let gossip = Gossip::builder().spawn(endpoint.clone());
        let (document, network) =
            Document::open(dir, identity, endpoint.clone(), gossip.clone(), store.clone()).await?;
        let document = Arc::new(document);
        let peers = Peers::new(endpoint.clone(), lookup);
        for member in document.records().nodes() {
            let addresses = member.node.addresses.clone();
            peers.learn(&Contact {
                id: member.node.id,
                addresses,
            });
        }
        // Heard later than what the records say of the day it joined.
        network.known.iter().for_each(|contact| peers.learn(contact));
        let (members, members_inbox) = mpsc::channel(WAITING);
        let (questions, questions_inbox) = mpsc::channel(WAITING);
        let (calls, calls_inbox) = mpsc::channel(WAITING);
        let invitations = Arc::new(Invitations::open(dir)?);
        let residency = Arc::new(Residency::new(document.clone()));
        let (doors, present) = (Arc::new(Doors::default()), Arc::new(Present::default()));
        let control = Control {
            document: document.clone(),
            peers: peers.clone(),
            present: present.clone(),
            streams: Arc::default(),
            hellos: Arc::default(),
            places: Arc::new(Mutex::new(NodePlaces::new(STREAMS))),
            members,
            questions,
        };
        let giving = Giving {
            store: store.clone(),
            residency: residency.clone(),
            places: Arc::new(Mutex::new(NodePlaces::new(SERVED))),
        };
        let joining = Joining {
            document: document.clone(),
            peers: peers.clone(),
            invitations: invitations.clone(),
            rate: Rate::default(),
            refusals: Refusals::default(),
        };
        let behind = Behind {
            document: &document,
            doors: &doors,
        };
        let exchanges = Gate {
            most: EXCHANGES,
            longest: Some(LONGEST_EXCHANGE),
            ..behind.gate(document.docs().clone(), Admits::Members)
        };
        let router = Router::builder(endpoint)
            .accept(JOIN, joining)
            .accept(iroh_docs::ALPN, exchanges)
            .accept(iroh_gossip::ALPN, behind.gate(gossip, Admits::Members))
            .accept(CONTROL, behind.gate(control, Admits::Members))
            .accept(BYTES, behind.gate(giving, Admits::Members))
            .accept(CALL, behind.gate(Calls(calls), Admits::Gateways))
            .spawn();
        let node = Node {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                id: identity.node_id(),
                router,
                advertise: options.advertise.clone(),
                peers,
                document,
                doors,
                residency,
                invitations,
                present,
                store,
                network: Mutex::new(network),
                heard: AtomicBool::new(false),
                left: AtomicBool::new(false),
            }),
        };
        let founder = || NodeVersion {
            id: node.id(),
            role: Role::Gateway,
            labels: Default::default(),
            max_bytes: None,
            may_put: Vec::new(),
            addresses: node.addresses(),
            joined_unix_ms: unix_ms(SystemTime::now()),
        };
        node.inner.document.enter_founder(founder).await?;
        node.inner.residency.refresh(&node.inner.store).await;
        let inbox = Inbox {
            members: members_inbox,
            questions: questions_inbox,
            calls: calls_inbox,
        };
        Ok((node, inbox))
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    pub(crate) fn document(&self) -> &Document {
        &self.inner.document
    }

    /// Whether a blob may rest on this node, as far as it knows.
    pub fn may_rest(&self, digest: &Digest) -> bool {
        self.inner.residency.right(&self.id(), digest) == Right::Rest
    }

    /// Whether what is kept to nodes with these labels may rest on `node`.
    pub fn satisfies(&self, node: &NodeId, only: &[Label]) -> bool {
        self.records().satisfies(node, only)
    }

    /// The labels that whoever keeps a blob must have, by the strictest rule of any dataset that holds it.
    pub fn rule(&self, digest: &Digest) -> Vec<Label> {
        self.inner.residency.rule(digest)
    }

    /// What is here and may not rest on this node.
    pub fn misplaced(&self) -> Vec<Digest> {
        self.inner.residency.misplaced(&self.id(), &self.inner.store)
    }

    /// The datasets that may not rest on this node, and of whose blobs it knows nothing.
    pub fn unread_lists(&self) -> Vec<Digest> {
        self.inner.residency.unread(&self.id())
    }

    /// Takes note of a blob that came from another node: what the list of a restricted dataset names is restricted.
    pub async fn note_list(&self, digest: &Digest, bytes: &[u8]) {
        if self.inner.residency.note(digest, bytes) {
            self.refresh_residency().await;
        }
    }

    /// Whether it is known which blobs may go where, as the records say now.
    pub fn knows_residency(&self) -> bool {
        !self.inner.residency.is_behind() && self.unread_lists().is_empty()
    }

    /// Reads anew which blobs may go where, if that may have changed: before a blob is fetched, which others may ask for then.
    pub async fn keep_residency(&self) {
        if self.inner.residency.is_old(&self.inner.store) {
            self.refresh_residency().await;
        }
    }

    /// Reads anew which blobs may go where.
    pub async fn refresh_residency(&self) {
        self.inner.residency.refresh(&self.inner.store).await;
    }

    /// Where others may reach this node.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        addresses(self.inner.router.endpoint(), &self.inner.advertise)
    }

    /// Where the endpoint listens.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.inner.router.endpoint().bound_sockets()
    }

    /// What this node is in its network.
    pub fn role(&self) -> Role {
        self.network().role
    }

    pub fn founder(&self) -> NodeId {
        self.network().founder
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.inner.network.lock()
    }

    /// What the records say now.
    pub fn records(&self) -> Arc<Records> {
        self.inner.document.records()
    }

    /// Told each time the records change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.document.changes()
    }

    /// Whether there are records that cannot be read, so that nobody knows what they refer to.
    pub fn lacks_records(&self) -> bool {
        self.inner.document.lacks_values()
    }

    /// The blobs that are records' values: they must be kept.
    pub fn record_blobs(&self) -> HashSet<Digest> {
        self.inner.document.values()
    }

    /// The other gateways. Before the records say who they are, those that were there when this node joined.
    pub fn gateways(&self) -> Vec<NodeId> {
        let records = self.records();
        let members = records.nodes().map(|member| member.node.id);
        let mut gateways: Vec<NodeId> = members.filter(|id| records.is_gateway(id)).collect();
        if gateways.is_empty() {
            gateways.extend(self.network().known.iter().map(|contact| contact.id));
        }
        gateways.retain(|id| *id != self.id());
        gateways
    }

    /// Writes down where other nodes were last reached, for the next start.
    pub(crate) fn remember_peers(&self) {
        let mut network = self.network();
        if self.inner.left.load(Ordering::Relaxed) {
            return;
        }
        let known = self.inner.peers.book();
        if network.known != known {
            network.known = known;
            if let Err(error) = network.save(&self.inner.dir) {
                tracing::warn!(%error, "where other nodes are cannot be written down");
            }
        }
    }

    /// Exchanges records with these nodes, now and as they come.
    pub async fn sync(&self, nodes: &[NodeId]) -> Result<(), NetError> {
        self.inner.document.sync(nodes).await
    }

    /// Whether the records were compared with another node's since the start.
    pub fn heard(&self) -> bool {
        self.inner.heard.load(Ordering::Relaxed)
    }

    pub(crate) fn hear(&self) {
        self.inner.heard.store(true, Ordering::Relaxed);
    }

    /// The gateway that does what one should do for all, unless it is this one: of those that are there, the one with the
    /// lowest id.
    pub fn leader(&self) -> Option<NodeId> {
        let present = self.present();
        let lower = self
            .gateways()
            .into_iter()
            .filter(|id| *id < self.id() && present.contains(id));
        lower.min()
    }

    /// The members that are there now, as far as this node knows.
    pub fn present(&self) -> Vec<NodeId> {
        self.inner.present.all()
    }

    /// Told each time a member comes or goes.
    pub(crate) fn comings_and_goings(&self) -> watch::Receiver<HashMap<NodeId, usize>> {
        self.inner.present.changes()
    }

    #[cfg(test)]
    pub(crate) fn residency(&self) -> Arc<Residency> {
        self.inner.residency.clone()
    }

    /// Whom this node has met and not lost.
    pub(crate) fn met(&self, node: NodeId) -> Here {
        self.inner.present.enter(node)
    }

    /// Waits until the records say that this node belongs to them, and for some other node to be there.
    pub async fn admitted(&self) -> Result<(), NetError> {
        let mut changes = self.changes();
        let admitted = changes.wait_for(|_| self.records().node(&self.id()).is_some());
        // What it ends with would keep the records from changing for as long as it is held.
        let admitted = tokio::time::timeout(FIRST_SYNC, admitted).await;
        match admitted.map(|admitted| admitted.is_ok()) {
            // Its founder may be all there is of a network; whoever joined came to somebody.
            Ok(true) if self.founder() == self.id() && self.records().nodes().count() < 2 => Ok(()),
            Ok(true) => {
                let mut present = self.comings_and_goings();
                let met = present.wait_for(|present| !present.is_empty());
                // Alone for now is a member, too.
                let _ = tokio::time::timeout(FIRST_MEETING, met).await;
                Ok(())
            }
            _ if self.records().is_expelled(&self.id()) => Err(NetError::Membership(
                "this node was expelled from its network".to_owned(),
            )),
            _ => Err(NetError::Membership(format!(
                "no gateway sent the records within {} s: look whether one is up and can be reached",
                FIRST_SYNC.as_secs()
            ))),
        }
    }

    /// Lets go of those that are members no more, each time the records change.
    pub async fn shut_out(&self) {
        let records = self.records();
        self.inner.doors.close_to(|node| records.is_expelled(node));
        let (doors, document) = (self.inner.doors.clone(), self.inner.document.clone());
        tokio::spawn(async move {
            // Whoever left is still to be told that it has.
            tokio::time::sleep(FAREWELL).await;
            let records = document.records();
            doors.close_to(|node| records.node(node).is_none());
        });
        for contact in self.inner.peers.book() {
            if records.is_expelled(&contact.id) {
                self.inner.peers.forget(contact.id).await;
            }
        }
    }

    /// Makes a ticket. What it offers is on disk when this returns.
    pub fn invite(&self, offer: Offer) -> Result<Ticket, NetError> {
        if self.role() != Role::Gateway {
            return Err(NetError::NotAGateway("invitations"));
        }
        let mut nonce = [0; 32];
        rand::fill(&mut nonce);
        let ticket = Ticket {
            issuer: self.id(),
            addresses: self.addresses(),
            role: offer.role,
            labels: offer.labels.clone(),
            expires_unix_ms: offer.expires_unix_ms,
            nonce,
        };
        self.inner
            .invitations
            .add(&nonce, offer, unix_ms(SystemTime::now()))?;
        Ok(ticket)
    }

    /// Asks a member.
    pub async fn ask(&self, node: NodeId, question: Question, patience: Duration) -> Result<Reply, NetError> {
        let peers = &self.inner.peers;
        let opening = crate::control::asking(question);
        peers.ask(node, CONTROL, &opening, ANSWER_BYTES, patience).await
    }

    /// Forgets the network: after the next start this node is one of its own. The node must be stopped next.
    pub fn forget_network(&self) -> Result<(), NetError> {
        let _network = self.network();
        self.inner.left.store(true, Ordering::Relaxed);
        Ok(Network::forget(&self.inner.dir)?)
    }

    /// Leaves the network for now. The store stays open.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.router.shutdown().await {
            tracing::warn!(%error, "the endpoint did not shut down cleanly");
        }
        // A node that left has none.
        if !self.inner.left.load(Ordering::Relaxed)
            && let Err(error) = self.inner.document.note_latest().await
        {
            tracing::warn!(%error, "of what time the records are is not noted");
        }
    }
}

/// What every gate stands before.
struct Behind<'a> {
    document: &'a Arc<Document>,
    doors: &'a Arc<Doors>,
}

impl Behind<'_> {
    fn gate<P>(&self, protocol: P, admits: Admits) -> Gate<P> {
        Gate {
            document: self.document.clone(),
            doors: self.doors.clone(),
            admits,
            most: CONNECTIONS,
            longest: None,
            refused: Refused::default(),
            protocol,
        }
    }
}

/// Hands on the streams of gateways.
#[derive(Debug)]
struct Calls(mpsc::Sender<CallStream>);

impl ProtocolHandler for Calls {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        while let Ok((send, receive)) = connection.accept_bi().await {
            let stream = CallStream { node, send, receive };
            if self.0.send(stream).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
