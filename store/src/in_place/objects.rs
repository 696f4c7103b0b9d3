//! Objects on servers of others, read in place: by ranges, each checked against the shard's groups before it is given away.
//!
//! This crate knows no network. Whoever opens the store gives it [`Objects`] that do.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use nearfield_protocol::Digest;

use super::groups::{GROUP_BYTES, Groups};

/// What is asked of a server at once: less costs round trips, more is read for nothing. Whole groups.
const WINDOW_BYTES: u64 = 4 << 20;
const _: () = assert!(WINDOW_BYTES.is_multiple_of(GROUP_BYTES as u64));
/// A call cannot be ended while it waits for a window, so that must not be long beside its own time limit.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(20);
/// Beside its bytes, roughly.
const WINDOW_EXTRA_BYTES: u32 = 256;
/// Bytes held of objects that were read lately: a few windows for each reader.
const MAX_WINDOWS_BYTES: u64 = 128 << 20;

/// The objects that a store may read in place.
pub trait Objects: Send + Sync {
    /// What `url` names, if this node may read it.
    fn find(&self, url: &str) -> Result<FoundObjects, ObjectError>;

    /// Exactly the bytes `range` of what is at `url` now; with an ETag, only of what had that. Without a limit it takes
    /// what a server may take that answers in the end.
    fn read(
        &self,
        url: &str,
        etag: Option<&str>,
        range: Range<u64>,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, ObjectError>;

    /// An object from `start` to its end, read ahead. Its errors hold an [`ObjectError`].
    fn reader(&self, object: &Object, start: u64) -> Result<Box<dyn Read>, ObjectError>;
}

/// One state of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub url: String,
    pub size_bytes: u64,
    /// A strong one: it changes with any byte.
    pub etag: String,
}

/// What a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundObjects {
    One(Object),
    /// Paths below it in the order of a path index; those without an object are empty folders.
    Folder(Vec<(String, Option<Object>)>),
}

/// Why an object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It is gone, or another than it was.
    #[error("{0}")]
    Changed(String),
    /// Its server does not answer, or not soon enough.
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Failed(String),
}

impl ObjectError {
    /// The one that a reader's error holds.
    pub fn of(error: &io::Error) -> Option<&ObjectError> {
        error.get_ref()?.downcast_ref()
    }
}

/// The server or bucket of an object.
pub fn site(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].find('/').map_or(url, |end| &url[..start + end])
}

/// Whether a place or what is to be put is an object: paths begin with a slash.
pub fn is_url(place: &str) -> bool {
    !place.starts_with('/') && place.contains("://")
}

/// The objects of a store and what was read of them lately.
pub struct Reader {
    objects: Arc<dyn Objects>,
    /// Checked. By shard and number of the window in it.
    windows: moka::sync::Cache<(Digest, u64), Bytes>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Reader {
            objects,
            windows: moka::sync::Cache::builder()
                .max_capacity(MAX_WINDOWS_BYTES)
                // Whoever reads on wants the next window, however often the last ones were asked for.
                .eviction_policy(EvictionPolicy::lru())
                .weigher(|_, bytes: &Bytes| bytes.len() as u32 + WINDOW_EXTRA_BYTES)
                .build(),
        }
    }

    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// The bytes `range` of a shard, all of whose bytes lie at `url` from `offset` on.
    pub fn read(
        &self,
        (digest, groups): (&Digest, &Groups),
        (url, offset): (&str, u64),
        range: &Range<u64>,
    ) -> Result<Bytes, ObjectError> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / WINDOW_BYTES;
            let start = number * WINDOW_BYTES;
            let end = groups.size_bytes().min(start + WINDOW_BYTES);
            let fetch = || {
                let range = offset + start..offset + end;
                let bytes = self.objects.read(url, None, range, Some(WINDOW_TIMEOUT))?;
                match groups.check(start, &bytes) && bytes.len() as u64 == end - start {
                    true => Ok(bytes.into()),
                    false => Err(ObjectError::Changed(format!("{url} holds other bytes now"))),
                }
            };
            let key = (*digest, number);
            let window: Bytes = match self.windows.get(&key) {
                Some(window) => window,
                // One fetches and all others wait for it: none of them may keep a runtime's thread meanwhile.
                None => tokio::task::block_in_place(|| self.windows.try_get_with(key, fetch))
                    .map_err(|error: Arc<ObjectError>| (*error).clone())?,
            };
            let until = range.end.min(end);
            pieces.push(window.slice((at - start) as usize..(until - start) as usize));
            at = until;
        }
        Ok(match pieces.len() {
            1 => pieces.swap_remove(0),
            _ => pieces.concat().into(),
        })
    }
}
