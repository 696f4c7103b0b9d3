//! Takes gzip and zstd off a stream, recognised by their magic bytes.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;

use crate::form::Compression;

/// Of the magic bytes.
const MAGIC_BYTES: u64 = 4;
/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB, what the `zstd` tool
/// accepts unasked. Its usual levels need 8 MiB at most.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The plain bytes of `input`: all members of a gzip file, all frames of a zstd file, else `input` itself. What is cut short,
/// or followed by something else, is an error that says so.
pub(crate) fn decompress<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(MAGIC_BYTES as usize);
    input.by_ref().take(MAGIC_BYTES).read_to_end(&mut head)?;
    let compression = Compression::of(&head);
    let whole = Cursor::new(head).chain(input);
    let Some(compression) = compression else {
        return Ok(Box::new(whole));
    };
    let failed = Rc::new(Cell::new(false));
    let source = Source {
        input: whole,
        failed: failed.clone(),
    };
    let plain: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(source))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Told {
        plain,
        compression,
        failed,
    }))
}

/// Knows whether it was the input that failed.
struct Source<R> {
    input: R,
    failed: Rc<Cell<bool>>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        let failed = read
            .as_ref()
            .is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        self.failed.set(self.failed.get() || failed);
        read
    }
}

/// Says what is wrong with a compressed stream. Errors of its source stay as they are.
struct Told<'a> {
    plain: Box<dyn Read + 'a>,
    compression: Compression,
    failed: Rc<Cell<bool>>,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.plain.read(buffer).map_err(|error| {
            if self.failed.get() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let name = self.compression.name();
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("its {name} stream is cut short, damaged, or followed by something else ({error})"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn plain(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        decompress(input)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_member_and_every_frame_is_read() {
        assert_eq!(
            plain(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(),
            b"one two"
        );
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert_eq!(
            plain(&[frame(b"one "), frame(b"two")].concat()).unwrap(),
            b"one two"
        );
    }

    fn skippable(number: u8, bytes: &[u8]) -> Vec<u8> {
        let len = (bytes.len() as u32).to_le_bytes();
        [&[0x50 + number, 0x2a, 0x4d, 0x18][..], &len, bytes].concat()
    }

    #[test]
    fn frames_to_be_skipped_are_skipped_wherever_they_stand() {
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        for number in 0..16 {
            let skipped = skippable(number, b"seek table");
            let file = [
                skipped.clone(),
                frame(b"one "),
                skipped.clone(),
                skippable(number, b""),
                frame(b"two"),
                skipped,
            ];
            assert_eq!(plain(&file.concat()).unwrap(), b"one two");
        }
        assert_eq!(plain(&skippable(3, b"x")).unwrap(), b"");
    }

    proptest::proptest! {
        #[test]
        fn what_is_cut_short_or_has_something_behind_it_is_an_error(
            text in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..3_000),
            cut in proptest::prelude::any::<proptest::sample::Index>(),
            garbage in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..40),
            members in 1usize..4,
        ) {
            let zstd = |bytes: &[u8]| [skippable(7, b"x"), zstd::encode_all(bytes, 1).unwrap()].concat();
            let each = text.len().div_ceil(members);
            let gzip_file: Vec<u8> = text.chunks(each).flat_map(gzip).collect();
            let zstd_file: Vec<u8> = text.chunks(each).flat_map(zstd).collect();
            let last = text.chunks(each).last().unwrap();
            for (file, last) in [(gzip_file, gzip(last).len()), (zstd_file, zstd(last).len())] {
                proptest::prop_assert_eq!(&plain(&file).unwrap(), &text);
                // Not right behind another member: there a file may end.
                let short = &file[..file.len() - 1 - cut.index(last - 1)];
                // Nor before the mark is whole, nor right behind a frame to be skipped.
                if short.len() < 4 || short.ends_with(&skippable(7, b"x")) {
                    continue;
                }
                let told = plain(short).unwrap_err().to_string();
                proptest::prop_assert!(told.contains("stream is cut short"), "{}", told);
                let followed = [&file[..], &garbage[..]].concat();
                if crate::form::Compression::of(&garbage).is_none() {
                    proptest::prop_assert!(plain(&followed).is_err());
                }
            }
        }
    }

    #[test]
    fn other_bytes_pass_however_short() {
        for bytes in [&b""[..], b"a", b"\x1f\x8b", b"\x28\xb5\x2f", b"plain text"] {
            assert_eq!(plain(bytes).unwrap(), bytes);
        }
    }

    #[test]
    fn a_cut_off_file_is_an_error() {
        let whole = gzip(b"some bytes that matter");
        assert!(plain(&whole[..whole.len() - 5]).is_err());
        let whole = zstd::encode_all(&b"some bytes that matter"[..], 1).unwrap();
        assert!(plain(&whole[..whole.len() - 2]).is_err());
    }
}
