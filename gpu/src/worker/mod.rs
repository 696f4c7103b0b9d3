//! The worker: a device in a process of its own, which does what one message says and answers it.
//!
//! It is started with its socket as standard input, and ends with it, with its parent, and with its device. A shader that does
//! not end is ended by killing this process; so nothing here needs to be interrupted.

mod sandbox;

pub use sandbox::allowed as worker_may_open;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use crate::device::Device;
use crate::wire::frame::{self, READS_AT, Window};
use crate::wire::{Message, Reply, Request, Run, Step};
use crate::{GpuError, limits};

/// How much the software adapter stands back behind the node's own threads, as a nice value: as much as guests do.
const SOFTWARE_NICE: i32 = 5;

/// The process's whole life. Returns its exit code.
pub fn worker_main() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(error) => {
            eprintln!("gpu worker: {error}");
            1
        }
    }
}

fn serve() -> io::Result<()> {
    sandbox::before_the_driver()?;
    let mut host = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (message, window) = frame::receive::<Message>(&mut host, None)?;
    let (Request::Open { choice, budget_bytes }, Some(window)) = (message.request, window) else {
        return Err(io::Error::other(
            "the first message opens an adapter, its window beside it",
        ));
    };
    let window = Window::from(window);
    // Nothing that the host could still use is left of this process, and drivers may hang as they end.
    let opened = Device::open(&choice, |reason| {
        eprintln!("gpu worker: the device is lost: {reason}");
        std::process::abort();
    });
    let mut device = match opened {
        Ok(device) => device,
        Err(error) => {
            let refused = Reply::Failed(GpuError::Unavailable(error.to_string()));
            return reply(&mut host, &refused);
        }
    };
    if device.description().software {
        sandbox::stand_back(SOFTWARE_NICE)?;
        let usual = limits::SOFTWARE_MEMORY_BYTES;
        sandbox::limit_memory(if budget_bytes == 0 { usual } else { budget_bytes })?;
    }
    sandbox::behind_the_driver()?;
    let opened = Reply::Opened(Box::new(device.description().clone()));
    reply(&mut host, &opened)?;
    loop {
        let (message, beside) = frame::receive::<Message>(&mut host, None)?;
        device.let_go(&message.drop);
        let answered = answer(&mut device, message.request, beside.map(File::from), &window);
        reply(&mut host, &answered.unwrap_or_else(Reply::Failed))?;
    }
}

fn reply(host: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let frame = frame::encode(reply).ok_or_else(|| io::Error::other("an answer that is too long"))?;
    frame::send(host, &frame, None)
}

fn answer(
    device: &mut Device,
    request: Request,
    beside: Option<File>,
    window: &Window,
) -> Result<Reply, GpuError> {
    match request {
        Request::Open { .. } => Err(GpuError::Invalid("an adapter is open".to_owned())),
        Request::LetGo => Ok(Reply::Done),
        Request::Build { pipeline, shader } => Ok(Reply::Built(device.build(pipeline, &shader)?)),
        Request::Upload { buffer, offset, len } => {
            let file = beside.ok_or_else(|| GpuError::Invalid("a shard without a descriptor".to_owned()))?;
            let mut at = offset;
            device.upload(buffer, len, |piece| {
                file.read_exact_at(piece, at)?;
                at += piece.len() as u64;
                Ok(())
            })?;
            Ok(Reply::Done)
        }
        Request::Run(run) => {
            let writes = writes(&run, window)?;
            let ran = device.run(&run, &writes, |offset, bytes| {
                window.write(READS_AT + offset, bytes)
            })?;
            Ok(Reply::Ran(ran))
        }
    }
}

/// What the steps write, from the window's start.
fn writes(run: &Run, window: &Window) -> Result<Vec<u8>, GpuError> {
    let ends = run.steps.iter().map(|step| match step {
        Step::Write { to, at } => at + to.len,
        Step::Dispatch { .. } | Step::Copy { .. } => 0,
    });
    let end = ends.max().unwrap_or(0);
    let mut bytes = vec![0; end.min(READS_AT) as usize];
    window
        .read(0, &mut bytes)
        .map_err(|error| GpuError::Unavailable(format!("the window: {error}")))?;
    Ok(bytes)
}
