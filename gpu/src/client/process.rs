//! The worker's process: started, asked, killed.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::wire::frame::{self, Window};
use crate::wire::{Choice, Description, Id, Message, Reply, Request};
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
    /// `None` once it is somebody else's to wait for.
    child: Option<Child>,
    socket: UnixStream,
    pub window: Window,
    pub description: Description,
}

/// Why a worker gave no answer. But for the first it is of no more use.
pub(super) enum Lost {
    /// It was not asked: the message would be too long.
    TooLong,
    /// It took too long.
    Late,
    /// It has ended, or what it said was no answer.
    Ended(io::Error),
}

impl Worker {
    pub fn start(
        command: &WorkerCommand,
        choice: &Choice,
        budget_bytes: Option<u64>,
    ) -> Result<Self, GpuError> {
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
            child: Some(child),
            socket,
            window: Window::new().map_err(failed)?,
            description: Description::default(),
        };
        let window = worker.window.as_fd().try_clone_to_owned().map_err(failed)?;
        let open = Request::Open {
            choice: choice.clone(),
            budget_bytes: budget_bytes.unwrap_or_default(),
        };
        match worker.ask(Vec::new(), open, Some(window.as_fd()), limits::START_TIME) {
            Ok(Reply::Opened(description)) => {
                worker.description = *description;
                Ok(worker)
            }
            Ok(Reply::Failed(error)) => Err(error),
            Ok(_) | Err(Lost::TooLong) => Err(failed(io::Error::other("it answered something else"))),
            Err(Lost::Late) => Err(failed(io::Error::other(format!(
                "its driver was not ready after {} s",
                limits::START_TIME.as_secs()
            )))),
            Err(Lost::Ended(error)) => Err(failed(error)),
        }
    }

    /// Has it let go of `drop` and do what is asked, and waits for its answer.
    pub fn ask(
        &mut self,
        drop: Vec<Id>,
        request: Request,
        beside: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Reply, Lost> {
        let late = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Lost::Late,
            _ => Lost::Ended(error),
        };
        let frame = frame::encode(&Message { drop, request }).ok_or(Lost::TooLong)?;
        let deadline = Instant::now() + timeout;
        self.socket
            .set_write_timeout(Some(timeout))
            .map_err(Lost::Ended)?;
        frame::send(&mut self.socket, &frame, beside).map_err(late)?;
        let (reply, _) = frame::receive(&mut self.socket, Some(deadline)).map_err(late)?;
        Ok(reply)
    }

    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Worker {
    /// Killed, not asked: it may be in a shader that does not end. Waited for elsewhere: its driver may take its time.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let waiting = std::thread::Builder::new().name("nearfield-gpu-end".to_owned());
            let _ = waiting.spawn(move || child.wait());
        }
    }
}
