//! Bytes by digest (`/b3/{hex}`, `/b3/{dataset hex}/{path}`) and by name (`/v1/content`), with ranges and preconditions.
//!
//! What a digest names never changes, so the digest is the ETag and caches may keep it for ever; what a name stands for
//! is asked about each time. The bytes are strangers' data: browsers are told not to guess their type nor to run them.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_cluster::store_problem;
use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::path_index::{MAX_LINKS, NotFollowed};
use nearfield_store::{Dataset, Shard, Store, StoreError};

use crate::body::{self, Body};
use crate::breaks_late::BreaksLate;
use crate::preconditions::{self, Answer, EntityTag, Modified, Validators};
use crate::reply;

/// Bytes of one frame: large enough to be cheap, small enough to share a connection.
const FRAME_BYTES: u64 = 256 << 10;

/// Some bytes of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub blob: Digest,
    pub offset: u64,
    pub size_bytes: u64,
}

/// Content that lies in pieces.
#[derive(Debug, Clone)]
pub struct Content {
    pub pieces: Vec<Piece>,
    pub size_bytes: u64,
    pub etag: String,
}

impl Content {
    /// A whole blob.
    pub async fn blob(store: &Store, digest: Digest) -> Result<Self, Problem> {
        let size_bytes = match store.size_of(&digest) {
            Ok(size_bytes) => size_bytes,
            // It may only pass through this node.
            Err(absent) => match store.shard(&digest).await {
                Ok(shard) => shard.size_bytes(),
                Err(StoreError::Elsewhere { .. }) => return Err(store_problem(absent)),
                Err(error) => return Err(store_problem(error)),
            },
        };
        let pieces = vec![Piece {
            blob: digest,
            offset: 0,
            size_bytes,
        }];
        Ok(Content {
            pieces,
            size_bytes,
            etag: digest.to_hex(),
        })
    }

    /// A file of a folder dataset, or the one that a link in it leads to.
    pub fn file(dataset: &Dataset, path: &str) -> Result<Self, Problem> {
        let at = dataset
            .follow(path)
            .map_err(|why| unknown_path(dataset, path, &why))?;
        // The path is part of the tag: two files of a dataset are two contents.
        let etag = Digest::of(format!("{}/{path}", dataset.digest).as_bytes()).to_hex();
        Ok(Content {
            pieces: pieces(dataset, at),
            size_bytes: at.size_bytes,
            etag,
        })
    }

    /// All bytes of a dataset that was put as one stream.
    pub fn whole(dataset: &Dataset) -> Self {
        let at = dataset.whole();
        Content {
            pieces: pieces(dataset, at),
            size_bytes: at.size_bytes,
            etag: dataset.digest.to_hex(),
        }
    }

    fn slice(&self, range: &Range<u64>) -> Vec<Piece> {
        let (mut start, mut sliced) = (0, Vec::new());
        for piece in &self.pieces {
            let end = start + piece.size_bytes;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                sliced.push(Piece {
                    blob: piece.blob,
                    offset: piece.offset + from - start,
                    size_bytes: to - from,
                });
            }
            start = end;
        }
        sliced
    }
}

/// A path was asked for in a blob.
pub fn no_folder(digest: &Digest) -> Problem {
    Problem::new(
        ProblemKind::UnknownPath,
        format!("{digest} is a blob, not a folder"),
    )
}

fn unknown_path(dataset: &Dataset, path: &str, why: &NotFollowed) -> Problem {
    let digest = dataset.digest;
    let detail = match why {
        NotFollowed::Missing => format!("no file `{path}` in dataset {digest}"),
        NotFollowed::Outside { link, target } => {
            format!("`{link}` is a link to `{target}`, which leads out of dataset {digest}")
        }
        NotFollowed::Nowhere { link, target, at } => {
            format!("`{link}` is a link to `{target}`, and there is no file `{at}` in dataset {digest}")
        }
        NotFollowed::Loop => {
            format!("`{path}` leads through more than {MAX_LINKS} links in dataset {digest}")
        }
    };
    Problem::new(ProblemKind::UnknownPath, detail)
}

fn pieces(dataset: &Dataset, at: nearfield_store::Location) -> Vec<Piece> {
    let extents = dataset.extents(at, 0..at.size_bytes);
    extents
        .into_iter()
        .map(|extent| Piece {
            blob: dataset.shards[extent.shard as usize],
            offset: extent.offset,
            size_bytes: extent.size_bytes,
        })
        .collect()
}

/// Methods that content takes.
pub const METHODS: &str = "GET, HEAD";

/// What a URL names, and so how long its answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// The same bytes for ever.
    ByDigest,
    /// Other bytes once something is put under the name.
    ByName { put: Option<Modified> },
}

/// Answers GET and HEAD, with ranges and preconditions.
pub async fn respond(
    store: &Store,
    content: &Content,
    named: NamedBy,
    method: &Method,
    headers: &HeaderMap,
) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return reply::not_allowed("content", method, METHODS);
    }
    let validators = Validators {
        tag: EntityTag::strong(content.etag.clone()),
        modified: named.modified(),
    };
    let size_bytes = content.size_bytes;
    let answer = preconditions::evaluate(method, headers, &validators, Some(size_bytes));
    let mut response = headed(&answer, &validators, named, size_bytes);
    let range = match answer {
        Answer::NotModified | Answer::Failed(_) | Answer::Unsatisfiable => return response,
        Answer::Part(range) => {
            let text = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
            insert(response.headers_mut(), header::CONTENT_RANGE, &text);
            range
        }
        Answer::Whole => 0..size_bytes,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if method == Method::GET {
        match stream_pieces(store.clone(), content.slice(&range)).await {
            Ok(body) => *response.body_mut() = body,
            Err(problem) => return reply::problem(&problem),
        }
    }
    response
}

/// An answer but for its content: its status and the headers that all content has, or the refusal.
pub fn headed(answer: &Answer, validators: &Validators, named: NamedBy, size_bytes: u64) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = match answer {
        Answer::Whole => StatusCode::OK,
        Answer::Part(_) => StatusCode::PARTIAL_CONTENT,
        Answer::NotModified => StatusCode::NOT_MODIFIED,
        Answer::Failed(name) => {
            let mut refused = reply::problem(&Problem::new(
                ProblemKind::PreconditionFailed,
                format!("`{name}` does not hold: the content's ETag is {}", validators.tag),
            ));
            insert(refused.headers_mut(), header::ETAG, &validators.tag.to_string());
            return refused;
        }
        Answer::Unsatisfiable => {
            let mut refused = reply::problem(&Problem::new(
                ProblemKind::RangeNotSatisfiable,
                format!("the content has {size_bytes} bytes"),
            ));
            let all = format!("bytes */{size_bytes}");
            insert(refused.headers_mut(), header::CONTENT_RANGE, &all);
            return refused;
        }
    };
    let headers = response.headers_mut();
    insert(headers, header::ETAG, &validators.tag.to_string());
    if let Some(modified) = validators.modified {
        insert(headers, header::LAST_MODIFIED, &modified.to_text());
    }
    for (name, value) in [
        (header::CACHE_CONTROL, named.cache_control()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl NamedBy {
    /// Only whoever has the token may keep it. A name is asked about each time, which costs no content while its ETag holds.
    fn cache_control(self) -> &'static str {
        match self {
            NamedBy::ByDigest => "private, max-age=31536000, immutable",
            NamedBy::ByName { .. } => "private, no-cache",
        }
    }

    pub fn modified(self) -> Option<Modified> {
        match self {
            NamedBy::ByDigest => None,
            NamedBy::ByName { put } => put,
        }
    }
}

/// The pieces, one frame after another, straight from the maps. What fails at once is told; later it resets the stream.
async fn stream_pieces(store: Store, pieces: Vec<Piece>) -> Result<Body, Problem> {
    let mut pieces = pieces.into_iter();
    let Some(first) = pieces.next() else {
        return Ok(body::empty());
    };
    let (data, rest) = read_frame(&store, first).await?;
    let first = stream::once(std::future::ready(Ok(Frame::data(data))));
    let others = stream::try_unfold((store, pieces, rest), |(store, mut pieces, current)| async move {
        let Some(piece) = current.or_else(|| pieces.next()) else {
            return Ok(None);
        };
        let (data, rest) = read_frame(&store, piece).await?;
        Ok(Some((Frame::data(data), (store, pieces, rest))))
    });
    Ok(BreaksLate::new(StreamBody::new(Box::pin(first.chain(others)))).boxed_unsync())
}

/// The first bytes of a piece, and what is left of it.
async fn read_frame(store: &Store, piece: Piece) -> Result<(Bytes, Option<Piece>), Problem> {
    let shard = match store.opened(&piece.blob) {
        Some(shard) => shard,
        None => store.shard(&piece.blob).await.map_err(store_problem)?,
    };
    let now = piece.size_bytes.min(FRAME_BYTES);
    let range = piece.offset..piece.offset + now;
    // A stored shard is mapped; from a file of others it is read and checked.
    let data = match shard {
        Shard::Stored(_) => shard.read(range),
        Shard::InPlace(_) => tokio::task::spawn_blocking(move || shard.read(range))
            .await
            .map_err(|error| {
                Problem::new(
                    ProblemKind::Internal,
                    format!("the task that reads a shard ended early: {error}"),
                )
            })?,
    };
    let rest = Piece {
        offset: piece.offset + now,
        size_bytes: piece.size_bytes - now,
        ..piece
    };
    Ok((
        data.map_err(store_problem)?,
        (rest.size_bytes > 0).then_some(rest),
    ))
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_may_span_pieces() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let content = Content {
            pieces: vec![
                Piece {
                    blob: a,
                    offset: 100,
                    size_bytes: 10,
                },
                Piece {
                    blob: b,
                    offset: 0,
                    size_bytes: 5,
                },
            ],
            size_bytes: 15,
            etag: String::new(),
        };
        assert_eq!(
            content.slice(&(8..12)),
            [
                Piece {
                    blob: a,
                    offset: 108,
                    size_bytes: 2
                },
                Piece {
                    blob: b,
                    offset: 0,
                    size_bytes: 2
                }
            ]
        );
        assert!(content.slice(&(3..3)).is_empty());
    }
}
