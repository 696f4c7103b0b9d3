//! What is read from elsewhere over HTTP: objects of S3, and files behind `https://`.
//!
//! A `Source` (`source.rs`) is one kind of place: how its requests look, and how its listings read; `s3` and `web` are such.
//! Another object store is one more file beside them, and its scheme in `url`. `site` asks a source for objects and pieces,
//! `object` says whether pieces fit together, `ahead` makes one stream of them; `prefix` knows what below a prefix is a folder.
//! `transport` asks until there is an answer, `stream` is for servers without ranges, `trouble` turns failures into messages.
//! `in_place` is how the store reads objects that stay where they are.

mod ahead;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod in_place;
mod object;
mod prefix;
mod s3;
mod site;
mod source;
mod stream;
mod transport;
mod trouble;
mod url;
mod web;

pub use ahead::Ahead;
pub use error::{Cause, RemoteError};
pub use in_place::RemoteObjects;
pub use object::Object;
pub use prefix::FolderObject;
pub use site::{Encoded, First, Pins, Site, Trust, encoding};
pub use stream::Stream;
pub use url::{Remote, has_scheme};
