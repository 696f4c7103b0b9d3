//! Objects on servers of others, read in place: by ranges, each checked against the shard's groups before it is given away.
//!
//! This crate knows no network. Whoever opens the store gives it [`Objects`] that do.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::Digest;

use super::groups::{GROUP_BYTES, Groups};

/// What is asked of a server at once: less costs round trips, more is read for nothing. Whole groups.
const WINDOW_BYTES: u64 = 4 << 20;
const _: () = assert!(WINDOW_BYTES.is_multiple_of(GROUP_BYTES as u64));
/// Bytes held of objects that were read lately: a few windows for each reader.
const MAX_WINDOWS_BYTES: u64 = 128 << 20;

/// The objects that a store may read in place.
pub trait Objects: Send + Sync {
    /// What `url` names, if this node may read it.
    fn find(&self, url: &str) -> Result<FoundObjects, ObjectError>;

    /// Exactly the bytes `range` of what is at `url` now; with an ETag, only of what had that.
    fn read(&self, url: &str, etag: Option<&str>, range: Range<u64>) -> Result<Vec<u8>, ObjectError>;

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
    #[error("{0}")]
    Failed(String),
}

impl ObjectError {
    /// The one that a reader's error holds.
    pub fn of(error: &io::Error) -> Option<&ObjectError> {
        error.get_ref()?.downcast_ref()
    }
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
                .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
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
            let window = self.windows.try_get_with((*digest, number), || {
                let bytes = self.objects.read(url, None, offset + start..offset + end)?;
                match groups.check(start, &bytes) && bytes.len() as u64 == end - start {
                    true => Ok(bytes.into()),
                    false => Err(ObjectError::Changed(format!("{url} holds other bytes now"))),
                }
            });
            let window: Bytes = window.map_err(|error: Arc<ObjectError>| (*error).clone())?;
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
