//! Bytes by digest: `/b3/{hex}` and `/b3/{dataset hex}/{path}`, with ranges.
//!
//! What a digest names never changes, so the digest is the ETag and caches may keep it for ever.
//! The bytes are strangers' data: browsers are told not to guess their type nor to run them.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::path_index::{MAX_LINKS, NotFollowed};
use nearfield_store::{Dataset, Shard, Store};

use crate::body::{self, Body};
use crate::reply::{self, store_problem};

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
    pub fn blob(store: &Store, digest: Digest) -> Result<Self, Problem> {
        let size_bytes = store.size_of(&digest).map_err(store_problem)?;
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

/// Answers GET and HEAD, with `Range` and `If-None-Match`.
pub async fn respond(
    store: &Store,
    content: &Content,
    method: &Method,
    headers: &HeaderMap,
) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return reply::problem(&Problem::new(
            ProblemKind::MethodNotAllowed,
            "content takes GET and HEAD",
        ));
    }
    let etag = format!("\"{}\"", content.etag);
    let matches = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag);
    let mut response = Response::new(body::empty());
    if matches {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        set_headers(response.headers_mut(), &etag);
        return response;
    }
    let range = match parse_range(headers, content.size_bytes) {
        Asked::All => 0..content.size_bytes,
        Asked::Part(range) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {}-{}/{}", range.start, range.end - 1, content.size_bytes);
            insert(response.headers_mut(), header::CONTENT_RANGE, &text);
            range
        }
        Asked::Outside => {
            let mut response = reply::problem(&Problem::new(
                ProblemKind::RangeNotSatisfiable,
                format!("the content has {} bytes", content.size_bytes),
            ));
            insert(
                response.headers_mut(),
                header::CONTENT_RANGE,
                &format!("bytes */{}", content.size_bytes),
            );
            return response;
        }
    };
    set_headers(response.headers_mut(), &etag);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if method == Method::GET {
        match stream_pieces(store.clone(), content.slice(&range)).await {
            Ok(body) => *response.body_mut() = body,
            Err(problem) => return reply::problem(&problem),
        }
    }
    response
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
    Ok(StreamBody::new(first.chain(others)).boxed_unsync())
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
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("a read: {error}")))?,
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

fn set_headers(headers: &mut HeaderMap, etag: &str) {
    insert(headers, header::ETAG, etag);
    for (name, value) in [
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part(Range<u64>),
    Outside,
}

/// One byte range. Several, other units and nonsense mean all of it, as RFC 9110 §14.2 allows.
fn parse_range(headers: &HeaderMap, size: u64) -> Asked {
    let Some(spec) = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("bytes="))
        .and_then(|value| value.split_once('-'))
    else {
        return Asked::All;
    };
    let number = |text: &str| text.trim().parse::<u64>();
    match (spec.0.trim(), spec.1.trim()) {
        ("", last) => match number(last) {
            Ok(0) => Asked::Outside,
            Ok(_) if size == 0 => Asked::Outside,
            Ok(last) => Asked::Part(size.saturating_sub(last)..size),
            Err(_) => Asked::All,
        },
        (first, last) => match (number(first), last.is_empty(), number(last)) {
            (Ok(first), true, _) if first < size => Asked::Part(first..size),
            (Ok(first), false, Ok(last)) if first <= last && first < size => {
                Asked::Part(first..last.saturating_add(1).min(size))
            }
            (Ok(first), false, Ok(last)) if first > last => Asked::All,
            (Ok(_), true, _) | (Ok(_), false, Ok(_)) => Asked::Outside,
            _ => Asked::All,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(range: &str, size: u64) -> Asked {
        let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(range).unwrap())]);
        parse_range(&headers, size)
    }

    #[test]
    fn ranges() {
        assert_eq!(parse_range(&HeaderMap::new(), 10), Asked::All);
        assert_eq!(asked("bytes=0-0", 10), Asked::Part(0..1));
        assert_eq!(asked("bytes=3-", 10), Asked::Part(3..10));
        assert_eq!(asked("bytes=-3", 10), Asked::Part(7..10));
        assert_eq!(asked("bytes=-30", 10), Asked::Part(0..10));
        assert_eq!(asked("bytes=3-99", 10), Asked::Part(3..10));
        assert_eq!(asked("bytes=10-", 10), Asked::Outside);
        assert_eq!(asked("bytes=-0", 10), Asked::Outside);
        assert_eq!(asked("bytes=0-0", 0), Asked::Outside);
        for all in [
            "bytes=5-3",
            "bytes=x-y",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=0-18446744073709551616",
        ] {
            assert_eq!(asked(all, 10), Asked::All, "{all}");
        }
        assert_eq!(asked("bytes=0-18446744073709551615", 10), Asked::Part(0..10));
    }

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
