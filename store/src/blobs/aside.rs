//! Bytes that are on their way to becoming a blob and too many to be held in memory meanwhile.

use std::io::{self, Write};

use bytes::Bytes;
use memmap2::Mmap;

use super::Store;
use crate::error::StoreError;

impl Store {
    /// A copy of `bytes` in a file without a name, mapped: the kernel may take its pages back. It is gone with the
    /// last use of what is returned. Neither synced nor verified. Writes to the disk's cache before it returns.
    pub fn set_aside(&self, bytes: &[u8]) -> Result<Bytes, StoreError> {
        // A full disk would end the databases.
        let _room = self.room(bytes.len() as u64)?;
        let file = tempfile::tempfile_in(self.spill_dir()).and_then(|mut file| {
            file.write_all(bytes)?;
            Ok(file)
        });
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::DiskFull,
            _ => error.into(),
        })?;
        if bytes.is_empty() {
            return Ok(Bytes::new());
        }
        // SAFETY: a map is undefined behaviour if the file changes under it. This one has no name, so nobody can open
        // it, and its only handle is dropped here, after the last write.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Bytes::from_owner(map))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Store, StoreOptions};

    #[tokio::test]
    async fn what_is_set_aside_can_become_a_blob() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        for len in [0, 1, 5_000_000] {
            let bytes: Vec<u8> = (0..len).map(|n: u32| n as u8).collect();
            let aside = store.set_aside(&bytes).unwrap();
            assert!(aside == bytes);
            let digest = store.add_sealed(aside).await.unwrap();
            assert!(store.blob(&digest).await.unwrap()[..] == bytes);
        }
        let left = std::fs::read_dir(store.spill_dir()).unwrap().count();
        assert_eq!(left, 0, "nothing has a name");
        store.shutdown().await;
    }
}
