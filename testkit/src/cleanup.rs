//! Nothing is left behind: processes die and folders vanish when their value is dropped, and also at Ctrl-C, when
//! nothing is dropped.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Watches for Ctrl-C and SIGTERM on a thread of its own, clears up, and ends this process with 130.
pub fn on_interrupt() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    open().watched = true;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the thread that watches for Ctrl-C")?;
    std::thread::spawn(move || {
        let waited: io::Result<()> = runtime.block_on(async {
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Ok(())
        });
        if waited.is_ok() {
            // Never unlocked: nothing starts while the process ends.
            let open = open();
            open.processes.iter().for_each(|pid| {
                let _ = kill_process(*pid, Signal::KILL);
            });
            open.folders.iter().for_each(|folder| remove(folder));
            std::process::exit(130);
        }
    });
    Ok(())
}

/// A child that is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it. Where [`on_interrupt`] watches it goes into a process group of its own: Ctrl-C reaches us alone, and we end it.
    pub fn start(command: &mut Command) -> Result<Process> {
        let mut open = open();
        if open.watched {
            command.process_group(0);
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        open.processes.push(Pid::from_child(&child));
        Ok(Process(child))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.0), signal).context("sending a signal")
    }

    /// Lets it run on after this process.
    pub fn leave(self) {
        open().processes.retain(|pid| *pid != Pid::from_child(&self.0));
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Off the list first: once waited for, its id may become another's.
        open().processes.retain(|pid| *pid != Pid::from_child(&self.0));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A fresh folder under `target/tmp`, which is on a real disk where `/tmp` may be memory.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Result<Folder> {
        let parent = crate::root().join("target/tmp");
        std::fs::create_dir_all(&parent)?;
        let mut open = open();
        let path = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&parent)
            .with_context(|| format!("making a folder in {}", parent.display()))?
            .keep();
        open.folders.push(path.clone());
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Keeps it after this process.
    pub fn leave(self) -> PathBuf {
        open().folders.retain(|folder| *folder != self.0);
        let path = self.0.clone();
        std::mem::forget(self);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
        open().folders.retain(|folder| *folder != self.0);
    }
}

/// What is there to clear up. Its lock is held over each start, so that Ctrl-C finds all that was started.
struct Open {
    /// Whether Ctrl-C is watched for.
    watched: bool,
    processes: Vec<Pid>,
    folders: Vec<PathBuf>,
}

fn open() -> MutexGuard<'static, Open> {
    static OPEN: Mutex<Open> = Mutex::new(Open {
        watched: false,
        processes: Vec::new(),
        folders: Vec::new(),
    });
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that was just killed may still be writing: what it adds meanwhile goes at the next try.
fn remove(folder: &Path) {
    for _ in 0..10 {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            _ => return,
        }
    }
    eprintln!("could not remove {}", folder.display());
}
