//! Blobs between nodes: ranges of them, from several holders at once, each checked before it counts.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::said::{SAID_BYTES, cut_string};
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::{Fetched, GROUP_BYTES, Groups, Shard, Store, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::endpoint::node_id;
use crate::frame;
use crate::node_places::NodePlaces;
use crate::peers::{BYTES, Peers};
use crate::residency::{Residency, Right};

/// What is asked for at once: a multiple of [`GROUP_BYTES`].
const RANGE_BYTES: u64 = 2 << 20;
/// Ranges under way for one blob.
const RANGES: usize = 4;
/// A blob of up to this size, as most shards are, comes from one holder in one piece: asking for parts of it takes longer.
const WHOLE_BYTES: u64 = 4 << 20;
/// Largest blob that is taken from another node: a sequence of a million shards has 32 MB.
pub const BLOB_BYTES: u64 = 256 << 20;
/// What is hashed at once as it comes: enough for all lanes of the processor, and still in its cache.
const LOOK_BYTES: usize = 128 << 10;
/// How long a holder may say nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// A holder that sends fewer bytes a second is given up if another may be faster.
const SLOWEST: u64 = 1 << 20;
/// Requests of one member at once: of a file in place each holds a copy of up to [`WHOLE_BYTES`].
pub(crate) const SERVED: usize = 32;
/// Bytes of one write. A member that takes none of them for [`PATIENCE`] is given up.
const PIECE_BYTES: usize = 128 << 10;
const QUESTION_BYTES: usize = 1 << 10;
/// Longest answer: a refusal is cut to [`SAID_BYTES`], of which JSON makes six bytes each at most.
const ANSWER_BYTES: usize = (1 << 10) + 8 * SAID_BYTES;

/// What is asked of a holder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// The bytes from `start`, at most `len`.
    Range { digest: Digest, start: u64, len: u64 },
    /// What ranges are checked with: the chaining values of its groups.
    Groups { digest: Digest },
}

/// How an answer begins; so many bytes follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Given {
        size_bytes: u64,
        len: u64,
        /// Whether the blob may rest on the node that gets it.
        may_rest: bool,
    },
    Refused(String),
}

/// Gives blobs to members. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Giving {
    pub store: Store,
    pub residency: Arc<Residency>,
    /// The lock is held for one look-up.
    pub places: Arc<Mutex<NodePlaces>>,
}

impl std::fmt::Debug for Giving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Giving")
    }
}

impl ProtocolHandler for Giving {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            let places = self.places.lock().of(node);
            let Ok(place) = places.acquire_owned().await else {
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
            Ok(given) => {
                let answer = Answer::Given {
                    size_bytes: given.size_bytes,
                    len: given.bytes.len() as u64,
                    may_rest: given.may_rest,
                };
                (answer, given.bytes)
            }
            Err(reason) => (Answer::Refused(cut_string(SAID_BYTES, reason)), Bytes::new()),
        };
        frame::write(&mut send, &answer).await?;
        give_all(&mut send, bytes).await?;
        let _ = send.finish();
        Ok(())
    }

    async fn read(&self, node: NodeId, digest: Digest, request: &Request) -> Result<Given, String> {
        if self.residency.is_behind() {
            self.residency.refresh(&self.store).await;
        }
        let may_rest = match self.residency.right(&node, &digest) {
            Right::Rest => true,
            Right::Pass => false,
            Right::None(rule) => {
                tracing::warn!(node = node.short(), %digest, rule, "refused a blob");
                return Err(format!("it may only go to nodes with {rule}"));
            }
        };
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
            // Nobody asks for more.
            Request::Range { start, len, .. } => {
                start.min(size)..start.saturating_add(len.min(WHOLE_BYTES)).min(size)
            }
            Request::Groups { .. } if size > BLOB_BYTES => {
                return Err(format!("it has {size} bytes, where nodes take {BLOB_BYTES}"));
            }
            Request::Groups { .. } => 0..size,
        };
        let groups = matches!(request, Request::Groups { .. });
        let read = tokio::task::spawn_blocking(move || read_shard(&shard, range, groups)).await;
        match read {
            Ok(Ok(bytes)) => Ok(Given {
                size_bytes: size,
                bytes,
                may_rest,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Copies nothing: the stream holds on to the map.
async fn give_all(send: &mut SendStream, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        timeout(PATIENCE, send.write_chunk(piece))
            .await?
            .map_err(io::Error::other)?;
    }
    Ok(())
}

fn read_shard(shard: &Shard, range: Range<u64>, groups: bool) -> Result<Bytes, StoreError> {
    match (groups, shard) {
        (true, Shard::Stored(blob)) => Ok(Groups::of(blob).values().to_vec().into()),
        (true, Shard::InPlace(shard)) => Ok(shard.groups().values().to_vec().into()),
        (false, shard) => shard.read(range),
    }
}

/// What a holder gives.
struct Given {
    /// Of the whole blob.
    size_bytes: u64,
    bytes: Bytes,
    may_rest: bool,
}

/// Why nobody gave a blob.
type Cause = String;

impl Peers {
    /// Fetches a blob from its holders. What is returned has this digest.
    pub async fn fetch(
        &self,
        digest: Digest,
        holders: Vec<NodeId>,
        most_bytes: u64,
    ) -> Result<Fetched, Cause> {
        if holders.is_empty() {
            return Err("no node that is there holds it".to_owned());
        }
        let mut causes = Vec::new();
        let mut holders: VecDeque<NodeId> = holders.into();
        // The first tells how large it is, with all of a small one.
        while let Some(first) = holders.pop_front() {
            let failed = |cause: &str| format!("{}: {cause}", first.short());
            let request = Request::Range {
                digest,
                start: 0,
                len: WHOLE_BYTES,
            };
            let mut hasher = blake3::Hasher::new();
            let asked = self.request(first, &request, WHOLE_BYTES, holders.is_empty(), |bytes| {
                hasher.update(bytes);
            });
            let (begun, start) = match asked.await {
                Ok(came) => came,
                Err(cause) => {
                    causes.push(failed(&cause));
                    continue;
                }
            };
            let Begun {
                size_bytes, may_rest, ..
            } = begun;
            if size_bytes > most_bytes {
                causes.push(failed(&format!(
                    "it has {size_bytes} bytes, where {most_bytes} are taken"
                )));
                continue;
            }
            if size_bytes <= WHOLE_BYTES {
                if digest == Digest::from_bytes(*hasher.finalize().as_bytes()) {
                    let bytes = start.freeze();
                    return Ok(Fetched { bytes, may_rest });
                }
                tracing::error!(node = first.short(), %digest, "a node sent other bytes than their name says");
                causes.push(failed("it sent other bytes"));
                continue;
            }
            let mut all = vec![first];
            all.extend(&holders);
            match self
                .in_ranges(digest, size_bytes, &start, &all, &mut causes)
                .await
            {
                Some(bytes) => return Ok(Fetched { bytes, may_rest }),
                None => continue,
            }
        }
        Err(causes.join("; "))
    }

    /// The rest of a blob of which `start` came already, from all of `holders` at once.
    async fn in_ranges(
        &self,
        digest: Digest,
        size_bytes: u64,
        start: &[u8],
        holders: &[NodeId],
        causes: &mut Vec<Cause>,
    ) -> Option<Bytes> {
        let groups = self.groups(digest, size_bytes, holders, causes).await?;
        // Each range has its place in the whole, so that nothing is copied together in the end.
        let mut whole = BytesMut::with_capacity(size_bytes as usize);
        let mut rest = whole.split_off(WHOLE_BYTES as usize);
        let mut open = VecDeque::new();
        whole.extend_from_slice(start);
        if whole.len() as u64 != WHOLE_BYTES || !groups.check(0, &whole) {
            tracing::error!(node = holders[0].short(), %digest, "a node sent other bytes than their name says");
            let place = std::mem::take(&mut whole);
            open.push_back(Part {
                start: 0,
                place,
                first: 0,
                tried: 1,
            });
        }
        let mut at = WHOLE_BYTES;
        while at < size_bytes {
            let len = RANGE_BYTES.min(size_bytes - at);
            let after = rest.split_off(len as usize);
            open.push_back(Part {
                start: at,
                place: std::mem::replace(&mut rest, after),
                first: open.len(),
                tried: 0,
            });
            at += len;
        }
        let mut under_way = FuturesUnordered::new();
        let mut done = BTreeMap::new();
        // Who failed once is asked again when all have: a holder that stalls costs its time once, not for each range.
        let mut failed = HashSet::new();
        loop {
            while under_way.len() < RANGES
                && let Some(part) = open.pop_front()
            {
                let at = |tried: usize| holders[(part.first + tried) % holders.len()];
                let others = (part.tried..part.tried + holders.len()).map(at);
                let good = others.into_iter().find(|holder| !failed.contains(holder));
                let holder = good.unwrap_or_else(|| at(part.tried));
                let last = part.tried + 1 >= holders.len();
                under_way.push(self.part(holder, digest, last, part));
            }
            let Some((holder, mut part, came)) = under_way.next().await else {
                for place in done.into_values() {
                    whole.unsplit(place);
                }
                return Some(whole.freeze());
            };
            let cause = match came {
                Ok(()) if groups.check(part.start, &part.place) => {
                    done.insert(part.start, part.place);
                    continue;
                }
                Ok(()) => {
                    tracing::error!(node = holder.short(), %digest, "a node sent other bytes than their name says");
                    "it sent other bytes".to_owned()
                }
                Err(cause) => cause,
            };
            causes.push(format!("{}: {cause}", holder.short()));
            failed.insert(holder);
            part.tried += 1;
            if part.tried >= 2 * holders.len() {
                return None;
            }
            open.push_front(part);
        }
    }

    /// Fills one part from a holder, unchecked.
    async fn part(
        &self,
        holder: NodeId,
        digest: Digest,
        last: bool,
        mut part: Part,
    ) -> (NodeId, Part, Result<(), Cause>) {
        part.place.clear();
        let len = part.place.capacity() as u64;
        let request = Request::Range {
            digest,
            start: part.start,
            len,
        };
        let filled = match self.begin(holder, &request, len).await {
            Ok((begun, receive)) if begun.len == len => {
                read_into(receive, len, &mut part.place, last, |_| ()).await
            }
            Ok(_) => Err("it has too little".to_owned()),
            Err(cause) => Err(cause),
        };
        (holder, part, filled)
    }

    async fn groups(
        &self,
        digest: Digest,
        size_bytes: u64,
        holders: &[NodeId],
        causes: &mut Vec<Cause>,
    ) -> Option<Groups> {
        for (index, holder) in holders.iter().enumerate() {
            let last = index + 1 == holders.len();
            let request = Request::Groups { digest };
            let most = size_bytes.div_ceil(GROUP_BYTES as u64) * 32;
            let cause = match self.request(*holder, &request, most, last, |_| ()).await {
                Ok((_, values)) => match Groups::parse(digest, size_bytes, values.to_vec()) {
                    Some(groups) => return Some(groups),
                    None => "what it sent does not make the digest".to_owned(),
                },
                Err(cause) => cause,
            };
            causes.push(format!("{}: {cause}", holder.short()));
        }
        None
    }

    /// What a holder answers: what it says of the blob, and what it was asked for. `look` is shown that as it comes. The
    /// `last` holder may be slow.
    async fn request(
        &self,
        node: NodeId,
        request: &Request,
        most: u64,
        last: bool,
        look: impl FnMut(&[u8]),
    ) -> Result<(Begun, BytesMut), Cause> {
        let (begun, receive) = self.begin(node, request, most).await?;
        let mut bytes = BytesMut::with_capacity(begun.len as usize);
        read_into(receive, begun.len, &mut bytes, last, look).await?;
        Ok((begun, bytes))
    }

    /// Asks a holder. What it says of the blob, and where the bytes come from.
    async fn begin(&self, node: NodeId, request: &Request, most: u64) -> Result<(Begun, RecvStream), Cause> {
        let (mut send, mut receive) = self.open(node, BYTES).await.map_err(|error| error.to_string())?;
        let failed = |error: io::Error| error.to_string();
        frame::write(&mut send, request).await.map_err(failed)?;
        let _ = send.finish();
        let answer = timeout(PATIENCE, frame::read(&mut receive, ANSWER_BYTES)).await;
        match answer.map_err(|_| "no answer".to_owned())?.map_err(failed)? {
            Answer::Given {
                size_bytes,
                len,
                may_rest,
            } if len <= most => {
                let begun = Begun {
                    size_bytes,
                    len,
                    may_rest,
                };
                Ok((begun, receive))
            }
            Answer::Given { .. } => Err("it would send more than was asked for".to_owned()),
            Answer::Refused(reason) => Err(reason),
        }
    }
}

/// What a holder says of a blob before it gives some of it.
struct Begun {
    /// Of the whole blob.
    size_bytes: u64,
    /// Bytes that follow.
    len: u64,
    may_rest: bool,
}

/// A part of a blob, and where it goes.
struct Part {
    start: u64,
    place: BytesMut,
    /// Which holder is asked first, and how many did not give it.
    first: usize,
    tried: usize,
}

/// Reads `len` bytes to the end of `place`, which has room for them, and shows them to `look` as they come. The `last` holder
/// may be slow.
async fn read_into(
    receive: RecvStream,
    len: u64,
    place: &mut BytesMut,
    last: bool,
    look: impl FnMut(&[u8]),
) -> Result<(), Cause> {
    if last {
        return read_all(receive, len, place, look).await;
    }
    let slowest = PATIENCE + Duration::from_secs(len / SLOWEST);
    let read = timeout(slowest, read_all(receive, len, place, look)).await;
    read.map_err(|_| format!("{len} bytes took it over {} s", slowest.as_secs()))?
}

async fn read_all(
    receive: RecvStream,
    len: u64,
    place: &mut BytesMut,
    mut look: impl FnMut(&[u8]),
) -> Result<(), Cause> {
    let mut receive = receive.take(len);
    let until = place.len() + len as usize;
    let mut seen = place.len();
    while place.len() < until {
        // As much as is there at once.
        let read = timeout(PATIENCE, receive.read_buf(place)).await;
        match read.map_err(|_| "it stopped sending".to_owned())? {
            Ok(0) => return Err("it sent too little".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        if place.len() - seen >= LOOK_BYTES {
            look(&place[seen..]);
            seen = place.len();
        }
    }
    look(&place[seen..]);
    Ok(())
}

#[cfg(test)]
mod tests;
