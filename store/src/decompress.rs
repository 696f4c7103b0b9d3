//! Takes gzip and zstd off a stream, recognised by their magic bytes.

use std::io::{self, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB, what the `zstd` tool
/// accepts unasked. Its usual levels need 8 MiB at most.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The plain bytes of `input`: all members of a gzip file, all frames of a zstd file, else `input` itself.
pub(crate) fn decompress<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(ZSTD.len());
    input.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head)?;
    let is_gzip = head.starts_with(&GZIP);
    let is_zstd = head.starts_with(&ZSTD);
    let whole = Cursor::new(head).chain(input);
    if is_gzip {
        Ok(Box::new(MultiGzDecoder::new(BufReader::new(whole))))
    } else if is_zstd {
        let mut decoder = zstd::Decoder::new(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(whole))
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
