//! Blobs on disk, datasets, and the cutters that make shards of a stream. No network.
//!
//! `blobs` owns the files and says what is durable; `state` is its table; `put` drives `cut` and
//! imports what it cuts; `form` tells by a file's beginning whether it is text; `in_place` indexes what stays where it is; `left_out` says what of a
//! folder stays out; `layout` puts parts together; `dataset` and `shard` read back, `elsewhere` what is not here. The cutters are pure: bytes in, shards out.

mod blobs;
pub mod cut;
mod database;
mod dataset;
mod decompress;
mod elsewhere;
mod error;
mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod in_place;
mod keyed;
mod layout;
mod left_out;
#[cfg(test)]
mod odd;
pub mod pack;
pub mod path_index;
mod put;
mod remembered;
mod shard;
mod spool;
mod state;
pub mod written;

pub use blobs::{Blob, SealReport, Staged, Store, StoreOptions};
pub use dataset::{BlobBytes, Dataset, Extent, Location};
pub use elsewhere::{Change, Elsewhere, Fetched, Opened};
pub use error::StoreError;
pub use in_place::groups::{GROUP_BYTES, Groups};
pub use in_place::{FoundObjects, Object, ObjectError, Objects, SourceError};
pub use layout::Placement;
pub use left_out::{BadRule, IGNORE_FILE, LeftOut, left_out_notice};
pub use put::{PutProgress, PutReport, PutRequest, StagedDataset, StagedInput};
pub use remembered::Remembered;
pub use shard::{Shard, ShardReader};

/// How many random cases a property is tried with: as many as `PROPTEST_CASES` says, else so many.
#[cfg(test)]
fn cases(usual: u32) -> u32 {
    let given = std::env::var("PROPTEST_CASES").ok();
    given.and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}
