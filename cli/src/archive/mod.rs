//! Folders on the wire: tar streams, made on the fly and unpacked without trust.

mod left_out;
mod pack;
mod unpack;

pub use left_out::Excludes;
pub use pack::{Contents, Entry, Folder, Kind};
pub use unpack::{Unpacking, unpack};
