//! Messages with a descriptor beside them, and the window of memory that both sides have.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits;

/// Longest message: a shader's source, or a thousand steps with their bindings.
const MESSAGE_BYTES: usize = 1 << 20;

/// One message as it is sent. `None` where it would be too long.
pub fn encode(message: &impl Serialize) -> Option<Vec<u8>> {
    let head = vec![0; 4];
    let mut frame = postcard::to_extend(message, head).ok()?;
    let len = frame.len() - 4;
    frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
    (len <= MESSAGE_BYTES).then_some(frame)
}

/// Sends one message, a descriptor beside it.
pub fn send(stream: &mut UnixStream, frame: &[u8], beside: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let beside = beside.as_slice();
    if !beside.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(beside));
    }
    let frames = [IoSlice::new(frame)];
    let sent = retry_on_intr(|| sendmsg(&*stream, &frames, &mut ancillary, SendFlags::NOSIGNAL))?;
    // The descriptor went with the first byte.
    stream.write_all(&frame[sent..])
}

/// Receives one message, and what came beside it, whole before `deadline`. `UnexpectedEof` where the other side has ended.
pub fn receive<T: DeserializeOwned>(
    stream: &mut UnixStream,
    deadline: Option<Instant>,
) -> io::Result<(T, Option<OwnedFd>)> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    wait_until(stream, deadline)?;
    let received = retry_on_intr(|| {
        let head = &mut [IoSliceMut::new(&mut head)];
        recvmsg(&*stream, head, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut beside = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            beside = descriptors.last();
        }
    }
    read_until(stream, &mut head[received.bytes..], deadline)?;
    let len = u32::from_le_bytes(head) as usize;
    if len > MESSAGE_BYTES {
        return Err(io::Error::other(format!("a message of {len} bytes is announced")));
    }
    let mut body = vec![0; len];
    read_until(stream, &mut body, deadline)?;
    let message = decode(&body).map_err(io::Error::other)?;
    Ok((message, beside))
}

/// What a message says, its length taken off.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// Lets the next read wait no longer. A timeout of the socket's own counts from each read anew.
fn wait_until(stream: &UnixStream, deadline: Option<Instant>) -> io::Result<()> {
    let Some(deadline) = deadline else { return Ok(()) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))
}

fn read_until(stream: &mut UnixStream, mut bytes: &mut [u8], deadline: Option<Instant>) -> io::Result<()> {
    while !bytes.is_empty() {
        wait_until(stream, deadline)?;
        match stream.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Memory that host and worker share. Its size is sealed, and it is read and written by system calls, never mapped: what the
/// other side does with it at the same time is then no more than other bytes.
pub struct Window(File);

/// Where in the window what is read back begins; before it lies what is written.
pub const READS_AT: u64 = limits::WRITE_BYTES;

impl Window {
    pub fn new() -> io::Result<Self> {
        let memory = memfd_create("nearfield-gpu", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        // Pages are there only once they are used.
        ftruncate(&memory, READS_AT + limits::READ_BYTES + 8 * limits::READS as u64)?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Window(memory.into()))
    }

    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }
}

impl From<OwnedFd> for Window {
    fn from(memory: OwnedFd) -> Self {
        Window(memory.into())
    }
}

impl AsFd for Window {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where each of what is read back lies, from [`READS_AT`], and how much there is of it.
pub fn read_offsets(lens: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut end = 0_u64;
    let offsets = lens.into_iter().map(|len| {
        let start = end.next_multiple_of(8);
        end = start + len;
        start
    });
    offsets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Choice, Message, Request};
    use std::time::Duration;

    #[test]
    fn a_message_arrives_with_its_descriptor() {
        let (mut host, mut worker) = UnixStream::pair().unwrap();
        let window = Window::new().unwrap();
        window.write(5, b"bytes").unwrap();
        let message = |request| Message {
            drop: vec![1, 2],
            request,
        };
        let open = message(Request::Open {
            choice: Choice::Named("x".repeat(9_000)),
            budget_bytes: 5,
        });
        let upload = message(Request::Upload {
            buffer: 1,
            offset: 2,
            len: 3,
        });
        send(&mut host, &encode(&open).unwrap(), Some(window.as_fd())).unwrap();
        send(&mut host, &encode(&upload).unwrap(), None).unwrap();
        let (opened, beside) = receive::<Message>(&mut worker, None).unwrap();
        assert!(
            matches!(opened.request, Request::Open { choice: Choice::Named(name), .. } if name.len() == 9_000)
        );
        let mut read = [0; 5];
        Window::from(beside.unwrap()).read(5, &mut read).unwrap();
        assert_eq!(&read, b"bytes");
        let (uploaded, beside) = receive::<Message>(&mut worker, None).unwrap();
        assert!(beside.is_none() && uploaded.drop == [1, 2]);
        drop(host);
        let ended = receive::<Message>(&mut worker, None).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_announces_too_much_is_refused() {
        let (mut host, mut worker) = UnixStream::pair().unwrap();
        host.write_all(&[0xff; 4]).unwrap();
        assert!(receive::<Message>(&mut worker, None).is_err());
    }

    #[test]
    fn what_comes_byte_by_byte_comes_in_time_or_not_at_all() {
        let (mut host, mut worker) = UnixStream::pair().unwrap();
        let dripping = std::thread::spawn(move || {
            let frame = encode(&"a text that takes its time").unwrap();
            // The other side gives up before the end.
            let _ = frame.iter().try_for_each(|byte| {
                std::thread::sleep(Duration::from_millis(20));
                host.write_all(&[*byte])
            });
        });
        let begun = Instant::now();
        let late = receive::<String>(&mut worker, Some(begun + Duration::from_millis(200)));
        assert!(matches!(
            late.unwrap_err().kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
        ));
        assert!(begun.elapsed() < Duration::from_millis(400));
        drop(worker);
        dripping.join().unwrap();
    }

    #[test]
    fn a_window_keeps_its_size() {
        let window = Window::new().unwrap();
        assert!(window.0.set_len(1).is_err());
        assert!(
            window
                .write(READS_AT + limits::READ_BYTES + (1 << 20), b"x")
                .is_err()
        );
    }

    #[test]
    fn reads_lie_apart() {
        assert_eq!(read_offsets([4, 8, 3, 8]), [0, 8, 16, 24]);
    }
}
