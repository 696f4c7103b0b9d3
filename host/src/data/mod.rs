//! `nearfield:data` for guests: the shards of the datasets that a manifest grants.
//!
//! Linked by hand rather than by generated bindings, for two reasons: a read gives the guest a slice
//! of the map itself (one copy instead of two), and every function charges fuel before it works.

pub(crate) mod access;
pub(crate) mod error;
pub(crate) mod output;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nearfield_protocol::{Digest, cost, limits};
use nearfield_store::{Dataset, Shard, StoreError};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};

use self::access::Sources;
use self::error::{Answer, DataError};
use crate::guest::Guest;
use crate::pay::charge;

const INTERFACE: &str = "nearfield:data/shards@0.1.0";

/// The host's side of `resource dataset`.
struct DatasetHandle(Arc<Dataset>);

/// The host's side of `resource shard`.
pub(crate) struct ShardHandle {
    pub dataset: Arc<Dataset>,
    pub index: u32,
    pub shard: Shard,
}

/// The store's failure as the guest gets to see it. A pure guest does not: it could answer `Ok` all the same,
/// and that would be remembered though the next run would come out otherwise. Its run ends instead.
fn told(store: &Context<'_>, error: StoreError) -> wasmtime::Result<DataError> {
    match store.data().data.sources {
        Sources::Shown => Ok(error.into()),
        Sources::Hidden => Err(error.into()),
    }
}

pub(crate) type Context<'a> = StoreContextMut<'a, Guest>;

/// Adds the interface to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut shards = linker.instance(INTERFACE)?;
    shards.resource(
        "dataset",
        ResourceType::host::<DatasetHandle>(),
        |mut store, rep| {
            store
                .data_mut()
                .table()
                .delete(Resource::<DatasetHandle>::new_own(rep))?;
            Ok(())
        },
    )?;
    shards.resource("shard", ResourceType::host::<ShardHandle>(), |mut store, rep| {
        store
            .data_mut()
            .table()
            .delete(Resource::<ShardHandle>::new_own(rep))?;
        Ok(())
    })?;

    shards.func_wrap_async(
        "[static]dataset.open",
        |mut store: Context<'_>, (input,): (String,)| {
            Box::new(async move {
                charge(&mut store, cost::DATA_CALL + cost::bytes(input.len() as u64))?;
                let opened = open_dataset(&mut store, &input).await?;
                let answer: Answer<Resource<DatasetHandle>> = match opened {
                    Ok(dataset) => Ok(store.data_mut().table().push(DatasetHandle(dataset))?),
                    Err(error) => Err(error),
                };
                Ok((answer,))
            })
        },
    )?;
    shards.func_wrap(
        "[method]dataset.digest",
        |mut store: Context<'_>, (this,): (Resource<DatasetHandle>,)| {
            let dataset = dataset(&mut store, &this)?;
            Ok((digest_bytes(dataset.digest),))
        },
    )?;
    shards.func_wrap(
        "[method]dataset.len",
        |mut store: Context<'_>, (this,): (Resource<DatasetHandle>,)| {
            let dataset = dataset(&mut store, &this)?;
            Ok((dataset.shards.len() as u32,))
        },
    )?;
    shards.func_wrap_async(
        "[method]dataset.shard",
        |mut store: Context<'_>, (this, index): (Resource<DatasetHandle>, u32)| {
            Box::new(async move {
                let dataset = dataset(&mut store, &this)?;
                let opened = open_shard(&mut store, &dataset, index).await?;
                let answer: Answer<Resource<ShardHandle>> = match opened {
                    Ok(shard) => Ok(store.data_mut().table().push(ShardHandle {
                        dataset,
                        index,
                        shard,
                    })?),
                    Err(error) => Err(error),
                };
                Ok((answer,))
            })
        },
    )?;
    shards.func_wrap(
        "[method]dataset.by-path",
        |mut store: Context<'_>, (this, path): (Resource<DatasetHandle>, String)| {
            charge(&mut store, cost::bytes(path.len() as u64))?;
            let dataset = dataset(&mut store, &this)?;
            let place = dataset
                .locate(&path)
                .map(|at| (at.shard, at.offset, at.size_bytes));
            let answer: Answer<Option<(u32, u64, u64)>> = Ok(place);
            Ok((answer,))
        },
    )?;
    shards.func_wrap_async(
        "[method]dataset.by-key",
        |mut store: Context<'_>, (this, key): (Resource<DatasetHandle>, String)| {
            Box::new(async move {
                charge(&mut store, cost::bytes(key.len() as u64))?;
                let dataset = dataset(&mut store, &this)?;
                let answer: Answer<Option<(u32, u64, u64)>> =
                    by_key(&mut store, &dataset, key.as_bytes()).await?;
                Ok((answer,))
            })
        },
    )?;

    shards.func_wrap(
        "[method]shard.digest",
        |mut store: Context<'_>, (this,): (Resource<ShardHandle>,)| {
            let (dataset, index) = shard(&mut store, &this)?;
            Ok((digest_bytes(dataset.shards[index as usize]),))
        },
    )?;
    shards.func_wrap(
        "[method]shard.size",
        |mut store: Context<'_>, (this,): (Resource<ShardHandle>,)| {
            charge(&mut store, cost::DATA_CALL)?;
            Ok((store.data_mut().table().get(&this)?.shard.size_bytes(),))
        },
    )?;
    shards.func_wrap(
        "[method]shard.format",
        |mut store: Context<'_>, (this,): (Resource<ShardHandle>,)| {
            let (dataset, _) = shard(&mut store, &this)?;
            Ok((dataset.meta.split.to_string(),))
        },
    )?;
    shards.func_wrap(
        "[method]shard.header",
        |mut store: Context<'_>, (this,): (Resource<ShardHandle>,)| {
            let (dataset, index) = shard(&mut store, &this)?;
            let header = dataset.meta.shards[index as usize]
                .header
                .map(|header| &dataset.meta.headers[header as usize][..])
                .unwrap_or_default();
            charge(&mut store, cost::bytes(header.len() as u64))?;
            Ok((Bytes::copy_from_slice(header),))
        },
    )?;
    shards.func_wrap(
        "[method]shard.source",
        |mut store: Context<'_>, (this,): (Resource<ShardHandle>,)| {
            let (dataset, index) = shard(&mut store, &this)?;
            if store.data().data.sources == Sources::Hidden {
                return Ok((dataset.shards[index as usize].to_string(),));
            }
            let source = dataset.meta.shards[index as usize]
                .source
                .map(|source| &dataset.meta.sources[source as usize][..])
                .unwrap_or_default();
            charge(&mut store, cost::bytes(source.len() as u64))?;
            Ok((source.to_owned(),))
        },
    )?;
    shards.func_wrap_async(
        "[method]shard.read",
        |mut store: Context<'_>, (this, offset, len): (Resource<ShardHandle>, u64, u32)| {
            Box::new(async move {
                let shard = store.data_mut().table().get(&this)?.shard.clone();
                let range = range(&shard, offset, len);
                let bytes = range.as_ref().map_or(0, |range| range.end - range.start);
                charge(&mut store, cost::DATA_CALL + cost::bytes(bytes))?;
                let answer: Answer<Bytes> = match range {
                    Ok(range) => read(&mut store, shard, range).await?,
                    Err(error) => Err(error),
                };
                Ok((answer,))
            })
        },
    )?;
    Ok(())
}

fn dataset(store: &mut Context<'_>, this: &Resource<DatasetHandle>) -> wasmtime::Result<Arc<Dataset>> {
    charge(store, cost::DATA_CALL)?;
    Ok(store.data_mut().table().get(this)?.0.clone())
}

fn shard(store: &mut Context<'_>, this: &Resource<ShardHandle>) -> wasmtime::Result<(Arc<Dataset>, u32)> {
    charge(store, cost::DATA_CALL)?;
    let handle = store.data_mut().table().get(this)?;
    Ok((handle.dataset.clone(), handle.index))
}

async fn open_dataset(store: &mut Context<'_>, input: &str) -> wasmtime::Result<Answer<Arc<Dataset>>> {
    let data = &store.data().data;
    let Some(digest) = data.inputs.get(input) else {
        return Ok(Err(DataError::Denied(format!(
            "`{input}` is not among the manifest's inputs ({})",
            data.inputs.keys().cloned().collect::<Vec<_>>().join(", ")
        ))));
    };
    let (blobs, digest) = (data.blobs.clone(), *digest);
    Ok(match blobs.dataset(&digest).await {
        Ok(dataset) => Ok(dataset),
        Err(error) => Err(told(store, error)?),
    })
}

/// Reads what was paid for.
async fn read(
    store: &mut Context<'_>,
    shard: Shard,
    range: std::ops::Range<u64>,
) -> wasmtime::Result<Answer<Bytes>> {
    let bytes = range.end - range.start;
    let read = match shard {
        // Mapped: copies nothing.
        Shard::Stored(_) => shard.read(range),
        // A disk, or a server that may take long to answer.
        Shard::InPlace(_) => {
            let begun = Instant::now();
            let read = tokio::task::spawn_blocking(move || shard.read(range)).await;
            store.data_mut().data.waited += begun.elapsed();
            read?
        }
    };
    Ok(match read {
        Ok(read) => {
            store.data_mut().data.bytes += bytes;
            Ok(read)
        }
        Err(error) => Err(told(store, error)?),
    })
}

/// Looks through the one block that may hold the key. Who asks pays for it as for a read.
async fn by_key(
    store: &mut Context<'_>,
    dataset: &Dataset,
    key: &[u8],
) -> wasmtime::Result<Answer<Option<(u32, u64, u64)>>> {
    if dataset.meta.key.is_none() {
        let text = "the dataset was put without a key: put it with `--key`";
        return Ok(Err(DataError::Invalid(text.to_owned())));
    }
    let Some(block) = dataset.key_block(key) else {
        return Ok(Ok(None));
    };
    charge(store, cost::bytes(block.size_bytes))?;
    let shard = match open_shard(store, dataset, block.shard).await? {
        Ok(shard) => shard,
        Err(error) => return Ok(Err(error)),
    };
    let range = block.offset..block.offset + block.size_bytes;
    let bytes = match read(store, shard, range).await? {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Err(error)),
    };
    Ok(match dataset.find_key(&bytes, key) {
        Ok(found) => Ok(found.map(|range| {
            let offset = block.offset + range.start as u64;
            (block.shard, offset, range.len() as u64)
        })),
        Err(reason) => Err(DataError::Invalid(reason)),
    })
}

async fn open_shard(
    store: &mut Context<'_>,
    dataset: &Dataset,
    index: u32,
) -> wasmtime::Result<Answer<Shard>> {
    let blobs = store.data().data.blobs.clone();
    let Some((_, digest)) = dataset.shard(index) else {
        return Ok(Err(DataError::NotFound(format!(
            "shard {index} of {}",
            dataset.shards.len()
        ))));
    };
    if let Some(shard) = blobs.opened(&digest) {
        return Ok(Ok(shard));
    }
    let begun = Instant::now();
    let opened = blobs.open_shard(&digest).await;
    let data = &mut store.data_mut().data;
    Ok(match opened {
        Ok(opened) => {
            if opened.moved_bytes > 0 {
                data.moved_bytes += opened.moved_bytes;
                data.waited += begun.elapsed();
            }
            Ok(opened.shard)
        }
        Err(error) => Err(told(store, error)?),
    })
}

/// The bytes that a read gives: up to `len` from `offset`, fewer at the end.
fn range(shard: &Shard, offset: u64, len: u32) -> Answer<std::ops::Range<u64>> {
    if len > limits::SHARD_READ_BYTES {
        return Err(DataError::Invalid(format!(
            "a read gives at most {} bytes",
            limits::SHARD_READ_BYTES
        )));
    }
    let size = shard.size_bytes();
    if offset > size {
        return Err(DataError::Invalid(format!(
            "offset {offset} lies after the shard's {size} bytes"
        )));
    }
    let end = size.min(offset + u64::from(len));
    Ok(offset..end)
}

fn digest_bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}
