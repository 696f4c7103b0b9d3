//! Blobs between nodes: ranges of them, from several holders at once, each checked before it counts.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::{GROUP_BYTES, Groups, Shard, Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::frame;
use crate::peers::{BYTES, Peers, node_id};
use crate::residency::Residency;

/// What is asked for at once: a multiple of [`GROUP_BYTES`].
const RANGE_BYTES: u64 = 2 << 20;
/// Ranges under way for one blob.
const RANGES: usize = 4;
/// A blob of up to this size comes from one holder, in one piece.
const WHOLE_BYTES: u64 = 1 << 20;
/// Largest blob that is taken from another node: a sequence of a million shards has 32 MB.
const MAX_BYTES: u64 = 256 << 20;
/// How long a holder may say nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests of one member at once.
const SERVED: usize = 64;
const QUESTION_BYTES: usize = 1 << 10;

/// What is asked of a holder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    /// The bytes from `start`, at most `len`.
    Range { digest: Digest, start: u64, len: u64 },
    /// What ranges are checked with: the chaining values of its groups.
    Groups { digest: Digest },
}

/// How an answer begins; so many bytes follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Given { size_bytes: u64, len: u64 },
    Refused(String),
}

/// Gives blobs to members. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Giving {
    pub store: Store,
    pub residency: Arc<Residency>,
}

impl std::fmt::Debug for Giving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Giving")
    }
}

impl ProtocolHandler for Giving {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        let places = Arc::new(Semaphore::new(SERVED));
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            let Ok(place) = places.clone().acquire_owned().await else {
                break;
            };
            let giving = self.clone();
            tasks.spawn(async move {
                if let Err(error) = giving.give(node, send, receive).await {
                    tracing::debug!(node = node.short(), %error, "a transfer ended early");
                }
                drop(place);
            });
            while tasks.try_join_next().is_some() {}
        }
        Ok(())
    }
}

impl Giving {
    async fn give(&self, node: NodeId, mut send: SendStream, mut receive: RecvStream) -> io::Result<()> {
        let request: Request = timeout(PATIENCE, frame::read(&mut receive, QUESTION_BYTES)).await??;
        let (Request::Range { digest, .. } | Request::Groups { digest }) = request;
        let (answer, bytes) = match self.read(node, digest, &request).await {
            Ok((size_bytes, bytes)) => {
                let len = bytes.len() as u64;
                (Answer::Given { size_bytes, len }, bytes)
            }
            Err(reason) => (Answer::Refused(reason), Bytes::new()),
        };
        frame::write(&mut send, &answer).await?;
        // Copies nothing: the stream holds on to the map.
        send.write_chunk(bytes).await.map_err(io::Error::other)?;
        let _ = send.finish();
        Ok(())
    }

    async fn read(&self, node: NodeId, digest: Digest, request: &Request) -> Result<(u64, Bytes), String> {
        if let Some(rule) = self.residency.forbids(&node, &digest) {
            tracing::warn!(node = node.short(), %digest, rule, "refused a blob");
            return Err(format!("it may only go to nodes with {rule}"));
        }
        let shard = match self.store.local_shard(&digest).await {
            Ok(shard) => shard,
            Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => return Err("it is not here".to_owned()),
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob cannot be given");
                return Err(error.to_string());
            }
        };
        let size = shard.size_bytes();
        let range = match *request {
            Request::Range { start, len, .. } => start.min(size)..start.saturating_add(len).min(size),
            Request::Groups { .. } => 0..size,
        };
        let groups = matches!(request, Request::Groups { .. });
        let read = tokio::task::spawn_blocking(move || read_shard(&shard, range, groups)).await;
        match read {
            Ok(Ok(bytes)) => Ok((size, bytes)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn read_shard(shard: &Shard, range: Range<u64>, groups: bool) -> Result<Bytes, StoreError> {
    match (groups, shard) {
        (true, Shard::Stored(blob)) => Ok(Groups::of(blob).values().to_vec().into()),
        (true, Shard::InPlace(shard)) => Ok(shard.groups().values().to_vec().into()),
        (false, shard) => shard.read(range),
    }
}

/// Why nobody gave a blob.
type Cause = String;

impl Peers {
    /// Fetches a blob from its holders. What is returned has this digest.
    pub async fn fetch(&self, digest: Digest, holders: Vec<NodeId>) -> Result<Bytes, Cause> {
        if holders.is_empty() {
            return Err("no node that is there holds it".to_owned());
        }
        let mut causes = Vec::new();
        let mut holders: VecDeque<NodeId> = holders.into();
        // The first tells how large it is, with all of a small one.
        while let Some(first) = holders.pop_front() {
            let failed = |cause: &str| format!("{}: {cause}", first.short());
            let start = match self.range(first, digest, 0..WHOLE_BYTES).await {
                Ok(start) => start,
                Err(cause) => {
                    causes.push(failed(&cause));
                    continue;
                }
            };
            if start.size_bytes > MAX_BYTES {
                causes.push(failed(&format!("it has {} bytes", start.size_bytes)));
                continue;
            }
            if start.size_bytes <= WHOLE_BYTES {
                if Digest::of(&start.bytes) == digest {
                    return Ok(start.bytes.freeze());
                }
                tracing::error!(node = first.short(), %digest, "a node sent other bytes than their name says");
                causes.push(failed("it sent other bytes"));
                continue;
            }
            let mut all = vec![first];
            all.extend(&holders);
            match self.in_ranges(digest, start, &all, &mut causes).await {
                Some(bytes) => return Ok(bytes),
                None => continue,
            }
        }
        Err(causes.join("; "))
    }

    /// The rest of a blob of which `start` came already, from all of `holders` at once.
    async fn in_ranges(
        &self,
        digest: Digest,
        start: Piece,
        holders: &[NodeId],
        causes: &mut Vec<Cause>,
    ) -> Option<Bytes> {
        let size_bytes = start.size_bytes;
        let groups = self.groups(digest, size_bytes, holders, causes).await?;
        let mut whole = BytesMut::zeroed(size_bytes as usize);
        let mut open = VecDeque::new();
        if groups.check(0, &start.bytes) {
            whole[..start.bytes.len()].copy_from_slice(&start.bytes);
        } else {
            tracing::error!(node = holders[0].short(), %digest, "a node sent other bytes than their name says");
            open.push_back((0..WHOLE_BYTES, 1));
        }
        let mut at = WHOLE_BYTES;
        while at < size_bytes {
            let end = (at + RANGE_BYTES).min(size_bytes);
            open.push_back((at..end, 0));
            at = end;
        }
        let mut under_way = FuturesUnordered::new();
        let mut turn = 0;
        loop {
            while under_way.len() < RANGES
                && let Some((range, tried)) = open.pop_front()
            {
                let holder = holders[(turn + tried) % holders.len()];
                turn += 1;
                let asked = self.range(holder, digest, range.clone());
                under_way.push(async move { (range, tried, holder, asked.await) });
            }
            let Some((range, tried, holder, came)) = under_way.next().await else {
                return Some(whole.freeze());
            };
            let cause = match came {
                Ok(piece) if piece.bytes.len() as u64 != range.end - range.start => "it sent too little",
                Ok(piece) if groups.check(range.start, &piece.bytes) => {
                    whole[range.start as usize..range.end as usize].copy_from_slice(&piece.bytes);
                    continue;
                }
                Ok(_) => {
                    tracing::error!(node = holder.short(), %digest, "a node sent other bytes than their name says");
                    "it sent other bytes"
                }
                Err(ref cause) => cause,
            };
            causes.push(format!("{}: {cause}", holder.short()));
            if tried + 1 >= 2 * holders.len() {
                return None;
            }
            open.push_front((range, tried + 1));
        }
    }

    async fn groups(
        &self,
        digest: Digest,
        size_bytes: u64,
        holders: &[NodeId],
        causes: &mut Vec<Cause>,
    ) -> Option<Groups> {
        for holder in holders {
            let request = Request::Groups { digest };
            let most = size_bytes.div_ceil(GROUP_BYTES as u64) * 32;
            let cause = match self.request(*holder, &request, most).await {
                Ok(piece) => match Groups::parse(digest, size_bytes, piece.bytes.to_vec()) {
                    Some(groups) => return Some(groups),
                    None => "what it sent does not make the digest".to_owned(),
                },
                Err(cause) => cause,
            };
            causes.push(format!("{}: {cause}", holder.short()));
        }
        None
    }

    async fn range(&self, node: NodeId, digest: Digest, range: Range<u64>) -> Result<Piece, Cause> {
        let (start, len) = (range.start, range.end - range.start);
        let request = Request::Range { digest, start, len };
        self.request(node, &request, len).await
    }

    async fn request(&self, node: NodeId, request: &Request, most: u64) -> Result<Piece, Cause> {
        let (mut send, mut receive) = self.open(node, BYTES).await.map_err(|error| error.to_string())?;
        let failed = |error: io::Error| error.to_string();
        frame::write(&mut send, request).await.map_err(failed)?;
        let _ = send.finish();
        let answer = timeout(PATIENCE, frame::read(&mut receive, QUESTION_BYTES)).await;
        let answer = answer.map_err(|_| "no answer".to_owned())?.map_err(failed)?;
        let (size_bytes, len) = match answer {
            Answer::Given { size_bytes, len } if len <= most => (size_bytes, len),
            Answer::Given { .. } => return Err("it would send more than was asked for".to_owned()),
            Answer::Refused(reason) => return Err(reason),
        };
        let mut bytes = BytesMut::with_capacity(len as usize);
        while (bytes.len() as u64) < len {
            let chunk = timeout(PATIENCE, receive.read_chunk((len as usize) - bytes.len())).await;
            match chunk.map_err(|_| "it stopped sending".to_owned())? {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return Err("it sent too little".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Piece { size_bytes, bytes })
    }
}

/// A range of a blob as it came, unchecked.
struct Piece {
    /// Of the whole blob, as its holder says.
    size_bytes: u64,
    bytes: BytesMut,
}
