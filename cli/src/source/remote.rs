use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Context, Result};
use nearfield_remote::{Ahead, Encoded, First, Pins, Remote, Site, Stream, Trust, encoding};
use tokio::runtime::{Builder, Runtime};

use super::Input;
use crate::archive::{Contents, Entry, Folder, Kind};

/// Starts reading it. `insecure`: plain http may be used wherever it leads.
pub fn open(remote: &Remote, insecure: bool) -> Result<Input> {
    let trust = Trust {
        plain_http: insecure,
        redirects: true,
        encoded: Encoded::Named,
    };
    let site = Arc::new(Site::of(remote, trust)?);
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("preparing to read a URL")?;
    match remote {
        Remote::S3 { key, .. } if key.is_empty() || key.ends_with('/') => open_folder(runtime, site, key),
        Remote::S3 { key, .. } => open_one(runtime, site, key),
        Remote::Web(_) => open_one(runtime, site, ""),
    }
}

fn open_one(runtime: Runtime, site: Arc<Site>, key: &str) -> Result<Input> {
    let first = runtime.block_on(site.first(key))?;
    let handle = runtime.handle().clone();
    Ok(match first {
        First::Ranges(object, bytes, encoding) => Input {
            encoding,
            bytes: Some(object.size_bytes),
            read: Box::new(Running {
                input: Ahead::new(handle, site, vec![object], bytes),
                _runtime: runtime,
            }),
            folder: false,
            left_out: Vec::new(),
            site: None,
        },
        First::Stream(response) => Input {
            encoding: encoding(&response),
            bytes: response.content_length(),
            read: Box::new(Running {
                input: Stream::new(handle, site.shown(key), response),
                _runtime: runtime,
            }),
            folder: false,
            left_out: Vec::new(),
            site: None,
        },
    })
}

/// All objects below a prefix, as the tar stream of a folder.
fn open_folder(runtime: Runtime, site: Arc<Site>, prefix: &str) -> Result<Input> {
    let found = runtime.block_on(site.folder(prefix, Pins::Pieces))?;
    let kind = |size_bytes: Option<u64>| match size_bytes {
        Some(size_bytes) => Kind::File {
            size_bytes,
            executable: false,
        },
        None => Kind::EmptyDir,
    };
    let entries = found.iter().map(|found| Entry {
        path: found.path.clone(),
        kind: kind(found.object.as_ref().map(|object| object.size_bytes)),
    });
    let entries = entries.collect();
    let objects = found.into_iter().filter_map(|found| found.object).collect();
    let input = Ahead::new(runtime.handle().clone(), site.clone(), objects, Vec::new());
    let contents = Running {
        input,
        _runtime: runtime,
    };
    let folder = Folder::of(entries, contents);
    let bytes = Some(folder.tar_bytes());
    Ok(Input {
        read: Box::new(folder.pack()?),
        bytes,
        encoding: None,
        folder: true,
        left_out: Vec::new(),
        site: Some(site),
    })
}

/// A stream with the runtime that its requests are made on.
struct Running<R> {
    input: R,
    _runtime: Runtime,
}

impl<R: Read> Read for Running<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

/// Files of a folder are read in its order, which is that of the objects.
impl Contents for Running<Ahead> {
    fn open(&mut self, _path: &str, found_bytes: u64) -> io::Result<(u64, impl Read)> {
        // Each object's size was checked with its ETag.
        Ok((found_bytes, self))
    }
}
