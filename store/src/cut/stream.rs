//! Cuts one file: fastcdc finds a cut in the window, the cut moves forward to the next record end, and
//! fastcdc restarts there.

use std::io::{self, Read};

use bytes::Bytes;
use fastcdc::v2020::FastCDC;
use nearfield_protocol::Split;

use super::records::{Records, Search, TooLong, is_blank};
use super::{CutError, CutOptions, CutShard, Emit, HEADER_BYTES};
use crate::spool::{ShardData, Spool};

/// Cuts `input` as it is.
pub(super) fn cut_file(
    input: &mut dyn Read,
    source: &str,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<(), CutError> {
    let Some(records) = Records::new(options.split) else {
        return keep_whole(input, source, options, emit);
    };
    let mut cutter = Cutter::new(input, source, options, records);
    if options.split == Split::Csv {
        cutter.window_bytes = cutter.window_bytes.max(HEADER_BYTES + 1);
    }
    cutter.fill()?;
    CutError::unlike_text(source, options.split, &cutter.window)?;
    let header = match options.split {
        Split::Csv => cutter.header()?,
        _ => None,
    };
    cutter.cut(header, emit)
}

/// Cuts what follows a cut in a file: the rest of it, as cutting all of it would.
pub(super) fn cut_rest(
    input: &mut dyn Read,
    source: &str,
    header: Option<Bytes>,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<(), CutError> {
    let Some(records) = Records::new(options.split) else {
        return keep_whole(input, source, options, emit);
    };
    let mut cutter = Cutter::new(input, source, options, records);
    if let Some(header) = &header {
        cutter.records.set_header(header.clone());
        cutter.window_bytes += header.len();
    }
    cutter.cut(header, emit)
}

impl<'a> Cutter<'a> {
    fn new(input: &'a mut dyn Read, source: &'a str, options: &'a CutOptions, records: Records) -> Self {
        let sizes = Sizes::new(options.shard_size_bytes);
        Cutter {
            input,
            source,
            options,
            records,
            sizes,
            window: Bytes::new(),
            window_bytes: sizes.max,
            ended: false,
        }
    }
}

impl Cutter<'_> {
    fn cut(mut self, header: Option<Bytes>, emit: &mut Emit<'_>) -> Result<(), CutError> {
        while let Some(data) = self.next_shard()? {
            let shard = CutShard {
                data,
                source: Some(self.source.to_owned()),
                header: header.clone(),
            };
            emit(shard).map_err(CutError::Emit)?;
        }
        Ok(())
    }
}

/// Copies until `input` ends. Says on which side it failed.
pub(crate) fn copy(input: &mut dyn Read, name: &str, spool: &mut Spool) -> Result<u64, CutError> {
    let mut buffer = vec![0; 64 << 10];
    let mut copied = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                io::Write::write_all(spool, &buffer[..read]).map_err(CutError::Io)?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(CutError::Read {
                    name: name.to_owned(),
                    error,
                });
            }
        }
    }
}

fn keep_whole(
    input: &mut dyn Read,
    source: &str,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<(), CutError> {
    let mut spool = Spool::new(&options.spill_dir);
    if copy(input, source, &mut spool)? == 0 {
        return Ok(());
    }
    let shard = CutShard {
        data: spool.take(),
        source: Some(source.to_owned()),
        header: None,
    };
    emit(shard).map_err(CutError::Emit)
}

/// What fastcdc is told, in bytes. All even, as it demands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub min: usize,
    average: usize,
    pub max: usize,
}

impl Sizes {
    pub fn new(shard_size_bytes: u32) -> Self {
        let average = shard_size_bytes as usize & !7;
        Sizes {
            min: average / 4,
            average,
            max: average * 4,
        }
    }

    /// The cut in `window`; its end where none is found before.
    pub fn cut(self, window: &[u8]) -> usize {
        FastCDC::new(window, self.min, self.average, self.max)
            .cut(0, window.len())
            .1
    }
}

struct Cutter<'a> {
    input: &'a mut dyn Read,
    source: &'a str,
    options: &'a CutOptions,
    /// Has followed the file up to the window's start.
    records: Records,
    sizes: Sizes,
    /// What was read and not yet given away.
    window: Bytes,
    /// How far the window reaches when full: the largest cut, and room to see a header behind it.
    window_bytes: usize,
    /// The input has no bytes beyond the window.
    ended: bool,
}

impl Cutter<'_> {
    /// The first record that says something, and what stands before it. Nothing is taken from the window.
    fn header(&mut self) -> Result<Option<Bytes>, CutError> {
        if self.window.is_empty() {
            return Ok(None);
        }
        let too_long = || CutError::HeaderTooLong {
            name: self.source.to_owned(),
        };
        let (mut records, mut len, mut blank) = (self.records.clone(), 0, true);
        while blank && len < self.window.len() {
            let found = records.search(&self.window[len..], 1, self.ended);
            let (Search::End(found) | Search::More(found)) = found.map_err(|TooLong(_)| too_long())?;
            // Each record alone: a file may begin with any number of empty lines.
            blank = is_blank(&self.window[len..len + found], len == 0);
            len += found;
            if len > HEADER_BYTES {
                return Err(too_long());
            }
        }
        // A copy, because it outlives the window.
        let header = Bytes::copy_from_slice(&self.window[..len]);
        self.records.set_header(header.clone());
        self.window_bytes = self.sizes.max + len;
        Ok(Some(header))
    }

    fn next_shard(&mut self) -> Result<Option<ShardData>, CutError> {
        loop {
            let full = self.ended || self.window.len() >= self.window_bytes;
            let cut = self.sizes.cut(&self.window);
            // With more bytes in the window, a cut at its end might fall elsewhere.
            if !self.window.is_empty() && (full || cut < self.window.len()) {
                let mut records = self.records.clone();
                let found = records.search(&self.window, cut, self.ended);
                match found.map_err(|error| self.too_long(error))? {
                    Search::End(len) => {
                        self.records = records;
                        return Ok(Some(ShardData::Memory(self.window.split_to(len))));
                    }
                    Search::More(_) if full => return self.long_shard(cut).map(Some),
                    Search::More(_) => {}
                }
            }
            if self.ended {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// A shard whose last record goes on behind the full window, or ends with the input.
    fn long_shard(&mut self, cut: usize) -> Result<ShardData, CutError> {
        let mut spool = Spool::new(&self.options.spill_dir);
        let mut from = cut;
        loop {
            let found = self.records.search(&self.window, from, self.ended);
            let (Search::End(len) | Search::More(len)) = found.map_err(|error| self.too_long(error))?;
            let bytes = self.window.split_to(len);
            if self.ended && spool.len() == 0 {
                return Ok(ShardData::Memory(bytes));
            }
            io::Write::write_all(&mut spool, &bytes).map_err(CutError::Io)?;
            if self.ended || matches!(found, Ok(Search::End(_))) {
                return Ok(spool.take());
            }
            drop(bytes);
            from = 0;
            self.fill()?;
        }
    }

    /// Reads until the window is full or the input ends. Shards may still share the old window, so the new one
    /// is another allocation, and what is left moves there.
    fn fill(&mut self) -> Result<(), CutError> {
        let room = self.window_bytes.saturating_sub(self.window.len());
        let mut next = Vec::with_capacity(self.window_bytes.max(self.window.len()));
        next.extend_from_slice(&self.window);
        self.window = Bytes::new();
        let read = Read::take(&mut *self.input, room as u64)
            .read_to_end(&mut next)
            .map_err(|error| CutError::Read {
                name: self.source.to_owned(),
                error,
            })?;
        self.ended = read < room;
        if self.ended {
            next.shrink_to_fit();
        }
        self.window = Bytes::from(next);
        Ok(())
    }

    fn too_long(&self, TooLong(offset): TooLong) -> CutError {
        CutError::RecordTooLong {
            name: self.source.to_owned(),
            offset,
        }
    }
}
