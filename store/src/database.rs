//! How each of our databases is opened.

use std::path::Path;

use redb::Database;

use crate::error::StoreError;

/// What a database may hold in memory of its file. redb's own 1 GiB would fill up as rows are written, and the kernel caches
/// the file anyway.
const CACHE_BYTES: usize = 32 << 20;

/// Opens the database at `path`, empty if it is not there. One process has it at a time.
pub(crate) fn open(path: &Path) -> Result<Database, StoreError> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    database.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        other => StoreError::State(Box::new(other.into())),
    })
}
