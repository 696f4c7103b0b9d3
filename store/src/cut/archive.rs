//! Reads a tar stream, entry by entry. What an archive says of an entry is honoured, or the entry is refused: nothing that changes
//! what it means is passed over. Nothing in the stream is trusted.

use std::io::{self, Read};

use nearfield_protocol::units::parse_digits;
use tar::{EntryType, Header};

use super::CutError;
use crate::pack::padding;

const BLOCK_BYTES: usize = 512;
/// What may stand before an entry: long names, pax records. It is collected in memory, and honest ones are a few KiB.
const EXTENSION_BYTES: u64 = 1 << 20;
/// Of the length that a pax record begins with, and the blank behind it.
const LENGTH_DIGITS: usize = 20;

/// An entry, its content not yet read.
#[derive(Debug)]
pub(super) struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub size_bytes: u64,
    pub executable: bool,
    /// What makes it something else than its header says, and must not be passed over.
    pub refused: Option<&'static str>,
}

pub(super) struct Archive<'a> {
    input: &'a mut dyn Read,
    /// Of the entry that was given last: not read yet, padding not counted.
    left: u64,
    padding: u64,
    /// What pax records say of all that follows.
    global: Pax,
}

impl<'a> Archive<'a> {
    pub fn new(input: &'a mut dyn Read) -> Self {
        Archive {
            input,
            left: 0,
            padding: 0,
            global: Pax::default(),
        }
    }

    /// The next entry; none at the archive's end. What of the last one was not read is passed over.
    pub fn next(&mut self) -> Result<Option<Entry>, CutError> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        self.pass_over(rest)?;
        let (mut long_path, mut long_link, mut pax) = (None, None, self.global.clone());
        let mut allowed = EXTENSION_BYTES;
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(unreadable)?;
            let kind = header.entry_type();
            let is_extension = matches!(
                kind,
                EntryType::GNULongName
                    | EntryType::GNULongLink
                    | EntryType::XHeader
                    | EntryType::XGlobalHeader
            );
            if !is_extension {
                return Ok(Some(self.entry(&header, long_path, long_link, pax, size)?));
            }
            allowed = allowed
                .checked_sub(size)
                .ok_or_else(|| malformed("an entry's header is longer than 1 MiB"))?;
            let bytes = self.collect(size)?;
            match kind {
                EntryType::GNULongName => long_path = Some(without_nuls(bytes)),
                EntryType::GNULongLink => long_link = Some(without_nuls(bytes)),
                EntryType::XHeader => pax.read(&bytes)?,
                _ => {
                    self.global.read(&bytes)?;
                    pax.read(&bytes)?;
                }
            }
        }
    }

    /// The content of the entry that was given last. It ends too soon where the stream does.
    pub fn content(&mut self) -> Content<'_> {
        Content {
            input: self.input,
            left: &mut self.left,
        }
    }

    /// Reads what tar pads its last record with; a sender would not like to be cut off within it.
    pub fn finish(self) -> Result<(), CutError> {
        io::copy(self.input, &mut io::sink()).map_err(unreadable)?;
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        pax: Pax,
        size: u64,
    ) -> Result<Entry, CutError> {
        let size_bytes = pax.size.unwrap_or(size);
        self.left = size_bytes;
        self.padding = padding(size_bytes).len() as u64;
        let own_path = || header.path_bytes().into_owned();
        let own_link = || header.link_name_bytes().unwrap_or_default().into_owned();
        Ok(Entry {
            path: pax.real_name.or(pax.path).or(long_path).unwrap_or_else(own_path),
            link: pax.link.or(long_link).unwrap_or_else(own_link),
            kind: header.entry_type(),
            size_bytes,
            executable: header.mode().map_err(unreadable)? & 0o111 != 0,
            refused: pax.refused,
        })
    }

    /// None at the two empty blocks that end an archive.
    fn header(&mut self) -> Result<Option<Header>, CutError> {
        let mut header = Header::new_old();
        self.exactly(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            self.exactly(header.as_mut_bytes())?;
            return match header.as_bytes().iter().all(|&byte| byte == 0) {
                true => Ok(None),
                false => Err(malformed("an empty block stands between its entries")),
            };
        }
        let sum = header.as_bytes().iter().enumerate().map(|(at, &byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(byte),
        });
        if header.cksum().ok() != Some(sum.sum()) {
            return Err(malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn exactly(&mut self, block: &mut [u8; BLOCK_BYTES]) -> Result<(), CutError> {
        self.input.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed("it stops before its end blocks"),
            _ => unreadable(error),
        })
    }

    fn collect(&mut self, size: u64) -> Result<Vec<u8>, CutError> {
        let mut bytes = Vec::new();
        let read = Read::take(&mut *self.input, size)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if read as u64 != size {
            return Err(malformed("it stops before its end blocks"));
        }
        self.pass_over(padding(size).len() as u64)?;
        Ok(bytes)
    }

    fn pass_over(&mut self, bytes: u64) -> Result<(), CutError> {
        let passed =
            io::copy(&mut Read::take(&mut *self.input, bytes), &mut io::sink()).map_err(unreadable)?;
        match passed == bytes {
            true => Ok(()),
            false => Err(malformed("it stops before its end blocks")),
        }
    }
}

/// The rest of an entry's content.
pub(super) struct Content<'a> {
    input: &'a mut dyn Read,
    left: &'a mut u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(*self.left).unwrap_or(usize::MAX));
        let read = self.input.read(&mut buffer[..wanted])?;
        *self.left -= read as u64;
        Ok(read)
    }
}

/// What pax records say that matters here. Times, owners, comments and attributes are not kept, whoever says them.
#[derive(Debug, Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// Of a sparse file, whose path is one that tar made up.
    real_name: Option<Vec<u8>>,
    refused: Option<&'static str>,
}

impl Pax {
    /// Takes in records: `LENGTH KEY=VALUE`, a line end behind each. Values may hold line ends.
    fn read(&mut self, mut records: &[u8]) -> Result<(), CutError> {
        let bad = || malformed("a pax record of it is malformed");
        while !records.is_empty() {
            let space = records
                .iter()
                .take(LENGTH_DIGITS)
                .position(|&byte| byte == b' ')
                .ok_or_else(bad)?;
            let length = str::from_utf8(&records[..space])
                .ok()
                .and_then(parse_digits::<usize>);
            let length = length.filter(|length| *length > space + 1).ok_or_else(bad)?;
            let (record, rest) = records.split_at_checked(length).ok_or_else(bad)?;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
            self.take(&record[..equals], &record[equals + 1..])
                .ok_or_else(bad)?;
            records = rest;
        }
        Ok(())
    }

    /// None if the value is none that the key may have.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what was said before.
        let given = || Some(value.to_vec()).filter(|value| !value.is_empty());
        match key {
            b"path" => self.path = given(),
            b"linkpath" => self.link = given(),
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(parse_digits(str::from_utf8(value).ok()?)?),
            b"hdrcharset"
                if value == b"ISO-IR 10646 2000 UTF-8" || value == b"BINARY" || value.is_empty() => {}
            b"hdrcharset" => self.refused = Some("file whose name is in an unknown character set"),
            b"SCHILY.filetype" if value != b"sparse" => {}
            b"SCHILY.realsize" | b"SCHILY.filetype" | b"SUN.holesdata" => self.refused = Some(SPARSE),
            b"GNU.dumpdir" => self.refused = Some("list of a folder's files, as incremental backups have it"),
            b"GNU.sparse.name" => {
                self.real_name = given();
                self.refused = Some(SPARSE);
            }
            _ if key.starts_with(b"GNU.sparse.") => self.refused = Some(SPARSE),
            _ if key.starts_with(b"GNU.volume.") => self.refused = Some(VOLUMES),
            _ => {}
        }
        Some(())
    }
}

const SPARSE: &str = "sparse file (make the archive without `--sparse`)";
const VOLUMES: &str = "piece of an archive in several volumes (make one of them first)";

/// What an entry is that no dataset holds.
pub(super) fn type_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "hard link",
        EntryType::Char | EntryType::Block => "device",
        EntryType::Fifo => "fifo",
        EntryType::GNUSparse => SPARSE,
        other => match other.as_byte() {
            b'M' => VOLUMES,
            b'V' => "label of a volume (make the archive without `--label`)",
            b'D' => "list of a folder's files, as incremental backups have it",
            _ => "tar entry of an unknown type",
        },
    }
}

fn without_nuls(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

fn malformed(text: &str) -> CutError {
    CutError::Tar(text.to_owned())
}

fn unreadable(error: io::Error) -> CutError {
    CutError::Tar(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(kind: u8, path: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_cksum();
        [header.as_bytes(), content, padding(content.len() as u64)].concat()
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = 3 + key.len() + value.len();
        let length = (1..)
            .map(|digits: usize| rest + digits)
            .find(|length| length.to_string().len() + rest == *length);
        let length = length.unwrap();
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn read(parts: &[Vec<u8>]) -> Result<Vec<(Entry, Vec<u8>)>, CutError> {
        let tar = [&parts.concat()[..], &[0; 1024], &[0; 512]].concat();
        let (mut input, mut entries) = (&tar[..], Vec::new());
        let mut archive = Archive::new(&mut input);
        while let Some(entry) = archive.next()? {
            let mut content = Vec::new();
            archive.content().read_to_end(&mut content).unwrap();
            entries.push((entry, content));
        }
        archive.finish()?;
        assert!(input.is_empty());
        Ok(entries)
    }

    fn refused(records: &[Vec<u8>]) -> Option<&'static str> {
        let parts = [block(b'x', b"x", &records.concat()), block(b'0', b"file", b"abc")];
        read(&parts).unwrap()[0].0.refused
    }

    #[test]
    fn what_makes_an_entry_something_else_is_not_passed_over() {
        for key in [
            "GNU.sparse.major",
            "GNU.sparse.map",
            "GNU.sparse.numblocks",
            "GNU.sparse.offset",
            "GNU.sparse.size",
            "GNU.sparse.realsize",
            "SCHILY.realsize",
            "SUN.holesdata",
        ] {
            assert_eq!(
                refused(&[record("mtime", b"1.5"), record(key, b"1")]),
                Some(SPARSE),
                "{key}"
            );
        }
        assert_eq!(refused(&[record("SCHILY.filetype", b"sparse")]), Some(SPARSE));
        assert_eq!(refused(&[record("GNU.volume.filename", b"x")]), Some(VOLUMES));
        assert!(refused(&[record("hdrcharset", b"ISO-8859-1")]).is_some());
        for key in [
            "mtime",
            "uid",
            "uname",
            "comment",
            "SCHILY.xattr.user.x",
            "LIBARCHIVE.creationtime",
            "charset",
        ] {
            assert_eq!(
                refused(&[record(key, b"a=\nb"), record("hdrcharset", b"BINARY")]),
                None,
                "{key}"
            );
        }
        let sparse = [
            record("GNU.sparse.name", b"real"),
            record("path", b"./GNUSparseFile.7/real"),
        ]
        .concat();
        let entries = read(&[block(b'x', b"x", &sparse), block(b'0', b"y", b"")]).unwrap();
        assert_eq!(
            (&entries[0].0.path[..], entries[0].0.refused),
            (&b"real"[..], Some(SPARSE))
        );
    }

    #[test]
    fn pax_goes_before_long_names_and_those_before_headers() {
        let long = |name: &[u8]| block(b'L', b"././@LongLink", &[name, b"\0"].concat());
        let local = |records: &[Vec<u8>]| block(b'x', b"x", &records.concat());
        let entries = read(&[
            block(
                b'g',
                b"g",
                &[record("comment", b"of a commit"), record("linkpath", b"all")].concat(),
            ),
            long(b"long"),
            local(&[record("path", "a\n\u{e9}=b".as_bytes()), record("size", b"5")]),
            // The size in the header does not count: pax has another.
            {
                let mut header = block(b'0', b"short", b"");
                header.extend(b"hello");
                header.extend(padding(5));
                header
            },
            long(b"long"),
            block(b'0', b"short", b"x"),
            local(&[record("path", b"p"), record("path", b"")]),
            block(b'2', b"short", b""),
        ])
        .unwrap();
        let told: Vec<_> = entries
            .iter()
            .map(|(entry, content)| {
                (
                    String::from_utf8_lossy(&entry.path),
                    &content[..],
                    &entry.link[..],
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a\n\u{e9}=b".into(), &b"hello"[..], &b"all"[..]),
                ("long".into(), b"x", b"all"),
                ("short".into(), b"", b"all"),
            ]
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for records in [
            &b"path=x\n"[..],
            b"9 path=x",
            b"99 path=x\n",
            b"0 a=b\n",
            b"6 abc\n",
            b"10 size=x\n",
            b"11 size=+5\n",
            b"+9 path=x\n",
            b"18446744073709551616 a=b\n",
        ] {
            let parts = [block(b'x', b"x", records), block(b'0', b"file", b"")];
            assert!(matches!(read(&parts), Err(CutError::Tar(_))), "{records:?}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_ends_in_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..3_000), kind: u8) {
            let mut tar = block(kind, b"x", &bytes);
            tar.append(&mut bytes);
            let mut input = &tar[..];
            let mut archive = Archive::new(&mut input);
            while let Ok(Some(_)) = archive.next() {}
        }
    }
}
