use std::io;
use std::path::PathBuf;

use nearfield_protocol::meta::MetaError;
use nearfield_protocol::{Digest, ProblemKind};

use crate::cut::CutError;
use crate::in_place::{ObjectError, SourceError};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is in use by another nearfield process: stop it, or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    #[error("{} has store format {found}; this build reads format {known}: use the nearfield that wrote it, or the newest", path.display())]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error(
        "{} is missing or empty, though the data folder holds data: restore the whole folder from a backup, or move {} away to begin \
         without that data", path.display(), blobs.display()
    )]
    Lost { path: PathBuf, blobs: PathBuf },
    #[error("no blob {0} in this store")]
    Missing(Digest),
    #[error("blob {} is not here, and no other node gives it: {cause}", digest.short())]
    Elsewhere { digest: Digest, cause: String },
    #[error("blob {0} no longer matches its digest; it is quarantined: put the data again to repair it")]
    Corrupt(Digest),
    #[error("{digest} is not a dataset: {reason}")]
    NotADataset { digest: Digest, reason: String },
    #[error(
        "the store is full: {used_bytes} bytes are used of {max_bytes}; remove datasets or raise --max-bytes"
    )]
    Full { used_bytes: u64, max_bytes: u64 },
    #[error("the disk is nearly full: free space, or move the data folder to a larger disk")]
    DiskFull,
    #[error(
        "the data folder takes no file of this size: raise the limit on file sizes (`ulimit -f`), or move the \
         data folder to a file system that takes larger ones"
    )]
    FileTooLarge,
    #[error(
        "a write to the {0} database failed, so it takes no more: free disk space if there is none, then \
         restart the node; its log has the cause"
    )]
    Stopped(&'static str),
    #[error("{path} is no longer what was put (shard {}): put it again to go on with what it holds now", digest.short())]
    SourceChanged { path: String, digest: Digest },
    #[error(transparent)]
    Source(#[from] crate::in_place::SourceError),
    #[error("the dataset cannot grow by this: {0}")]
    Unlike(String),
    #[error(transparent)]
    Cut(CutError),
    #[error("reading or writing blobs: {0}")]
    Io(#[source] io::Error),
    #[error("the blob store's own database: {0}")]
    Blobs(String),
    #[error("the state database: {0}")]
    State(#[source] Box<redb::Error>),
    #[error("{} cannot be opened as a database: {cause}; restore the whole data folder from a backup", path.display())]
    Broken { path: PathBuf, cause: String },
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if let Some(object) = ObjectError::of(&error) {
            return StoreError::Source(object.clone().into());
        }
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull,
            io::ErrorKind::FileTooLarge => StoreError::FileTooLarge,
            _ => StoreError::Io(error),
        }
    }
}

impl From<CutError> for StoreError {
    fn from(error: CutError) -> Self {
        match error {
            CutError::Read { error, .. } if ObjectError::of(&error).is_some() => error.into(),
            CutError::Io(error) | CutError::Emit(error) => error.into(),
            other => StoreError::Cut(other),
        }
    }
}

impl StoreError {
    /// What it is to whoever asked for the data.
    pub fn kind(&self) -> ProblemKind {
        match self {
            StoreError::Missing(_) => ProblemKind::UnknownBlob,
            StoreError::NotADataset { .. } => ProblemKind::UnknownDataset,
            StoreError::Corrupt(_) => ProblemKind::Corrupt,
            StoreError::SourceChanged { .. } => ProblemKind::SourceChanged,
            StoreError::Elsewhere { .. }
            | StoreError::Source(SourceError::Object(ObjectError::Unreachable(_))) => {
                ProblemKind::SourceUnreachable
            }
            StoreError::Source(_) => ProblemKind::BadRequest,
            StoreError::Full { .. } | StoreError::DiskFull | StoreError::FileTooLarge => {
                ProblemKind::StoreFull
            }
            StoreError::Unlike(_) => ProblemKind::Conflict,
            StoreError::Cut(_) => ProblemKind::BadInput,
            _ => ProblemKind::Internal,
        }
    }

    pub(crate) fn not_a_dataset(digest: Digest, error: MetaError) -> Self {
        StoreError::NotADataset {
            digest,
            reason: error.to_string(),
        }
    }
}

/// Errors of redb come in one type per operation; a caller can act on none of them differently.
macro_rules! from_redb {
    ($($type:ty),*) => {$(
        impl From<$type> for StoreError {
            fn from(error: $type) -> Self {
                StoreError::State(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);
