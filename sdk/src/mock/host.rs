//! The same few items that `guest` offers, answered by the thread's [`Host`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

#[cfg(feature = "gpu")]
pub(crate) use super::gpu;
use super::{Host, dataset};
use crate::{DataError, Digest, Location, Request, Response, Result};

thread_local! {
    /// The hosts that `run` is inside of, the innermost last.
    static HOSTS: RefCell<Vec<Rc<Running>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Running {
    host: Host,
    /// Nothing where no job runs.
    job: Option<Job>,
}

struct Job {
    may_write: bool,
    written: RefCell<Files>,
}

pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Runs `test` under `host`, which is gone afterwards, a panic included.
pub(super) fn with<T>(host: Host, test: impl FnOnce() -> T) -> T {
    under(Running { host, job: None }, test).0
}

/// The same for a job, and what it has written.
pub(super) fn with_job<T>(host: Host, may_write: bool, work: impl FnOnce() -> T) -> (T, Files) {
    let job = Some(Job {
        may_write,
        written: RefCell::default(),
    });
    let (outcome, running) = under(Running { host, job }, work);
    let written = running.job.as_ref().map(|job| job.written.take());
    (outcome, written.unwrap_or_default())
}

fn under<T>(running: Running, work: impl FnOnce() -> T) -> (T, Rc<Running>) {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            HOSTS.with_borrow_mut(|hosts| hosts.pop());
        }
    }

    let running = Rc::new(running);
    HOSTS.with_borrow_mut(|hosts| hosts.push(Rc::clone(&running)));
    let _leave = Leave;
    (work(), running)
}

fn current() -> Rc<Running> {
    HOSTS
        .with_borrow(|hosts| hosts.last().cloned())
        .unwrap_or_default()
}

/// Whether the thread's host grants a GPU.
#[cfg(feature = "gpu")]
pub(super) fn grants_gpu() -> bool {
    current().host.gpu
}

pub(crate) fn fetch(request: Request) -> Result<Response> {
    let running = current();
    match &running.host.outgoing {
        Some(answer) if running.job.is_none() => answer(request),
        _ => Err(super::not_granted(request.uri())),
    }
}

pub(crate) fn env(name: &str) -> Option<String> {
    let running = current();
    if running.job.is_some() {
        return None;
    }
    let granted = running.host.env.get(name).cloned();
    granted.or_else(|| std::env::var(name).ok())
}

pub(crate) fn write(path: &str, bytes: &[u8]) -> Result<(), DataError> {
    let running = current();
    let Some(job) = running.job.as_ref().filter(|job| job.may_write) else {
        let text = "files can only be written by a job that is run with --into";
        return Err(DataError::Denied(text.to_owned()));
    };
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(DataError::Invalid(format!(
            "{path:?} is no path: names with / between them"
        )));
    }
    match job.written.borrow_mut().insert(path.to_owned(), bytes.to_vec()) {
        None => Ok(()),
        Some(_) => Err(DataError::Invalid(format!("the path {path} was written before"))),
    }
}

/// Gathers what a body writes.
pub(crate) struct Sink(Vec<u8>);

impl Sink {
    pub(crate) fn memory() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Dataset(Rc<dataset::Dataset>);

impl Dataset {
    pub(crate) fn open(input: &str) -> Result<Self, DataError> {
        match current().host.datasets.get(input) {
            Some(dataset) => Ok(Self(Rc::clone(dataset))),
            None => Err(DataError::Denied(format!("the input {input} is not granted"))),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.digest()
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.shards.len() as u32
    }

    pub(crate) fn shard(&self, index: u32) -> Result<Shard, DataError> {
        if index >= self.len() {
            return Err(DataError::NotFound(format!("shard {index} of {}", self.len())));
        }
        Ok(Shard::new(&self.0, index as usize))
    }

    pub(crate) fn by_path(&self, path: &str) -> Result<Option<Location>, DataError> {
        Ok(self
            .0
            .paths
            .iter()
            .find(|(known, _)| known == path)
            .map(|&(_, location)| location))
    }

    pub(crate) fn by_key(&self, key: &str) -> Result<Option<Location>, DataError> {
        self.0.by_key(key)?.ok_or_else(|| {
            DataError::Invalid("the dataset was put without a key: put it with `--key`".to_owned())
        })
    }
}

pub(crate) struct Shard {
    dataset: Rc<dataset::Dataset>,
    index: usize,
}

impl Shard {
    pub(crate) fn new(dataset: &Rc<dataset::Dataset>, index: usize) -> Self {
        Self {
            dataset: Rc::clone(dataset),
            index,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.shard().digest()
    }

    pub(crate) fn size(&self) -> u64 {
        self.shard().content.size()
    }

    pub(crate) fn format(&self) -> String {
        self.shard().format.clone()
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        self.shard().header.clone()
    }

    pub(crate) fn source(&self) -> String {
        match current().job {
            Some(_) => self.digest().to_string(),
            None => self.shard().source.clone(),
        }
    }

    pub(crate) fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, DataError> {
        self.shard().content.read(offset, length)
    }

    fn shard(&self) -> &dataset::Shard {
        &self.dataset.shards[self.index]
    }
}
