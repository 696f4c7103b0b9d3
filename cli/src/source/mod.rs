//! What is put: a path, standard input, or a URL that this side reads with its own credentials.

mod remote;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nearfield_remote::{Remote, Site, has_scheme};

use crate::archive::{Excludes, Folder};
use crate::failure::{Exit, Failure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Stdin,
    Path(PathBuf),
    Remote(Remote),
}

/// A source as one stream.
pub struct Input {
    pub read: Box<dyn Read>,
    /// Unknown for pipes, and for servers that do not say.
    pub bytes: Option<u64>,
    /// What a server says that it is encoded as, beside what its name says.
    pub encoding: Option<String>,
    /// The stream is a tar of it.
    pub folder: bool,
    /// What of a folder is not in it.
    pub left_out: Vec<String>,
    /// Where a folder's objects come from: it knows afterwards which of them are encoded.
    pub site: Option<Arc<Site>>,
}

impl Source {
    /// As typed. Whatever begins with a scheme is a URL; a file of such a name is `./that`.
    pub fn parse(text: OsString) -> Result<Source, String> {
        if text.is_empty() {
            return Err("name a file, a folder, a URL, or - for standard input".to_owned());
        }
        if text == "-" {
            return Ok(Source::Stdin);
        }
        match text.to_str() {
            Some(typed) if has_scheme(typed) => typed.parse().map(Source::Remote),
            _ => Ok(Source::Path(text.into())),
        }
    }

    /// Its own name: what the node guesses the split from, and what it tells functions.
    pub fn name(&self) -> Result<String> {
        match self {
            Source::Stdin => Ok("-".to_owned()),
            Source::Path(path) => path_name(path),
            Source::Remote(remote) => Ok(remote.name()),
        }
    }

    /// Starts reading it. `insecure`: plain http may be used wherever it leads. `excludes`: what of a folder stays out.
    pub fn open(&self, insecure: bool, excludes: &Excludes) -> Result<Input> {
        match self {
            Source::Stdin => Ok(Input {
                read: Box::new(io::stdin()),
                bytes: None,
                encoding: None,
                folder: false,
                left_out: Vec::new(),
                site: None,
            }),
            Source::Path(path) => open_path(path, excludes),
            Source::Remote(remote) => remote::open(remote, insecure),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Stdin => f.write_str("standard input"),
            Source::Path(path) => path.display().fmt(f),
            Source::Remote(remote) => remote.fmt(f),
        }
    }
}

fn open_path(path: &Path, excludes: &Excludes) -> Result<Input> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::NotFound, format!("there is no {}", path.display())).into()
        }
        _ => anyhow::Error::new(error).context(format!("reading {}", path.display())),
    })?;
    if metadata.is_dir() {
        let mut folder = Folder::read(path, excludes)?;
        let (bytes, left_out) = (Some(folder.tar_bytes()), std::mem::take(&mut folder.left_out));
        return Ok(Input {
            read: Box::new(folder.pack()?),
            bytes,
            encoding: None,
            folder: true,
            left_out,
            site: None,
        });
    }
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    // What says that it is empty may be made as it is read.
    let bytes = Some(metadata.len()).filter(|bytes| metadata.is_file() && *bytes > 0);
    Ok(Input {
        read: Box::new(file),
        bytes,
        encoding: None,
        folder: false,
        left_out: Vec::new(),
        site: None,
    })
}

fn path_name(path: &Path) -> Result<String> {
    // `.` and `photos/..` have no name of their own.
    let named = if path.file_name().is_some() {
        path.to_owned()
    } else {
        path.canonicalize()?
    };
    match named.file_name().map(|name| name.to_str()) {
        Some(Some(name)) => Ok(name.to_owned()),
        Some(None) => bail!(
            "the name of {} is not UTF-8; rename it, or put it from standard input",
            path.display()
        ),
        None => Ok("/".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_told_apart() {
        let parse = |text: &str| Source::parse(text.into());
        assert_eq!(parse("-"), Ok(Source::Stdin));
        for path in ["x.csv", "./s3://x", "/a/b", "a:b", "dir/x://y"] {
            assert_eq!(parse(path), Ok(Source::Path(path.into())), "{path}");
        }
        assert!(matches!(parse("s3://b/k"), Ok(Source::Remote(_))));
        assert!(parse("gs://b/k").is_err() && parse("").is_err());
    }
}
