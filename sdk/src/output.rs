//! The files that a job makes.
//!
//! Run with `--into thumbnails`, what a job writes becomes the dataset `thumbnails`, so that jobs chain.
//!
//! ```
//! use nearfield::{Result, Shard, output};
//!
//! #[nearfield::map]
//! fn shout(shard: Shard) -> Result<()> {
//!     shard.files().for_each(|path, content| {
//!         let text = std::io::read_to_string(content)?;
//!         output::write(path, text.to_uppercase())?;
//!         Ok(())
//!     })
//! }
//!
//! use nearfield::mock;
//! let notes = mock::Dataset::new("files").file("a/b.txt", "hello");
//! let done = mock::Host::new().dataset("notes", notes).job::<shout>("notes", ()).unwrap();
//! assert_eq!(done.files["a/b.txt"], b"HELLO");
//! ```

use crate::{DataError, host};

/// Writes a whole file. Its path is relative, with `/` between names; a job writes each path once.
///
/// Denied to a job without `--into`, and to an answer to HTTP.
pub fn write(path: &str, bytes: impl AsRef<[u8]>) -> Result<(), DataError> {
    host::write(path, bytes.as_ref())
}
