//! Reading back: blobs are hashed once per process, then mapped.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;
use nearfield_protocol::Digest;

use super::{Inner, Store, blocking_store};
use crate::elsewhere::Change;
use crate::error::StoreError;
use crate::state::Standing;

/// Blobs at least this large are hashed on all cores: below it threads cost more than they save.
const PARALLEL_HASH_BYTES: usize = 512 << 10;

/// The verified bytes of one blob. Derefs to `[u8]`.
pub struct Blob {
    digest: Digest,
    bytes: BlobBytes,
}

/// Where the bytes of a [`Blob`] are.
enum BlobBytes {
    /// The empty blob, which cannot be mapped.
    Empty,
    /// A file of the store, which is there as long as nobody sweeps it.
    Mapped { path: PathBuf, map: Mmap },
    /// A blob that may not rest on this node.
    InPassing(Bytes),
}

impl Blob {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// A blob that stays in memory. Its bytes were checked against `digest`.
    pub(crate) fn in_passing(digest: Digest, bytes: Bytes) -> Self {
        Blob {
            digest,
            bytes: BlobBytes::InPassing(bytes),
        }
    }

    /// Its file, opened for reading; `None` if it has none, or once it was swept.
    pub fn file(&self) -> io::Result<Option<File>> {
        let BlobBytes::Mapped { path, .. } = &self.bytes else {
            return Ok(None);
        };
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes `range`, sharing the map.
    pub fn slice(self: &Arc<Self>, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from_owner(Shared(self.clone())).slice(range)
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            BlobBytes::Empty => &[],
            BlobBytes::Mapped { map, .. } => map,
            BlobBytes::InPassing(bytes) => bytes,
        }
    }
}

struct Shared(Arc<Blob>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Store {
    /// The bytes of a sealed blob that is here, verified once per process, then mapped.
    pub async fn stored(&self, digest: &Digest) -> Result<Arc<Blob>, StoreError> {
        if let Some(blob) = self.inner.maps.get(digest) {
            return Ok(blob);
        }
        let (store, digest) = (self.clone(), *digest);
        self.inner.outside.touch(&digest);
        blocking_store(move || store.map(digest)).await
    }

    /// The map if it is open already: never waits, never touches the disk.
    pub fn mapped(&self, digest: &Digest) -> Option<Arc<Blob>> {
        self.inner.maps.get(digest)
    }

    /// Hashes one blob of the scrubber's round again and returns where to go on, or `None` at the
    /// round's end. A blob that fails is quarantined.
    pub async fn scrub_next(&self, after: Digest) -> Result<Option<Digest>, StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            let Some(digest) = inner.state.next_live(&after)? else {
                return Ok(None);
            };
            match inner.read_verified(digest) {
                Err(StoreError::Corrupt(digest)) => inner.quarantine(digest)?,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            Ok(Some(digest))
        })
        .await
    }

    fn map(&self, digest: Digest) -> Result<Arc<Blob>, StoreError> {
        let inner = &self.inner;
        match inner.state.get(&digest)? {
            None => return Err(StoreError::Missing(digest)),
            Some(sealed) if sealed.standing == Standing::Quarantined => {
                return Err(StoreError::Corrupt(digest));
            }
            Some(_) => {}
        }
        let known = inner.verified.lock().contains(&digest);
        let blob = if known {
            inner.read(digest)
        } else {
            inner.read_verified(digest)
        };
        let blob = match blob {
            Ok(blob) => Arc::new(blob),
            Err(StoreError::Corrupt(digest)) => {
                inner.quarantine(digest)?;
                return Err(StoreError::Corrupt(digest));
            }
            Err(error) => return Err(error),
        };
        inner.verified.lock().insert(digest);
        inner.maps.insert(digest, blob.clone());
        Ok(blob)
    }
}

impl Inner {
    fn read(&self, digest: Digest) -> Result<Blob, StoreError> {
        if digest == Digest::EMPTY {
            return Ok(Blob {
                digest,
                bytes: BlobBytes::Empty,
            });
        }
        let path = self.data_file(digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Corrupt(digest),
            _ => error.into(),
        })?;
        // SAFETY: a map is undefined behaviour if the file changes under it. Files in the data folder
        // are written once under a temporary name and renamed; only this process opens them (redb's
        // lock), and nothing in it writes to or truncates one. A sweep unlinks, which leaves maps whole.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Blob {
            digest,
            bytes: BlobBytes::Mapped { path, map },
        })
    }

    fn read_verified(&self, digest: Digest) -> Result<Blob, StoreError> {
        let blob = self.read(digest)?;
        let mut hasher = blake3::Hasher::new();
        if blob.len() >= PARALLEL_HASH_BYTES {
            hasher.update_rayon(&blob);
        } else {
            hasher.update(&blob);
        }
        if hasher.finalize() == blake3::Hash::from_bytes(*digest.as_bytes()) {
            Ok(blob)
        } else {
            Err(StoreError::Corrupt(digest))
        }
    }

    fn quarantine(&self, digest: Digest) -> Result<(), StoreError> {
        tracing::error!(%digest, "a blob no longer matches its digest; it is quarantined");
        self.maps.invalidate(&digest);
        self.datasets.invalidate(&digest);
        self.verified.lock().remove(&digest);
        self.state.set_standing(&[digest], Standing::Quarantined)?;
        self.outside.tell(Change::Removed(Arc::new([digest])));
        Ok(())
    }
}
