//! How each of our databases is opened.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, DatabaseError};

use crate::error::StoreError;

/// What a database may hold in memory of its file. redb's own 1 GiB would fill up as rows are written, and the kernel caches
/// the file anyway.
const CACHE_BYTES: usize = 32 << 20;

/// Opens the database at `path`, empty if it is not there. One process has it at a time.
pub(crate) fn open(path: &Path) -> Result<Database, StoreError> {
    let create = || Database::builder().set_cache_size(CACHE_BYTES).create(path);
    let broken = |cause: String| StoreError::Broken {
        path: path.to_owned(),
        cause,
    };
    // redb asserts some of what a whole file has.
    match catch_unwind(AssertUnwindSafe(create)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StoreError::InUse(path.to_owned())),
        Ok(Err(error)) => Err(broken(error.to_string())),
        Err(_) => Err(broken("it is not whole".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.redb");
        drop(open(&path).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let half = whole[..whole.len() / 2].to_vec();
        for bytes in [vec![0; whole.len()], b"no database".to_vec(), half] {
            std::fs::write(&path, &bytes).unwrap();
            let error = open(&path).expect_err("it is no database").to_string();
            assert!(error.contains("some.redb"), "{error}");
        }
        std::fs::write(&path, whole).unwrap();
        assert!(open(&path).is_ok());
    }
}
