//! What functions print: bounded per call, one file a function, kept small.
//!
//! Lines go through a bounded queue to one writer task; a flood is dropped and counted, never
//! waited for. A file that reaches its size is renamed to `.1`, replacing the one before.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use nearfield_protocol::said::cut;
use nearfield_protocol::{CallId, FunctionName, limits, unix_ms};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::sync::{broadcast, mpsc};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Lines waiting for the writer: at the longest line, 64 MiB.
const QUEUE_LINES: usize = 4_096;
/// Lines that a slow follower may lag behind before it misses some.
const FOLLOW_LINES: usize = 1_024;
/// Size at which a function's file is put aside.
const ROTATE_BYTES: u64 = 8 << 20;
/// What a stream may write at once; the guest is told, and splits.
const WRITE_BYTES: usize = 64 << 10;

/// One line that a function printed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogLine {
    pub unix_ms: u64,
    pub function: String,
    pub call: String,
    pub line: String,
}

/// The logs of this host's functions. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    queue: mpsc::Sender<LogLine>,
    follow: broadcast::Sender<LogLine>,
    dropped: AtomicU64,
}

/// The task that writes the files.
pub struct LogWriter {
    dir: PathBuf,
    queue: mpsc::Receiver<LogLine>,
    follow: broadcast::Sender<LogLine>,
}

impl Logs {
    /// The logs in `dir`, and the writer that must be run for them.
    pub fn open(dir: PathBuf) -> io::Result<(Self, LogWriter)> {
        fs::create_dir_all(&dir)?;
        let (queue, received) = mpsc::channel(QUEUE_LINES);
        let (follow, _) = broadcast::channel(FOLLOW_LINES);
        let writer = LogWriter {
            dir: dir.clone(),
            queue: received,
            follow: follow.clone(),
        };
        let inner = Inner {
            dir,
            queue,
            follow,
            dropped: AtomicU64::new(0),
        };
        let inner = Arc::new(inner);
        Ok((Logs { inner }, writer))
    }

    /// The last `lines` of those lines of a function that are `wanted`, oldest first. Reads files.
    pub fn tail(
        &self,
        function: &FunctionName,
        lines: usize,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> io::Result<Vec<LogLine>> {
        let path = file_of(&self.inner.dir, function.as_str());
        if lines == 0 {
            return Ok(Vec::new());
        }
        let mut kept = std::collections::VecDeque::with_capacity(lines.min(1_024));
        for path in [rotated(&path), path] {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).split(b'\n') {
                // A line torn by a crash is no line.
                let Ok(line) = serde_json::from_slice(&line?) else {
                    continue;
                };
                if !wanted(&line) {
                    continue;
                }
                if kept.len() == lines {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        }
        Ok(kept.into())
    }

    /// Lines of all functions from now on.
    pub fn follow(&self) -> broadcast::Receiver<LogLine> {
        self.inner.follow.subscribe()
    }

    /// Lines lost because the writer could not keep up.
    #[cfg(test)]
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    fn push(&self, line: LogLine) {
        if self.inner.queue.try_send(line).is_err() {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl LogWriter {
    /// Writes until every [`Logs`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.recv_many(&mut batch, QUEUE_LINES).await > 0 {
            for line in &batch {
                // Nobody may be following.
                let _ = self.follow.send(line.clone());
            }
            let (dir, lines) = (self.dir.clone(), std::mem::take(&mut batch));
            match tokio::task::spawn_blocking(move || write_lines(&dir, &lines)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "function logs cannot be written"),
                Err(error) => tracing::error!(%error, "the log writer panicked"),
            }
        }
    }
}

fn write_lines(dir: &Path, lines: &[LogLine]) -> io::Result<()> {
    let mut by_function: HashMap<&str, Vec<u8>> = HashMap::new();
    for line in lines {
        let text = by_function.entry(&line.function).or_default();
        serde_json::to_writer(&mut *text, line)?;
        text.push(b'\n');
    }
    for (function, text) in by_function {
        append(&file_of(dir, function), &text)?;
    }
    Ok(())
}

/// Appends lines. The file is put aside before the line that it has no room for, however many lines come at once.
fn append(path: &Path, mut text: &[u8]) -> io::Result<()> {
    loop {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let room = ROTATE_BYTES.saturating_sub(file.metadata()?.len());
        let (fits, rest) = text.split_at(whole_lines(text, room));
        file.write_all(fits)?;
        if rest.is_empty() {
            return Ok(());
        }
        fs::rename(path, rotated(path))?;
        text = rest;
    }
}

/// How many bytes of `text` are lines that fit whole into `room`. A line is much shorter than a file, so an empty file
/// has room for one.
fn whole_lines(text: &[u8], room: u64) -> usize {
    match usize::try_from(room) {
        Ok(room) if room < text.len() => {
            let end = text[..room].iter().rposition(|&byte| byte == b'\n');
            end.map_or(0, |end| end + 1)
        }
        _ => text.len(),
    }
}

/// Function names are safe in file names: letters, digits, `-`, `_` and inner dots.
fn file_of(dir: &Path, function: &str) -> PathBuf {
    dir.join(format!("{function}.ndjson"))
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("ndjson.1")
}

/// The log of one call: what its guest prints, and what the host has to tell its author.
#[derive(Clone)]
pub(crate) struct CallLog {
    /// The guest's streams and the host write from one task, so the lock is never contended.
    state: Arc<Mutex<CallLogState>>,
    /// Bytes that the guest printed in its call, kept or not.
    printed_bytes: Arc<AtomicU64>,
}

struct CallLogState {
    to: Target,
    /// The line that has not ended yet.
    partial: Vec<u8>,
    left_bytes: usize,
    panic: Option<PanicText>,
}

/// What Rust prints when a guest panics: its place, then its message, then advice that is of no use here.
#[derive(Debug, Default, PartialEq, Eq)]
struct PanicText {
    place: String,
    message: String,
    ended: bool,
}

/// What of a panic's message is kept for the answer. The log has all of it.
const PANIC_CHARS: usize = 1_000;

impl PanicText {
    /// `thread 'main' panicked at src/lib.rs:7:5:` begins one.
    fn begun_by(line: &str) -> Option<Self> {
        let (_, place) = line.split_once(" panicked at ")?;
        Some(PanicText {
            place: place.trim_end_matches(':').chars().take(PANIC_CHARS).collect(),
            ..PanicText::default()
        })
    }

    /// Takes the next line in. Whether it is worth keeping in the log.
    fn goes_on_with(&mut self, line: &str) -> bool {
        let advice = line.starts_with("note: run with `RUST_BACKTRACE=1`");
        self.ended |= advice;
        if !self.ended && self.message.len() < PANIC_CHARS {
            let space = if self.message.is_empty() { "" } else { " " };
            self.message.push_str(space);
            self.message.extend(line.chars().take(PANIC_CHARS));
        }
        !advice
    }
}

/// Where a call's lines go.
enum Target {
    Log {
        logs: Logs,
        function: FunctionName,
        call: CallId,
    },
    /// To whoever asked for this one run.
    Asker(Vec<String>),
}

impl CallLog {
    pub fn new(logs: Logs, function: FunctionName, call: CallId) -> Self {
        CallLog::to(Target::Log { logs, function, call })
    }

    /// One that goes into no log: [`take`](CallLog::take) gives its lines.
    pub fn apart() -> Self {
        CallLog::to(Target::Asker(Vec::new()))
    }

    fn to(to: Target) -> Self {
        let state = CallLogState {
            to,
            partial: Vec::new(),
            left_bytes: limits::LOG_BYTES_PER_CALL,
            panic: None,
        };
        CallLog {
            state: Arc::new(Mutex::new(state)),
            printed_bytes: Arc::default(),
        }
    }

    /// The lines so far of one that is [`apart`](CallLog::apart).
    pub fn take(&self) -> Vec<String> {
        match &mut self.state.lock().to {
            Target::Log { .. } => Vec::new(),
            Target::Asker(lines) => std::mem::take(lines),
        }
    }

    /// Goes on as the log of another call of its function: a reused guest keeps its streams.
    pub fn renew(&self, next: CallId) {
        let mut state = self.state.lock();
        state.end_line();
        self.printed_bytes.store(0, Ordering::Relaxed);
        state.left_bytes = limits::LOG_BYTES_PER_CALL;
        state.panic = None;
        if let Target::Log { call, .. } = &mut state.to {
            *call = next;
        }
    }

    /// A line from the host.
    pub fn note(&self, text: &str) {
        let mut state = self.state.lock();
        state.end_line();
        state.write(format!("nearfield: {text}\n").as_bytes());
    }

    /// Where the guest panicked and what it said, if it did.
    pub fn panic(&self) -> Option<String> {
        let mut state = self.state.lock();
        state.end_line();
        let panic = state.panic.as_ref()?;
        Some(match panic.message.is_empty() {
            true => panic.place.clone(),
            false => format!("{}: {}", panic.place, panic.message),
        })
    }

    /// Writes what has no line end yet.
    pub fn finish(&self) {
        self.state.lock().end_line();
    }

    /// What the guest printed in its call, kept or not.
    pub fn printed_bytes(&self) -> u64 {
        self.printed_bytes.load(Ordering::Relaxed)
    }

    fn write(&self, bytes: &[u8]) {
        self.printed_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.state.lock().write(bytes);
    }
}

impl CallLogState {
    fn write(&mut self, bytes: &[u8]) {
        if self.left_bytes == 0 {
            return;
        }
        let taken = &bytes[..bytes.len().min(self.left_bytes)];
        self.left_bytes -= taken.len();
        for mut piece in taken.split_inclusive(|&byte| byte == b'\n') {
            while !piece.is_empty() {
                let room = limits::LOG_LINE_BYTES - self.partial.len();
                let (fits, rest) = piece.split_at(room.min(piece.len()));
                self.partial.extend_from_slice(fits);
                if fits.ends_with(b"\n") || self.partial.len() == limits::LOG_LINE_BYTES {
                    self.end_line();
                }
                piece = rest;
            }
        }
        if self.left_bytes == 0 {
            self.end_line();
            self.push(format!(
                "nearfield: the log of this call reached {} bytes; the rest is dropped",
                limits::LOG_BYTES_PER_CALL
            ));
        }
    }

    fn end_line(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.partial);
        // What stands for bytes that are no text takes more room than they did.
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes));
        let text = cut(limits::LOG_LINE_BYTES, text);
        if let Some(panic) = PanicText::begun_by(&text) {
            self.panic = Some(panic);
        } else if self
            .panic
            .as_mut()
            .is_some_and(|panic| !panic.goes_on_with(&text))
        {
            return;
        }
        self.push(text);
    }

    fn push(&mut self, line: String) {
        match &mut self.to {
            Target::Asker(lines) => lines.push(line),
            Target::Log { logs, function, call } => logs.push(LogLine {
                unix_ms: unix_ms(SystemTime::now()),
                function: function.to_string(),
                call: call.to_string(),
                line,
            }),
        }
    }
}

impl IsTerminal for CallLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for CallLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for CallLog {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl OutputStream for CallLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        CallLog::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for CallLog {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        let log = CallLog::apart();
        assert_eq!(log.panic(), None);
        log.write(b"before\n\nthread '<unnamed>' panicked at src/lib.rs:7:5:\nindex out of");
        log.write(b" bounds\nlen 3\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n");
        log.write(b"after\n");
        let told = "src/lib.rs:7:5: index out of bounds len 3";
        assert_eq!(log.panic().as_deref(), Some(told));
        assert_eq!(log.take().len(), 6, "all but the advice");
        log.write(&vec![b'x'; 100_000]);
        assert!(log.panic().unwrap().len() < 2 * PANIC_CHARS);
    }

    /// However lines come and whatever is in them, a function's two files hold no more than they may.
    #[test]
    fn files_keep_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let line = |byte: u8| LogLine {
            unix_ms: 1,
            function: "f".to_owned(),
            call: CallId::new(1, 2).to_string(),
            line: String::from_utf8(vec![byte; limits::LOG_LINE_BYTES]).unwrap(),
        };
        // As JSON a control character takes six bytes.
        for batch in [vec![line(b'x'); 1_200], vec![line(1); 400], vec![line(b'y'); 3]] {
            write_lines(dir.path(), &batch).unwrap();
        }
        let path = file_of(dir.path(), "f");
        for path in [rotated(&path), path.clone()] {
            let text = fs::read(&path).unwrap();
            assert!(
                !text.is_empty() && text.len() as u64 <= ROTATE_BYTES,
                "{}",
                text.len()
            );
            for line in text.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n') {
                serde_json::from_slice::<LogLine>(line).unwrap();
            }
        }
        assert!(
            fs::read(&path)
                .unwrap()
                .windows(9)
                .any(|text| text == b"yyyyyyyyy"),
            "the last are there"
        );
    }

    #[test]
    fn a_line_has_its_bound_whatever_it_is_made_of() {
        let log = CallLog::apart();
        log.write(&vec![0xff; 3 * limits::LOG_LINE_BYTES]);
        log.finish();
        let lines = log.take();
        assert!(lines.len() >= 3);
        assert!(lines.iter().all(|line| line.len() < limits::LOG_LINE_BYTES + 100));
    }

    #[tokio::test]
    async fn a_flood_is_cut_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, writer) = Logs::open(dir.path().to_owned()).unwrap();
        let name: FunctionName = "f".parse().unwrap();
        let call = CallLog::new(logs.clone(), name.clone(), CallId::new(1, 2));
        call.write(b"first\nsec");
        call.write(b"ond\n");
        let flood = [&[b'x'; 999][..], b"\n"].concat();
        for _ in 0..1_000 {
            call.write(&flood);
        }
        call.finish();
        let reader = logs.clone();
        drop((logs, call));
        // The writer ends when the last sender does; the reader's clone is one, so run it aside.
        let writer = tokio::spawn(writer.run());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let tail = loop {
            assert!(std::time::Instant::now() < deadline, "the writer does not write");
            let tail = reader.tail(&name, 100_000, |_| true).unwrap();
            if tail.last().is_some_and(|line| line.line.contains("dropped")) {
                break tail;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(tail[0].line, "first");
        assert_eq!(tail[1].line, "second");
        assert_eq!(reader.tail(&name, 2, |_| true).unwrap().len(), 2);
        let wanted = reader.tail(&name, 1, |line| line.line != "second" && line.line.len() < 9);
        assert_eq!(
            wanted.unwrap()[0].line,
            "first",
            "the last of those that are wanted"
        );
        drop(reader);
        writer.await.unwrap();
    }
}
