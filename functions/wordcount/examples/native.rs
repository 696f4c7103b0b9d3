//! The same counting without a host: all cores, over a map of the file. Prints how many words there are.
//!
//! `cargo run --release --example native -- FILE`

use std::fs::File;

use memmap2::Mmap;
use rayon::prelude::*;
use wordcount::{Counts, Packed, count};

/// What one task counts.
const CHUNK_BYTES: usize = 4 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("native needs a file")?;
    // SAFETY: nobody changes the file while this runs.
    let text = unsafe { Mmap::map(&File::open(path)?)? };
    let tables: Vec<Packed> = chunks(&text)
        .into_par_iter()
        .map(|chunk| {
            let mut counts = Counts::default();
            count(chunk, &mut counts);
            counts.pack()
        })
        .collect();
    let mut all = Packed::default();
    tables.into_iter().for_each(|table| all.merge(table));
    let mut words = 0;
    all.each(|_, count| words += count)?;
    println!("{words}");
    Ok(())
}

/// Pieces that end where lines do.
fn chunks(text: &[u8]) -> Vec<&[u8]> {
    let (mut chunks, mut rest) = (Vec::new(), text);
    while rest.len() > CHUNK_BYTES {
        let end = rest[CHUNK_BYTES..].iter().position(|byte| *byte == b'\n');
        let (chunk, after) = rest.split_at(end.map_or(rest.len(), |end| CHUNK_BYTES + end + 1));
        chunks.push(chunk);
        rest = after;
    }
    chunks.push(rest);
    chunks
}
