//! `nearfield:data` as the host offers it. A function that never reads or writes data does not import it.

use bindings::nearfield::data::{output, shards};

use crate::{DataError, Digest, Location};

pub mod bindings {
    wit_bindgen::generate!({ path: "../wit/data", world: "data" });
}

pub(crate) struct Dataset(shards::Dataset);

impl Dataset {
    pub(crate) fn open(input: &str) -> Result<Self, DataError> {
        Ok(Self(shards::Dataset::open(input)?))
    }

    pub(crate) fn digest(&self) -> Digest {
        digest(&self.0.digest())
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.len()
    }

    pub(crate) fn shard(&self, index: u32) -> Result<Shard, DataError> {
        Ok(Shard(self.0.shard(index)?))
    }

    pub(crate) fn by_path(&self, path: &str) -> Result<Option<Location>, DataError> {
        Ok(self.0.by_path(path)?.map(location))
    }

    pub(crate) fn by_key(&self, key: &str) -> Result<Option<Location>, DataError> {
        Ok(self.0.by_key(key)?.map(location))
    }
}

fn location((shard, offset, length): (u32, u64, u64)) -> Location {
    Location {
        shard,
        offset,
        length,
    }
}

pub(crate) fn write(path: &str, bytes: &[u8]) -> Result<(), DataError> {
    Ok(output::write(path, bytes)?)
}

pub(crate) struct Shard(pub(super) shards::Shard);

impl Shard {
    pub(crate) fn digest(&self) -> Digest {
        digest(&self.0.digest())
    }

    pub(crate) fn size(&self) -> u64 {
        self.0.size()
    }

    pub(crate) fn format(&self) -> String {
        self.0.format()
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        self.0.header()
    }

    pub(crate) fn source(&self) -> String {
        self.0.source()
    }

    pub(crate) fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, DataError> {
        Ok(self.0.read(offset, length)?)
    }
}

/// The host's digests have 32 bytes by contract.
fn digest(bytes: &[u8]) -> Digest {
    Digest(bytes.try_into().unwrap_or_else(|_| std::process::abort()))
}

impl From<shards::Error> for DataError {
    fn from(error: shards::Error) -> Self {
        match error {
            shards::Error::Denied(text) => Self::Denied(text),
            shards::Error::NotFound(text) => Self::NotFound(text),
            shards::Error::Corrupt(text) => Self::Corrupt(text),
            shards::Error::Changed(text) => Self::Changed(text),
            shards::Error::Invalid(text) => Self::Invalid(text),
            shards::Error::Io(text) => Self::Io(text),
        }
    }
}
