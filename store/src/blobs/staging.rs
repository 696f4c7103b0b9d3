//! From bytes to a sealed blob: room, import, fsync, row.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use iroh_blobs::api::blobs::{AddPathOptions, ImportMode};
use iroh_blobs::api::{self, RequestError, TempTag};
use iroh_blobs::{BlobFormat, Hash};
use nearfield_protocol::Digest;

use super::sweep::SweepGuard;
use super::{Inner, Store, blocking, blocking_store};
use crate::elsewhere::Change;
use crate::error::StoreError;
use crate::state::Standing;

/// Free bytes that the disk must keep: a database that meets a full disk does not recover by itself.
pub(super) const FREE_FLOOR_BYTES: u64 = 64 << 20;

/// A blob that is imported but not yet durable. Dropping it without sealing lets it go.
pub struct Staged {
    pub digest: Digest,
    pub size_bytes: u64,
    tag: TempTag,
    _held: SweepGuard,
    _room: Room,
}

/// Bytes of the quota, taken until the blob is sealed or dropped.
pub(super) struct Room {
    staged_bytes: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.staged_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How much a seal added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SealReport {
    pub new_blobs: u64,
    pub new_bytes: u64,
}

impl Store {
    /// Imports `bytes`. Not durable before [`Store::seal`].
    pub async fn add(&self, bytes: Bytes) -> Result<Staged, StoreError> {
        let size_bytes = bytes.len() as u64;
        let room = self.room(size_bytes)?;
        self.add_in(bytes, room).await
    }

    async fn add_in(&self, bytes: Bytes, room: Room) -> Result<Staged, StoreError> {
        let size_bytes = bytes.len() as u64;
        let import = async { self.inner.fs.blobs().add_bytes(bytes).temp_tag().await };
        let tag = self.finish_import(import).await?;
        self.staged(tag, size_bytes, room).await
    }

    /// Imports a copy of the file at `path`. Not durable before [`Store::seal`].
    pub async fn add_file(&self, path: &Path, size_bytes: u64) -> Result<Staged, StoreError> {
        let room = self.room(size_bytes)?;
        let options = AddPathOptions {
            path: path.to_owned(),
            format: BlobFormat::Raw,
            mode: ImportMode::Copy,
        };
        let import = async { self.inner.fs.blobs().add_path_with_opts(options).temp_tag().await };
        let tag = self.finish_import(import).await?;
        self.staged(tag, size_bytes, room).await
    }

    /// Makes `staged` durable, all or none. When this returns `Ok` they survive a power cut.
    pub async fn seal(&self, staged: Vec<Staged>) -> Result<SealReport, StoreError> {
        let digests: Arc<[Digest]> = staged.iter().map(|blob| blob.digest).collect();
        let report = self.seal_as(staged, Standing::Live).await?;
        self.inner.outside.tell(Change::Added(digests));
        Ok(report)
    }

    pub(crate) async fn seal_as(
        &self,
        staged: Vec<Staged>,
        standing: Standing,
    ) -> Result<SealReport, StoreError> {
        let data_path = self.inner.paths.data_path.clone();
        blocking(move || File::open(data_path)?.sync_all()).await?;
        self.sync_db().await?;
        let inner = self.inner.clone();
        blocking_store(move || {
            let rows: Vec<_> = staged.iter().map(|blob| (blob.digest, blob.size_bytes)).collect();
            let (new_blobs, new_bytes) = inner.state.seal(&rows, standing)?;
            inner.sweeper.keep(staged.into_iter().map(|blob| blob.tag));
            Ok(SealReport { new_blobs, new_bytes })
        })
        .await
    }

    /// Adds and seals one blob.
    pub async fn add_sealed(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let staged = self.add(bytes).await?;
        let digest = staged.digest;
        self.seal(vec![staged]).await?;
        Ok(digest)
    }

    /// Adds and seals a record's value. Records are small and among them are removals, so a full
    /// quota does not stop them.
    pub async fn add_record(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let room = Room {
            staged_bytes: self.inner.staged_bytes.clone(),
            bytes: 0,
        };
        let staged = self.add_in(bytes, room).await?;
        let digest = staged.digest;
        // Each node has all records: nobody needs to be told.
        self.seal_as(vec![staged], Standing::Live).await?;
        Ok(digest)
    }

    /// Waits until the blob store's own database is on disk.
    async fn sync_db(&self) -> Result<(), StoreError> {
        if let Err(error) = self.inner.fs.sync_db().await {
            tracing::error!(%error, "the blob database takes no more writes");
            let _ = self.inner.stopped.set(StoreError::Stopped("blob"));
            return Err(StoreError::Stopped("blob"));
        }
        Ok(())
    }

    /// Sees one import to its end. A failed one tells nothing of the database, so that is asked too.
    async fn finish_import(
        &self,
        import: impl Future<Output = Result<TempTag, RequestError>>,
    ) -> Result<TempTag, StoreError> {
        let (inner, under_way) = (&self.inner, self.inner.leftovers.importing().await);
        let tag = import.await;
        drop(under_way);
        inner.leftovers.after_import(tag.is_err(), &inner.paths.temp_path);
        match tag {
            Ok(tag) => Ok(tag),
            Err(error) => {
                self.sync_db().await?;
                Err(import_error(error))
            }
        }
    }

    async fn staged(&self, tag: TempTag, size_bytes: u64, room: Room) -> Result<Staged, StoreError> {
        let digest = Digest::from_bytes(*tag.hash().as_bytes());
        let held = SweepGuard::new(&self.inner.sweeper, digest);
        let live = self
            .inner
            .state
            .get(&digest)?
            .is_some_and(|sealed| sealed.standing == Standing::Live);
        // The import renamed fresh files over whatever was there, so they need an fsync even if the
        // same bytes were sealed before: the old inode's durability says nothing of the new one.
        let inner = self.inner.clone();
        blocking(move || inner.sync_files(digest, size_bytes)).await?;
        if !live {
            self.inner.verified.lock().remove(&digest);
        }
        Ok(Staged {
            digest,
            size_bytes,
            tag,
            _held: held,
            _room: room,
        })
    }

    /// Takes room for `bytes` more, from the quota and on the disk.
    pub(super) fn room(&self, bytes: u64) -> Result<Room, StoreError> {
        if self.inner.stopped.get().is_some() {
            return Err(StoreError::Stopped("blob"));
        }
        let disk = rustix::fs::statvfs(&self.inner.paths.data_path).map_err(io::Error::from)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes.saturating_add(FREE_FLOOR_BYTES) {
            return Err(StoreError::DiskFull);
        }
        let staged = self.inner.staged_bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = Room {
            staged_bytes: self.inner.staged_bytes.clone(),
            bytes,
        };
        if let Some(max_bytes) = self.inner.options.max_bytes {
            // What the next sweep takes away is as good as free.
            // So is what is only cached, which has a limit of its own.
            let used_bytes = self.lasting_bytes()? + staged;
            if used_bytes.saturating_add(bytes) > max_bytes {
                return Err(StoreError::Full {
                    used_bytes,
                    max_bytes,
                });
            }
        }
        Ok(room)
    }
}

impl Inner {
    /// Fsyncs data and outboard and checks that they are there: a rename that failed is only logged
    /// by the underlying store.
    fn sync_files(&self, digest: Digest, size_bytes: u64) -> io::Result<()> {
        if digest == Digest::EMPTY {
            return Ok(());
        }
        let file = File::open(self.data_file(digest))?;
        if file.metadata()?.len() != size_bytes {
            return Err(io::Error::other(format!(
                "{digest} has another size than was imported"
            )));
        }
        file.sync_all()?;
        match File::open(self.paths.outboard_path(&Hash::from_bytes(*digest.as_bytes()))) {
            Ok(outboard) => outboard.sync_all(),
            // Blobs of up to one chunk group have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn import_error(error: RequestError) -> StoreError {
    match error {
        RequestError::Inner {
            source: api::Error::Io(error),
            ..
        } => error.into(),
        other => StoreError::Blobs(other.to_string()),
    }
}
