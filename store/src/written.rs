//! Files that runs of a job wrote, on their way into a dataset: one blob a run, its files in path order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::pack::{END, padding, tar_header};
use crate::path_index::EntryKind;

/// Encodes files that come in path order: for each the path's length, the content's length, path,
/// content.
pub fn encode<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Bytes {
    let mut out = BytesMut::new();
    for (path, content) in files {
        out.put_u32_le(path.len() as u32);
        out.put_u64_le(content.len() as u64);
        out.put_slice(path.as_bytes());
        out.put_slice(content);
    }
    out.freeze()
}

/// One file of such a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    pub path: String,
    pub content: Bytes,
}

/// The files of such a blob, sharing its bytes. Ends early if the blob is torn.
pub struct Files(pub Bytes);

impl Iterator for Files {
    type Item = WrittenFile;

    fn next(&mut self) -> Option<WrittenFile> {
        let (path_len, rest) = self.0.split_first_chunk()?;
        let (content_len, rest) = rest.split_first_chunk()?;
        let path_len = u32::from_le_bytes(*path_len) as usize;
        let content_len = usize::try_from(u64::from_le_bytes(*content_len)).ok()?;
        let path = String::from_utf8(rest.get(..path_len)?.to_vec()).ok()?;
        let start = self.0.len() - rest.len() + path_len;
        let end = start.checked_add(content_len)?;
        if end > self.0.len() {
            return None;
        }
        let content = self.0.slice(start..end);
        self.0 = self.0.slice(end..);
        Some(WrittenFile { path, content })
    }
}

/// All files of many such blobs in path order. Holds one path a blob.
pub struct Merged {
    blobs: Vec<Files>,
    /// The next file of each blob that is not used up.
    heads: BinaryHeap<Reverse<(String, usize, Content)>>,
}

/// Bytes that do not count in an order.
struct Content(Bytes);

impl PartialEq for Content {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Content {}
impl PartialOrd for Content {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Content {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Merged {
    pub fn new(blobs: Vec<Bytes>) -> Self {
        let blobs: Vec<_> = blobs.into_iter().map(Files).collect();
        let mut merged = Merged {
            heads: BinaryHeap::with_capacity(blobs.len()),
            blobs,
        };
        for blob in 0..merged.blobs.len() {
            merged.refill(blob);
        }
        merged
    }

    fn refill(&mut self, blob: usize) {
        if let Some(WrittenFile { path, content }) = self.blobs[blob].next() {
            self.heads.push(Reverse((path, blob, Content(content))));
        }
    }
}

impl Iterator for Merged {
    type Item = WrittenFile;

    fn next(&mut self) -> Option<WrittenFile> {
        let Reverse((path, blob, Content(content))) = self.heads.pop()?;
        self.refill(blob);
        Some(WrittenFile { path, content })
    }
}

/// How many files there are; or a path that two runs wrote.
pub fn count(blobs: Vec<Bytes>) -> Result<u64, String> {
    let (mut files, mut last) = (0, None);
    for WrittenFile { path, .. } in Merged::new(blobs) {
        if last.as_ref() == Some(&path) {
            return Err(path);
        }
        files += 1;
        last = Some(path);
    }
    Ok(files)
}

/// All files as one tar stream, as [`crate::Store::stage_dataset`] takes a folder.
pub struct Tar {
    files: Merged,
    /// What is to be read next.
    pieces: VecDeque<Bytes>,
    ended: bool,
}

impl Tar {
    pub fn new(blobs: Vec<Bytes>) -> Self {
        Tar {
            files: Merged::new(blobs),
            pieces: VecDeque::new(),
            ended: false,
        }
    }
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(piece) = self.pieces.front_mut() {
                let taken = piece.len().min(buffer.len());
                piece.copy_to_slice(&mut buffer[..taken]);
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                if taken > 0 || buffer.is_empty() {
                    return Ok(taken);
                }
                continue;
            }
            match self.files.next() {
                Some(WrittenFile { path, content }) => {
                    let len = content.len() as u64;
                    let kind = EntryKind::File {
                        shard: 0,
                        offset: 0,
                        len,
                        executable: false,
                    };
                    let padding = Bytes::from_static(padding(len));
                    self.pieces
                        .extend([tar_header(&path, &kind).into(), content, padding]);
                }
                None if self.ended => return Ok(0),
                None => {
                    self.ended = true;
                    self.pieces.push_back(Bytes::from_static(&END));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back() {
        let files = [("a", &b"one"[..]), ("b/c", b""), ("ü", &[0; 300])];
        let encoded = encode(files.into_iter());
        let back: Vec<_> = Files(encoded.clone()).collect();
        assert_eq!(back.len(), 3);
        for (file, (path, content)) in back.iter().zip(files) {
            assert_eq!((file.path.as_str(), &file.content[..]), (path, content));
        }
        assert_eq!(
            Files(encoded.slice(..encoded.len() - 1)).count(),
            2,
            "a torn end is no file"
        );
        assert_eq!(Files(Bytes::new()).count(), 0);
    }

    #[test]
    fn many_blobs_make_one_archive_in_path_order() {
        let one = encode([("a", &b"1"[..]), ("c/x", &[7; 1_000])].into_iter());
        let two = encode([("b", &b""[..]), ("c/a", b"4")].into_iter());
        assert_eq!(count(vec![one.clone(), two.clone()]), Ok(4));
        assert_eq!(count(vec![one.clone(), one.clone()]), Err("a".to_owned()));
        let mut archive = tar::Archive::new(Tar::new(vec![one, two]));
        let files: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect();
        let expected = [
            ("a", vec![b'1']),
            ("b", vec![]),
            ("c/a", vec![b'4']),
            ("c/x", vec![7; 1_000]),
        ];
        assert_eq!(files, expected.map(|(path, content)| (path.to_owned(), content)));
    }
}
