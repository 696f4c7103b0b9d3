//! What failed imports leave behind.
//!
//! The underlying store gives an import's files names of its own and keeps them when the import
//! fails. On a full disk that would take the last of the room until the next start, so they are
//! removed as soon as no import is under way that one could belong to.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{RwLock, RwLockReadGuard};

#[derive(Default)]
pub(super) struct Leftovers {
    /// Imports hold the read side; removing takes the write side, and only if it is free.
    importing: RwLock<()>,
    /// An import has failed since files were last removed.
    some: AtomicBool,
}

impl Leftovers {
    /// To be held while an import is under way.
    pub(super) async fn importing(&self) -> RwLockReadGuard<'_, ()> {
        self.importing.read().await
    }

    /// To be called after each import, once it no longer counts as under way.
    pub(super) fn after_import(&self, failed: bool, temp_dir: &Path) {
        if failed {
            self.some.store(true, Ordering::Relaxed);
        }
        if !self.some.load(Ordering::Relaxed) {
            return;
        }
        let Ok(_alone) = self.importing.try_write() else {
            return;
        };
        self.some.store(false, Ordering::Relaxed);
        for entry in fs::read_dir(temp_dir).into_iter().flatten().flatten() {
            // Folders in it are not the underlying store's.
            if entry.file_type().is_ok_and(|kind| kind.is_file())
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "removing what a failed import left");
            }
        }
    }
}
