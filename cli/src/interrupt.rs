//! Ctrl-C: what is half written goes, and the process ends with 130.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::failure::Exit;

/// Files and folders to remove if the user interrupts. A mutex, since the watching thread reads it.
static PARTIAL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// What the user is told as they interrupt: what goes on without them. A mutex, since the watching thread reads it.
static FAREWELL: Mutex<Option<String>> = Mutex::new(None);

static LEFT: AtomicBool = AtomicBool::new(false);

/// Starts watching. Not for `up`, which shuts a node down in order instead.
pub fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("watching for Ctrl-C")?;
    std::thread::spawn(move || {
        while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            if LEFT.load(Ordering::Relaxed) {
                continue;
            }
            // Held until the end, so that no other thread finishes or begins a file meanwhile.
            let partial = paths();
            for path in partial.iter() {
                let _ = if path.is_dir() {
                    std::fs::remove_dir_all(path)
                } else {
                    std::fs::remove_file(path)
                };
            }
            let farewell = FAREWELL.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(text) = farewell.as_ref() {
                eprintln!("\n{text}");
            }
            std::process::exit(Exit::Interrupted as i32);
        }
    });
    Ok(())
}

/// While this lives, Ctrl-C is for the program that was started on this terminal, such as a debugger.
pub struct Left(());

impl Left {
    pub fn to_child() -> Self {
        LEFT.store(true, Ordering::Relaxed);
        Left(())
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        LEFT.store(false, Ordering::Relaxed);
    }
}

/// Says something to whoever interrupts while this lives.
pub struct Farewell(());

impl Farewell {
    pub fn new(text: String) -> Self {
        *FAREWELL.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        Farewell(())
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        *FAREWELL.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Something half written, removed by an interrupt while this lives.
pub struct Partial(PathBuf);

impl Partial {
    pub fn new(path: &Path) -> Self {
        paths().push(path.to_owned());
        Partial(path.to_owned())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        paths().retain(|path| *path != self.0);
    }
}

fn paths() -> MutexGuard<'static, Vec<PathBuf>> {
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner)
}
