//! The worker's process: started, asked, killed.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::wire::frame::{self, Window};
use crate::wire::{Choice, Description, Message, Reply, Request};
use crate::{GpuError, limits};

/// How the worker's process is started.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// What of the node's environment a driver may need to be found.
const KEPT_ENVIRONMENT: [&str; 5] = [
    "LD_LIBRARY_PATH",
    "VK_DRIVER_FILES",
    "VK_ADD_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "XDG_DATA_DIRS",
];
/// Drivers keep no compiled shaders on disk, where others could change them, and the loader adds no layers.
const SET_ENVIRONMENT: [(&str, &str); 4] = [
    ("MESA_SHADER_CACHE_DISABLE", "true"),
    ("__GL_SHADER_DISK_CACHE", "0"),
    ("VK_LOADER_LAYERS_DISABLE", "~all~"),
    ("XDG_RUNTIME_DIR", "/nonexistent"),
];

/// A worker that has opened its adapter.
pub(super) struct Worker {
    child: Child,
    socket: UnixStream,
    pub window: Window,
    pub description: Description,
}

/// Why a worker gave no answer.
pub(super) enum Lost {
    /// It took too long.
    Late,
    /// It has ended, or what it said was no answer.
    Ended(io::Error),
}

impl Worker {
    pub fn start(command: &WorkerCommand, choice: &Choice) -> Result<Self, GpuError> {
        let failed = |error: io::Error| GpuError::Unavailable(format!("starting the GPU's worker: {error}"));
        let (socket, other) = UnixStream::pair().map_err(failed)?;
        let mut starting = Command::new(&command.program);
        starting.args(&command.arguments).env_clear();
        for name in KEPT_ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                starting.env(name, value);
            }
        }
        starting
            .envs(SET_ENVIRONMENT)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null());
        let child = starting.spawn().map_err(failed)?;
        // The command holds the other end, which must end with the worker.
        drop(starting);
        let mut worker = Worker {
            child,
            socket,
            window: Window::new().map_err(failed)?,
            description: Description::default(),
        };
        let window = worker.window.as_fd().try_clone_to_owned().map_err(failed)?;
        let open = Message {
            drop: Vec::new(),
            request: Request::Open(choice.clone()),
        };
        match worker.ask(&open, Some(window.as_fd()), limits::START_TIME) {
            Ok(Reply::Opened(description)) => {
                worker.description = *description;
                Ok(worker)
            }
            Ok(Reply::Failed(error)) => Err(error),
            Ok(_) => Err(failed(io::Error::other("it answered something else"))),
            Err(Lost::Late) => Err(failed(io::Error::other(format!(
                "its driver was not ready after {} s",
                limits::START_TIME.as_secs()
            )))),
            Err(Lost::Ended(error)) => Err(failed(error)),
        }
    }

    /// Asks, and waits for the answer. A worker that was lost is of no more use.
    pub fn ask(
        &mut self,
        message: &Message,
        beside: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Reply, Lost> {
        let late = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Lost::Late,
            _ => Lost::Ended(error),
        };
        // Zero would be for ever.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        self.socket.set_write_timeout(timeout).map_err(Lost::Ended)?;
        self.socket.set_read_timeout(timeout).map_err(Lost::Ended)?;
        frame::send(&mut self.socket, message, beside).map_err(late)?;
        let (reply, _) = frame::receive(&mut self.socket).map_err(late)?;
        Ok(reply)
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Worker {
    /// Killed, not asked: it may be in a shader that does not end.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
