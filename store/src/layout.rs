//! A dataset while it is put together: parts with their shards, not yet a meta, a path index and a sequence.
//!
//! A dataset is the union of its parts, in the order of their names, the part without a name first. So where a
//! shard stands follows from what the parts hold, not from who came first.

use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::meta::{DatasetMeta, PartMeta, ShardMeta};
use nearfield_protocol::{Digest, PartName, Split};

use crate::cut::ends_record;
use crate::dataset::Dataset;
use crate::error::StoreError;
use crate::keyed::Keyed;
use crate::path_index::{Entries, Entry, EntryKind, PathIndex, PathIndexBuilder};

/// Where what is put goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Placement {
    /// It is the whole dataset.
    #[default]
    Whole,
    /// It replaces one part; the others stay as they are.
    Part(PartName),
    /// It follows what a part holds already, or what was put without naming one.
    Append(Option<PartName>),
}

impl Placement {
    /// The part that it names.
    pub fn part(&self) -> Option<&PartName> {
        match self {
            Placement::Whole | Placement::Append(None) => None,
            Placement::Part(name) | Placement::Append(Some(name)) => Some(name),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaidShard {
    pub digest: Digest,
    pub size_bytes: u64,
    pub source: Option<Arc<str>>,
    pub header: Option<Bytes>,
}

pub(crate) struct LaidPart {
    pub name: Option<PartName>,
    pub shards: Vec<LaidShard>,
    pub paths: Paths,
}

/// The files of a part that is a folder.
pub(crate) enum Paths {
    None,
    /// An index of this part alone; its paths begin with the part's name.
    Own(Vec<u8>),
    /// Those of a part of `dataset`, whose shards begin there at `first_shard`.
    Of {
        dataset: Arc<Dataset>,
        first_shard: u32,
    },
}

pub(crate) struct Layout {
    pub split: Split,
    pub shard_size_bytes: u32,
    pub folder: bool,
    /// Of a dataset that is sorted; it has one part.
    pub keyed: Option<Keyed>,
    pub parts: Vec<LaidPart>,
}

impl Layout {
    pub fn of(dataset: &Arc<Dataset>) -> Self {
        let meta = &dataset.meta;
        let text: Vec<Arc<str>> = meta.sources.iter().map(|source| source.as_str().into()).collect();
        let headers: Vec<Bytes> = meta.headers.iter().map(|header| header.clone().into()).collect();
        let mut shards = meta
            .shards
            .iter()
            .zip(&dataset.shards)
            .map(|(shard, digest)| LaidShard {
                digest: *digest,
                size_bytes: shard.size_bytes,
                source: shard.source.map(|source| text[source as usize].clone()),
                header: shard.header.map(|header| headers[header as usize].clone()),
            });
        let whole = [PartMeta {
            name: None,
            shards: meta.shards.len() as u32,
        }];
        let parts = if meta.parts.is_empty() {
            &whole[..]
        } else {
            &meta.parts
        };
        let mut first_shard = 0;
        let parts = parts.iter().map(|part| {
            let paths = match meta.folder {
                true => Paths::Of {
                    dataset: dataset.clone(),
                    first_shard,
                },
                false => Paths::None,
            };
            first_shard += part.shards;
            LaidPart {
                name: part.name.clone(),
                shards: shards.by_ref().take(part.shards as usize).collect(),
                paths,
            }
        });
        Layout {
            split: meta.split,
            shard_size_bytes: meta.shard_size_bytes,
            folder: meta.folder,
            keyed: None,
            parts: parts.collect(),
        }
    }

    /// The header of the CSV file that an append would follow.
    pub fn header_of(&self, placement: &Placement) -> Option<Bytes> {
        let appends = matches!(placement, Placement::Append(_));
        let part = self
            .parts
            .iter()
            .find(|part| part.name.as_ref() == placement.part());
        part.filter(|_| appends)?.shards.last()?.header.clone()
    }

    /// Whether something of this kind can be added, as it `placement` says.
    pub fn takes(&self, split: Split, folder: bool, placement: &Placement) -> Result<(), StoreError> {
        let unlike = |text: String| Err(StoreError::Unlike(text));
        let kind = |folder| if folder { "a folder" } else { "one stream" };
        if self.folder != folder {
            return unlike(format!(
                "it holds {}, and this is {}: give it a name of its own",
                kind(self.folder),
                kind(folder)
            ));
        }
        if self.split != split {
            return unlike(format!(
                "it is cut as `{}`, and this as `{split}`: put it with `--split {}`, or under a name of its own",
                self.split, self.split
            ));
        }
        match placement {
            Placement::Append(_) if folder => {
                unlike("a folder is not appended to: put it as a part, with `--part NAME`".to_owned())
            }
            Placement::Part(_) if folder && self.parts.iter().any(|part| part.name.is_none()) => unlike(
                "its files were put without a part: put them once more with `--part NAME` under a new name"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Puts `part` where its name says, instead of the one that has it now.
    pub fn replace(&mut self, part: LaidPart) {
        self.parts.retain(|other| other.name != part.name);
        let at = self.parts.partition_point(|other| prefix(other) < prefix(&part));
        self.parts.insert(at, part);
    }

    /// The meta and the path index of a folder, or the key index of what is sorted.
    pub fn describe(&self) -> Result<(DatasetMeta, Option<Vec<u8>>), StoreError> {
        let mut meta = DatasetMeta {
            split: self.split,
            split_version: Split::VERSION,
            shard_size_bytes: self.shard_size_bytes,
            folder: self.folder,
            size_bytes: 0,
            sources: Vec::new(),
            headers: Vec::new(),
            shards: Vec::new(),
            parts: Vec::new(),
            key: self.keyed.as_ref().map(|keyed| keyed.meta.clone()),
        };
        for shard in self.shards() {
            meta.size_bytes += shard.size_bytes;
            let source = shard.source.as_ref().map(|source| {
                // Shards of one source follow each other.
                if meta.sources.last().map(String::as_str) != Some(source) {
                    meta.sources.push(source.to_string());
                }
                meta.sources.len() as u32 - 1
            });
            let header = shard.header.as_ref().map(|header| {
                let known = meta.headers.iter().position(|seen| seen[..] == header[..]);
                known.unwrap_or_else(|| {
                    meta.headers.push(header.to_vec());
                    meta.headers.len() - 1
                }) as u32
            });
            meta.shards.push(ShardMeta {
                size_bytes: shard.size_bytes,
                source,
                header,
            });
        }
        if self.parts.iter().any(|part| part.name.is_some()) {
            let parts = self.parts.iter().map(|part| PartMeta {
                name: part.name.clone(),
                shards: part.shards.len() as u32,
            });
            meta.parts = parts.collect();
        }
        let index = match &self.keyed {
            Some(keyed) => Some(keyed.index.clone()),
            None if self.folder => Some(self.index()?),
            None => None,
        };
        Ok((meta, index))
    }

    pub fn shards(&self) -> impl Iterator<Item = &LaidShard> {
        self.parts.iter().flat_map(|part| &part.shards)
    }

    /// One index of all parts; a named part's files stand in a folder of its name.
    fn index(&self) -> Result<Vec<u8>, StoreError> {
        if let [
            LaidPart {
                name: None,
                paths: Paths::Own(bytes),
                ..
            },
        ] = self.parts.as_slice()
        {
            return Ok(bytes.clone());
        }
        let mut index = PathIndexBuilder::new();
        let (mut first_shard, mut last_key) = (0, String::new());
        let torn = || StoreError::Unlike("the index of its files is torn: put it anew".to_owned());
        let whole = |entries: &Entries<'_>| match entries.is_torn() {
            true => Err(torn()),
            false => Ok(()),
        };
        for part in &self.parts {
            let shards = part.shards.len() as u32;
            let mut push = |entry: Entry, first_there: u32| {
                let kind = match entry.kind {
                    EntryKind::File {
                        shard,
                        offset,
                        len,
                        executable,
                    } => EntryKind::File {
                        // An empty file may stand after the last shard.
                        shard: shard
                            .checked_sub(first_there)
                            .filter(|shard| *shard <= shards)
                            .ok_or_else(torn)?
                            + first_shard,
                        offset,
                        len,
                        executable,
                    },
                    other => other,
                };
                let key = entry_key(&entry.path, &kind);
                if key <= last_key {
                    return Err(torn());
                }
                index.push(&entry.path, &kind);
                last_key = key;
                Ok(())
            };
            match &part.paths {
                Paths::None => {}
                Paths::Own(bytes) => {
                    let own = PathIndex::parse(bytes.as_slice())
                        .map_err(|error| StoreError::Unlike(error.to_string()))?;
                    let mut entries = own.iter();
                    entries.by_ref().try_for_each(|entry| push(entry, 0))?;
                    whole(&entries)?;
                }
                Paths::Of {
                    dataset,
                    first_shard: first_there,
                } => {
                    let name = part.name.as_ref().map_or("", |name| name.as_str());
                    if let Some(paths) = &dataset.paths {
                        let mut entries = paths.prefix(name);
                        entries.by_ref().try_for_each(|entry| push(entry, *first_there))?;
                        whole(&entries)?;
                    }
                }
            }
            first_shard += shards;
        }
        Ok(index.build())
    }
}

fn entry_key(path: &str, kind: &EntryKind) -> String {
    match kind {
        EntryKind::EmptyDir => format!("{path}/"),
        _ => path.to_owned(),
    }
}

/// What the paths of a part begin with. Parts stand in the order of it, so that their paths do, too.
fn prefix(part: &LaidPart) -> String {
    part.name
        .as_ref()
        .map_or(String::new(), |name| format!("{name}/"))
}

/// Whether a shard and what follows it should become one: both are small, and the first is not so much larger that
/// it would be written again and again. So appending little pieces leaves few shards, and writes each byte about as often
/// as a shard doubles.
pub(crate) fn joins(shard: &LaidShard, following_bytes: usize, layout: &Layout) -> bool {
    let following = following_bytes as u64;
    let together = shard.size_bytes + following;
    shard.size_bytes <= 2 * following
        && together <= u64::from(layout.shard_size_bytes)
        && match layout.split {
            Split::Fixed(record) => shard.size_bytes.is_multiple_of(u64::from(record.get())),
            Split::Lines | Split::Ndjson | Split::Csv | Split::Bytes => true,
            Split::Files | Split::None => false,
        }
}

/// The bytes of both as one shard, or `None` if a record would be torn or a header stand in the middle.
pub(crate) fn joined(
    shard: &LaidShard,
    bytes: &[u8],
    following: &[u8],
    header: Option<&Bytes>,
    split: Split,
) -> Option<Vec<u8>> {
    if !ends_record(bytes, split) || shard.header.as_ref() != header {
        return None;
    }
    let body = header
        .and_then(|header| following.strip_prefix(&header[..]))
        .unwrap_or(following);
    Some([bytes, body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(text: &str) -> LaidShard {
        LaidShard {
            digest: Digest::of(text.as_bytes()),
            size_bytes: text.len() as u64,
            source: Some("log".into()),
            header: None,
        }
    }

    fn part(name: Option<&str>, shards: &[&str]) -> LaidPart {
        LaidPart {
            name: name.map(|name| name.parse().unwrap()),
            shards: shards.iter().map(|text| shard(text)).collect(),
            paths: Paths::None,
        }
    }

    fn layout(split: Split) -> Layout {
        Layout {
            split,
            shard_size_bytes: 100,
            folder: false,
            keyed: None,
            parts: Vec::new(),
        }
    }

    #[test]
    fn the_order_of_parts_does_not_follow_from_the_order_of_puts() {
        let parts = [
            part(Some("b"), &["3", "44"]),
            part(None, &["1"]),
            part(Some("a-b"), &["2"]),
            part(Some("a"), &["5"]),
        ];
        let mut layout = layout(Split::Lines);
        parts.into_iter().for_each(|part| layout.replace(part));
        let (meta, index) = layout.describe().unwrap();
        let names: Vec<_> = meta
            .parts
            .iter()
            .map(|part| part.name.as_ref().map(|name| name.as_str()))
            .collect();
        // As paths would stand: `a-b/…` before `a/…`.
        assert_eq!(names, [None, Some("a-b"), Some("a"), Some("b")]);
        assert_eq!((meta.shards.len(), meta.size_bytes, index), (5, 6, None));
        layout.replace(part(Some("a-b"), &["2", "2"]));
        assert_eq!(layout.describe().unwrap().0.parts[1].shards, 2);
        assert_eq!(
            DatasetMeta::decode(&layout.describe().unwrap().0.encode())
                .unwrap()
                .parts
                .len(),
            4
        );
    }

    #[test]
    fn what_was_put_whole_says_nothing_of_parts() {
        let mut layout = layout(Split::Lines);
        layout.replace(part(None, &["1"]));
        assert!(layout.describe().unwrap().0.parts.is_empty());
    }

    #[test]
    fn shards_are_joined_while_that_is_cheap() {
        let join =
            |size: usize, following, split| joins(&shard(&"x".repeat(size)), following, &layout(split));
        assert!(join(20, 10, Split::Lines));
        assert!(!join(21, 10, Split::Lines), "it would be written too often");
        assert!(!join(60, 41, Split::Lines), "more than a shard");
        assert!(!join(1, 10, Split::None) && !join(1, 10, Split::Files));
        let five = Split::Fixed(5.try_into().unwrap());
        assert!(join(10, 10, five) && !join(9, 10, five), "a torn record");
    }

    #[test]
    fn appending_little_by_little_writes_each_byte_a_few_times() {
        let layout = Layout {
            shard_size_bytes: 1 << 20,
            ..layout(Split::Lines)
        };
        let (mut sizes, mut written) = (Vec::<usize>::new(), 0);
        for _ in 0..10_000 {
            let mut new = 100;
            while let Some(last) = sizes.last()
                && joins(
                    &LaidShard {
                        size_bytes: *last as u64,
                        ..shard("")
                    },
                    new,
                    &layout,
                )
            {
                new += sizes.pop().unwrap();
            }
            written += new;
            sizes.push(new);
        }
        assert!(sizes.len() < 25, "{} shards", sizes.len());
        assert!(written < 12 * 1_000_000, "{written} bytes written for a million");
    }

    #[test]
    fn records_stay_whole_and_a_header_stands_once() {
        let whole = |split, first: &str, second: &str| {
            joined(&shard(first), first.as_bytes(), second.as_bytes(), None, split)
        };
        assert_eq!(whole(Split::Lines, "a\n", "b").as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(whole(Split::Lines, "a", "b"), None);
        assert_eq!(whole(Split::Bytes, "a", "b").as_deref(), Some(&b"ab"[..]));
        let header = Bytes::from_static(b"x,y\n");
        let table = LaidShard {
            header: Some(header.clone()),
            ..shard("x,y\n1,2\n")
        };
        let join = |second: &[u8], header| joined(&table, b"x,y\n1,2\n", second, header, Split::Csv);
        assert_eq!(
            join(b"x,y\n3,4\n", Some(&header)).as_deref(),
            Some(&b"x,y\n1,2\n3,4\n"[..])
        );
        assert_eq!(
            join(b"5,6\n", Some(&header)).as_deref(),
            Some(&b"x,y\n1,2\n5,6\n"[..])
        );
        assert_eq!(join(b"y,x\n", Some(&Bytes::from_static(b"y,x\n"))), None);
    }
}
