//! `put`: cut, hash and store in one pass, then seal.
//!
//! One blocking thread reads and cuts; what it cuts goes through a bounded channel to imports that
//! hash and write several at a time; order is kept. Memory is bounded by the cutter's window and
//! [`IN_FLIGHT_BYTES`].

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use nearfield_protocol::{Digest, Split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::blobs::{SealReport, Staged, Store, blocking_store};
use crate::cut::{self, CutOptions, CutShard, ShardData};
use crate::dataset::Dataset;
use crate::elsewhere::Change;
use crate::error::StoreError;
use crate::form::{self, Compression, SAMPLE_BYTES};
use crate::in_place::StagedInPlace;
use crate::keyed::{self, Keyed};
use crate::layout::{LaidPart, LaidShard, Layout, Paths, Placement, joined, joins};
use crate::shard::Shard;

/// Bytes of shards that are cut but not yet imported.
const IN_FLIGHT_BYTES: u32 = 20 << 20;
/// Imports at once: the hash of one shard runs while another's files are fsynced.
const IMPORTS: usize = 4;
/// What shards are cut towards unless asked otherwise.
const SHARD_BYTES: u32 = 4 << 20;
/// Bytes of a compressed stream taken to see how its content begins: more than a block of zstd, which comes whole or not at all.
const COMPRESSED_SAMPLE_BYTES: usize = 256 << 10;

/// What is put, and how.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// The file's or part's name; it goes into the meta and helps to choose a split.
    pub source: String,
    /// `None` chooses by name and content.
    pub split: Option<Split>,
    /// What shards are cut towards: 64 KiB to 4 MiB, which it is unless given.
    pub shard_size_bytes: Option<u32>,
    /// The header of the CSV file that this is appended to. The input's own is left out if it is the same.
    pub header: Option<Bytes>,
    /// The input is a tar stream of a folder, its paths in order.
    pub folder: bool,
    pub placement: Placement,
    /// Sort the records by this column or JSON pointer.
    pub key: Option<String>,
    /// Of a folder in place: what is left out, as lines of a `.gitignore`.
    pub exclude: Vec<String>,
}

impl PutRequest {
    pub(crate) fn shard_size(&self) -> u32 {
        self.shard_size_bytes.unwrap_or(SHARD_BYTES)
    }

    /// What the paths of a folder begin with.
    pub(crate) fn prefix(&self) -> String {
        self.placement
            .part()
            .map_or(String::new(), |name| format!("{name}/"))
    }
}

/// How far a put is. Written by the put, read by whoever shows it.
#[derive(Debug, Default)]
pub struct PutProgress {
    /// Of all that is put; 0 where that is not known.
    pub total_bytes: AtomicU64,
    pub bytes: AtomicU64,
    pub shards: AtomicU64,
}

/// What a put came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReport {
    pub digest: Digest,
    pub split: Split,
    /// Of the whole dataset, as the number of shards is.
    pub size_bytes: u64,
    pub shards: u32,
    /// What was read and cut, decompressed.
    pub put_bytes: u64,
    /// Blobs and bytes that this store did not hold before.
    pub new_shards: u64,
    pub new_bytes: u64,
    /// What whoever put it should know.
    pub notices: Vec<String>,
}

impl Store {
    /// Reads `input` to its end and cuts it. On an error, and if it is dropped, nothing of it is kept.
    pub async fn stage_input(
        &self,
        input: impl Read + Send + 'static,
        request: PutRequest,
        progress: Arc<PutProgress>,
    ) -> Result<StagedInput, StoreError> {
        let (shards_tx, shards_rx) = mpsc::channel(1);
        let cutter = tokio::task::spawn_blocking({
            let spill_dir = self.spill_dir().to_owned();
            let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_BYTES as usize));
            let runtime = tokio::runtime::Handle::current();
            let request = request.clone();
            move || {
                let mut emit = |shard: CutShard| {
                    let bytes = shard.data.memory_bytes().min(u64::from(IN_FLIGHT_BYTES)) as u32;
                    let permit = runtime
                        .block_on(in_flight.clone().acquire_many_owned(bytes))
                        .map_err(std::io::Error::other)?;
                    // The receiver goes away only when the put has failed already.
                    shards_tx
                        .blocking_send((shard, permit))
                        .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))
                };
                cut_input(Box::new(input), &request, spill_dir, &mut emit)
            }
        });

        let imported = tokio_stream(shards_rx)
            .enumerate()
            .map(|(index, (shard, permit))| {
                let keep_bytes = index == 0 && matches!(request.placement, Placement::Append(_));
                self.import(
                    shard,
                    permit,
                    &progress,
                    keep_bytes.then_some(request.shard_size()),
                )
            })
            .buffered(IMPORTS)
            .try_collect::<Vec<Imported>>()
            .await;
        let cut = cutter
            .await
            .map_err(|error| StoreError::Io(std::io::Error::other(error)))?;
        // A failed import ends the cutter with a broken pipe: the import's error is the cause.
        let imported = imported?;
        let Cut {
            split,
            index,
            keyed,
            notice,
        } = cut?;
        Ok(StagedInput {
            split,
            index,
            keyed,
            notices: notice.into_iter().collect(),
            imported,
            in_place: None,
            request,
        })
    }

    /// Indexes what lies at `place`, a path or a URL, where it lies. Only what is not known already is read.
    pub async fn stage_in_place(
        &self,
        place: String,
        mut request: PutRequest,
        progress: Arc<PutProgress>,
    ) -> Result<StagedInput, StoreError> {
        let (in_place, spill_dir) = (self.in_place().clone(), self.spill_dir().to_owned());
        blocking_store(move || {
            let indexed = in_place.index(&place, &mut request, spill_dir, &progress)?;
            let imported = indexed.shards.into_iter().map(|shard| Imported {
                digest: shard.digest,
                size_bytes: shard.size_bytes,
                staged: None,
                source: Some(shard.source.to_string()),
                header: shard.header,
                bytes: None,
            });
            Ok(StagedInput {
                split: indexed.split,
                index: indexed.index,
                keyed: None,
                notices: indexed.notices,
                imported: imported.collect(),
                in_place: Some((indexed.staged, indexed.new)),
                request,
            })
        })
        .await
    }

    /// Makes a dataset of what was cut, placed into `base` if it is not the whole. Not durable before
    /// [`Store::seal_dataset`].
    pub async fn stage_dataset(
        &self,
        input: StagedInput,
        base: Option<Arc<Dataset>>,
    ) -> Result<StagedDataset, StoreError> {
        let StagedInput {
            split,
            index,
            keyed,
            notices,
            mut imported,
            in_place,
            request,
        } = input;
        let put_bytes = imported.iter().map(|one| one.size_bytes).sum();
        let base = base.filter(|_| request.placement != Placement::Whole);
        let mut layout = match &base {
            Some(base) => {
                base.check_grows()?;
                Layout::of(base)
            }
            None => Layout {
                split,
                shard_size_bytes: request.shard_size(),
                folder: request.folder,
                keyed,
                parts: Vec::new(),
            },
        };
        layout.takes(split, request.folder, &request.placement)?;
        let mut source: Option<Arc<str>> = None;
        let mut shards: Vec<LaidShard> = Vec::with_capacity(imported.len());
        for one in &imported {
            // Shards of one source follow each other.
            if source.as_deref() != one.source.as_deref() {
                source = one.source.as_deref().map(Into::into);
            }
            shards.push(LaidShard {
                digest: one.digest,
                size_bytes: one.size_bytes,
                source: source.clone(),
                header: one.header.clone(),
            });
        }
        let name = request.placement.part().cloned();
        if matches!(request.placement, Placement::Append(_)) {
            let at = layout.parts.iter().position(|part| part.name == name);
            let mut before = at.map_or_else(Vec::new, |at| std::mem::take(&mut layout.parts[at].shards));
            let first = imported.first_mut().and_then(|first| first.bytes.take());
            if let Some(first) = first
                && let Some((staged, shard)) = self.join(&layout, &mut before, &shards[0], first).await?
            {
                imported[0].staged = Some(staged);
                shards[0] = shard;
            }
            before.append(&mut shards);
            shards = before;
        }
        let paths = index.map_or(Paths::None, Paths::Own);
        layout.replace(LaidPart { name, shards, paths });
        let mut staged = self.compose(layout, imported, in_place, put_bytes).await?;
        staged.report.notices.extend(notices);
        Ok(staged)
    }

    /// Joins `first`, which follows `before`, with as many of the last shards there as are small.
    async fn join(
        &self,
        layout: &Layout,
        before: &mut Vec<LaidShard>,
        first: &LaidShard,
        bytes: Bytes,
    ) -> Result<Option<(Staged, LaidShard)>, StoreError> {
        let (mut shard, mut bytes, mut joined_any) = (first.clone(), bytes, false);
        while let Some(last) = before.last()
            && joins(last, bytes.len(), layout)
        {
            // Others wait for this: what lies elsewhere is not fetched now.
            let Ok(Shard::Stored(stored)) = self.shard(&last.digest).await else {
                break;
            };
            let last_bytes = stored.slice(0..stored.len());
            let Some(together) = joined(last, &last_bytes, &bytes, shard.header.as_ref(), layout.split)
            else {
                break;
            };
            if last.source != shard.source {
                shard.source = None;
            }
            (bytes, joined_any) = (together.into(), true);
            before.pop();
        }
        if !joined_any {
            return Ok(None);
        }
        let staged = self.add(bytes).await?;
        (shard.digest, shard.size_bytes) = (staged.digest, staged.size_bytes);
        Ok(Some((staged, shard)))
    }

    /// Makes a staged dataset durable. When this returns `Ok`, all of it survives a power cut.
    pub async fn seal_dataset(&self, staged: StagedDataset) -> Result<PutReport, StoreError> {
        let StagedDataset {
            shards,
            parts,
            in_place,
            mut report,
        } = staged;
        // Shards first: a sequence that is sealed never names a shard that is not.
        let new = self.seal(shards).await?;
        self.seal(parts).await?;
        let new = match in_place {
            Some((lying, read)) => {
                self.outside().tell(Change::Added(lying.digests().into()));
                read
            }
            None => new,
        };
        (report.new_shards, report.new_bytes) = (new.new_blobs, new.new_bytes);
        Ok(report)
    }

    async fn import(
        &self,
        shard: CutShard,
        _permit: OwnedSemaphorePermit,
        progress: &PutProgress,
        keep_up_to: Option<u32>,
    ) -> Result<Imported, StoreError> {
        let bytes = match (&shard.data, keep_up_to) {
            // A copy: shards in memory share the cutter's window.
            (ShardData::Memory(bytes), Some(most)) if bytes.len() <= most as usize => {
                Some(Bytes::copy_from_slice(bytes))
            }
            _ => None,
        };
        let staged = match shard.data {
            ShardData::Memory(bytes) => self.add(bytes).await?,
            ShardData::Spilled(file) => self.add_file(file.path(), file.len()).await?,
        };
        progress.bytes.fetch_add(staged.size_bytes, Ordering::Relaxed);
        progress.shards.fetch_add(1, Ordering::Relaxed);
        Ok(Imported {
            digest: staged.digest,
            size_bytes: staged.size_bytes,
            staged: Some(staged),
            source: shard.source,
            header: shard.header,
            bytes,
        })
    }

    /// Makes meta, index and sequence.
    async fn compose(
        &self,
        layout: Layout,
        imported: Vec<Imported>,
        in_place: Option<(StagedInPlace, SealReport)>,
        put_bytes: u64,
    ) -> Result<StagedDataset, StoreError> {
        let (layout, (meta, index)) = blocking_store(move || {
            let described = layout.describe()?;
            Ok((layout, described))
        })
        .await?;
        let meta_blob = self.add(meta.encode().into()).await?;
        let index_blob = self.add(index.unwrap_or_default().into()).await?;
        let mut sequence = Vec::with_capacity((meta.shards.len() + 2) * 32);
        for digest in [meta_blob.digest, index_blob.digest]
            .into_iter()
            .chain(layout.shards().map(|shard| shard.digest))
        {
            sequence.extend_from_slice(digest.as_bytes());
        }
        let sequence_blob = self.add(sequence.into()).await?;
        let report = PutReport {
            digest: sequence_blob.digest,
            split: meta.split,
            size_bytes: meta.size_bytes,
            shards: meta.shards.len() as u32,
            put_bytes,
            new_shards: 0,
            new_bytes: 0,
            notices: Vec::new(),
        };
        let mut seen = HashSet::new();
        let shards = imported
            .into_iter()
            .filter_map(|one| one.staged)
            .filter(|shard| seen.insert(shard.digest))
            .collect();
        Ok(StagedDataset {
            shards,
            parts: vec![meta_blob, index_blob, sequence_blob],
            in_place,
            report,
        })
    }
}

impl StagedInput {
    pub fn placement(&self) -> &Placement {
        &self.request.placement
    }

    /// The same once more, after what was made of this was sealed: to be laid out over another version. Nobody may let go
    /// of blobs meanwhile.
    pub fn again(&self) -> StagedInput {
        let again = |one: &Imported| Imported {
            digest: one.digest,
            size_bytes: one.size_bytes,
            staged: None,
            source: one.source.clone(),
            header: one.header.clone(),
            bytes: one.bytes.clone(),
        };
        StagedInput {
            split: self.split,
            index: self.index.clone(),
            keyed: self.keyed.clone(),
            notices: self.notices.clone(),
            imported: self.imported.iter().map(again).collect(),
            in_place: None,
            request: self.request.clone(),
        }
    }
}

/// What was read and cut, its blobs imported but not yet durable.
pub struct StagedInput {
    split: Split,
    /// Of a folder.
    index: Option<Vec<u8>>,
    /// Of what is sorted.
    keyed: Option<Keyed>,
    /// Why the split is not the one that its name promises, and what is left out.
    notices: Vec<String>,
    imported: Vec<Imported>,
    /// Where the input stays where it is.
    in_place: Option<(StagedInPlace, SealReport)>,
    request: PutRequest,
}

/// A dataset whose blobs are imported but not yet durable.
pub struct StagedDataset {
    /// Distinct shards.
    shards: Vec<Staged>,
    /// Meta, index, sequence.
    parts: Vec<Staged>,
    /// Shards that stay where they are, and how much of them was read now.
    in_place: Option<(StagedInPlace, SealReport)>,
    report: PutReport,
}

struct Imported {
    digest: Digest,
    size_bytes: u64,
    /// None for a shard that stays where it is.
    staged: Option<Staged>,
    source: Option<String>,
    header: Option<Bytes>,
    /// Of a small first shard that may be joined with what it follows.
    bytes: Option<Bytes>,
}

/// What a cutter knows at the end.
struct Cut {
    split: Split,
    /// Of a folder.
    index: Option<Vec<u8>>,
    keyed: Option<Keyed>,
    notice: Option<String>,
}

/// Runs the cutter that the request asks for.
fn cut_input(
    input: Box<dyn Read>,
    request: &PutRequest,
    spill_dir: std::path::PathBuf,
    emit: &mut dyn FnMut(CutShard) -> std::io::Result<()>,
) -> Result<Cut, StoreError> {
    let options = |split| CutOptions {
        split,
        shard_size_bytes: request.shard_size(),
        spill_dir: spill_dir.clone(),
    };
    if request.folder {
        let split = request.split.unwrap_or(Split::Files);
        let mut input = input;
        let index = cut::cut_folder(&mut input, &request.prefix(), &options(split), emit)?;
        return Ok(Cut {
            split,
            index: Some(index.build()),
            keyed: None,
            notice: None,
        });
    }
    let mut input = input;
    let (split, notice) = match (request.split, &request.key) {
        (Some(split), _) => (split, None),
        (None, key) => {
            let (sample, whole) = sampled(input)?;
            input = whole;
            match key {
                // Only as a table can it be sorted: what is none is refused by its name.
                Some(_) => (Split::guess(&request.source, &sample), None),
                None => form::choose(&request.source, &sample),
            }
        }
    };
    let (source, options) = (&request.source, options(split));
    let keyed = match &request.key {
        Some(key) => Some(keyed::cut_sorted(&mut input, source, key, &options, emit)?),
        None => {
            let header = request.header.as_ref();
            cut::cut_stream(&mut input, source, header, &options, emit)?;
            None
        }
    };
    Ok(Cut {
        split,
        index: None,
        keyed,
        notice,
    })
}

/// How the content of `input` begins, gzip and zstd taken off, and all of `input`.
fn sampled(mut input: Box<dyn Read>) -> std::io::Result<(Vec<u8>, Box<dyn Read>)> {
    let mut head = Vec::with_capacity(SAMPLE_BYTES);
    input.by_ref().take(SAMPLE_BYTES as u64).read_to_end(&mut head)?;
    let sample = match Compression::of(&head) {
        None => head.clone(),
        Some(_) => {
            let more = COMPRESSED_SAMPLE_BYTES - head.len();
            input.by_ref().take(more as u64).read_to_end(&mut head)?;
            let mut sample = Vec::new();
            if let Ok(plain) = crate::decompress::decompress(&head[..]) {
                // It is cut off, so an error at its end is expected.
                let _ = plain.take(SAMPLE_BYTES as u64).read_to_end(&mut sample);
            }
            sample
        }
    };
    Ok((sample, Box::new(std::io::Cursor::new(head).chain(input))))
}

/// The channel as a stream.
fn tokio_stream<T>(receiver: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}
