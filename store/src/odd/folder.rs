//! Folders of odd files: as a tar stream in several dialects, and in place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nearfield_protocol::Split;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tar::{Builder, EntryType, Header};

use super::file::{odd_bytes, odd_name};
use super::names;
use super::rig::{Rig, request};
use crate::path_index::EntryKind;
use crate::{Dataset, StoreError};

#[derive(Debug, Clone)]
pub enum Thing {
    File {
        bytes: Vec<u8>,
        executable: bool,
    },
    /// So many bytes of nothing, then these.
    Sparse {
        hole_bytes: u64,
        bytes: Vec<u8>,
    },
    Symlink(String),
    EmptyDir,
}

impl Thing {
    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Thing::File { bytes, .. } => Some(bytes.clone()),
            Thing::Sparse { hole_bytes, bytes } => {
                Some([&vec![0; *hole_bytes as usize], &bytes[..]].concat())
            }
            Thing::Symlink(_) | Thing::EmptyDir => None,
        }
    }
}

/// How the archive says what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Gnu,
    Ustar,
    /// Path and size in pax records.
    Pax,
    /// A hard link to the first file stands at the end.
    HardLink,
    /// The first file is said to be sparse.
    PaxSparse,
}

#[derive(Debug, Clone)]
pub struct Tree {
    things: BTreeMap<String, Thing>,
    dialect: Dialect,
}

pub fn split() -> impl Strategy<Value = Option<Split>> {
    prop_oneof![
        3 => Just(None), 2 => Just(Some(Split::Files)), 1 => Just(Some(Split::Lines)), 1 => Just(Some(Split::Csv)),
        1 => Just(Some(Split::Bytes)),
    ]
}

pub fn tree() -> impl Strategy<Value = Tree> {
    let thing = prop_oneof![
        6 => (odd_bytes(), any::<bool>()).prop_map(|(bytes, executable)| Thing::File { bytes, executable }),
        1 => (1u64..100_000, odd_bytes()).prop_map(|(hole_bytes, bytes)| Thing::Sparse { hole_bytes, bytes }),
        1 => prop_oneof![Just("../x"), Just("/etc/passwd"), Just("t.csv"), Just("ü")].prop_map(|to| Thing::Symlink(to.to_owned())),
        1 => Just(Thing::EmptyDir),
    ];
    // Components end with a letter of their depth, so that no file is another's folder.
    let path =
        prop::collection::vec(prop_oneof![4 => odd_name(), 1 => "[a-z]{90,120}"], 1..4).prop_map(|parts| {
            let last = parts.len() - 1;
            let parts = parts.iter().enumerate();
            let parts = parts.map(|(depth, part)| {
                if depth == last {
                    format!("f{part}")
                } else {
                    format!("d{part}")
                }
            });
            parts.collect::<Vec<_>>().join("/")
        });
    let dialect = prop_oneof![
        4 => Just(Dialect::Gnu), 2 => Just(Dialect::Ustar), 2 => Just(Dialect::Pax), 1 => Just(Dialect::HardLink),
        1 => Just(Dialect::PaxSparse)
    ];
    (prop::collection::btree_map(path, thing, 0..8), dialect)
        .prop_map(|(things, dialect)| Tree { things, dialect })
}

pub fn comes_back(rig: &Rig, tree: &Tree, split: Option<Split>) -> Result<(), TestCaseError> {
    if let Some(tar) = tree.tar() {
        let mut put = request("folder", split);
        put.folder = true;
        match rig.put(&tar, put) {
            Ok(dataset) => {
                prop_assert!(!tree.is_refused(), "{:?} was taken", tree.dialect);
                tree.is_in(rig, &dataset)?;
            }
            Err(error) => tree.is_named(&error)?,
        }
    }
    let folder = rig.folder();
    tree.write(folder.path());
    // What lies in place is cut, never packed.
    let split = split.filter(|split| *split != Split::Files);
    match rig.put_in_place(folder.path(), split) {
        Ok(dataset) => tree.is_in(rig, &dataset),
        Err(error) => tree.is_named(&error),
    }
}

impl Tree {
    fn first_file(&self) -> Option<&String> {
        let mut things = self.things.iter();
        things
            .find(|(_, thing)| thing.bytes().is_some())
            .map(|(path, _)| path)
    }

    fn is_refused(&self) -> bool {
        let odd = matches!(self.dialect, Dialect::HardLink | Dialect::PaxSparse);
        odd && self.first_file().is_some()
    }

    fn is_named(&self, error: &StoreError) -> Result<(), TestCaseError> {
        let told = error.to_string();
        let named = self.things.keys().find(|path| told.contains(path.as_str()));
        // A hard link has a path of its own.
        let name = named.map_or("zz-link", |path| path.as_str());
        names(error, name)
    }

    fn is_in(&self, rig: &Rig, dataset: &Dataset) -> Result<(), TestCaseError> {
        let mut entries: BTreeMap<_, _> = dataset.entries().map(|entry| (entry.path, entry.kind)).collect();
        for (path, thing) in &self.things {
            let kind = entries.remove(path);
            if let Some(bytes) = thing.bytes() {
                let executable = matches!(thing, Thing::File { executable: true, .. });
                let is = matches!(kind, Some(EntryKind::File { executable: is, .. }) if is == executable);
                prop_assert!(is, "{path} is {kind:?}");
                let back = rig.file(dataset, path).unwrap().unwrap();
                prop_assert!(back == bytes, "{path}: {} bytes of {}", back.len(), bytes.len());
                continue;
            }
            let expected = match thing {
                Thing::Symlink(target) => EntryKind::Symlink {
                    target: target.clone(),
                },
                _ => EntryKind::EmptyDir,
            };
            prop_assert_eq!(kind, Some(expected), "{}", path);
        }
        prop_assert!(entries.is_empty(), "nobody put {:?}", entries);
        Ok(())
    }

    /// None where the dialect has no room for a path.
    fn tar(&self) -> Option<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        let mut things: Vec<_> = self.things.iter().collect();
        // An empty folder's path ends with a slash there.
        things.sort_by_key(|(path, thing)| match thing {
            Thing::EmptyDir => format!("{path}/"),
            _ => (*path).clone(),
        });
        let first = self.first_file();
        for (path, thing) in things {
            let bytes = thing.bytes().unwrap_or_default();
            let mut header = match self.dialect {
                Dialect::Ustar | Dialect::Pax | Dialect::PaxSparse => Header::new_ustar(),
                Dialect::Gnu | Dialect::HardLink => Header::new_gnu(),
            };
            header.set_size(bytes.len() as u64);
            header.set_mode(if matches!(thing, Thing::File { executable: true, .. }) {
                0o755
            } else {
                0o644
            });
            if self.dialect == Dialect::PaxSparse && first == Some(path) {
                tar.append_pax_extensions([
                    ("GNU.sparse.major", &b"1"[..]),
                    ("GNU.sparse.name", path.as_bytes()),
                ])
                .unwrap();
            }
            if self.dialect == Dialect::Pax {
                let size = bytes.len().to_string();
                tar.append_pax_extensions([
                    ("path", path.as_bytes()),
                    ("size", size.as_bytes()),
                    ("mtime", b"1.5"),
                ])
                .unwrap();
            }
            let told = if self.dialect == Dialect::Pax {
                "told-by-pax"
            } else {
                path.as_str()
            };
            let appended = match thing {
                Thing::Symlink(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, told, target)
                }
                Thing::EmptyDir => {
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, format!("{told}/"), &[][..])
                }
                Thing::File { .. } | Thing::Sparse { .. } => {
                    header.set_entry_type(EntryType::Regular);
                    tar.append_data(&mut header, told, &bytes[..])
                }
            };
            // ustar has no room for every path.
            appended.ok()?;
        }
        if self.dialect == Dialect::HardLink
            && let Some(path) = first
        {
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_entry_type(EntryType::Link);
            tar.append_link(&mut header, "zz-link", path).unwrap();
        }
        Some(tar.into_inner().unwrap())
    }

    fn write(&self, folder: &std::path::Path) {
        for (path, thing) in &self.things {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match thing {
                Thing::File { bytes, executable } => {
                    fs::write(&path, bytes).unwrap();
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                }
                Thing::Sparse { hole_bytes, bytes } => {
                    use std::os::unix::fs::FileExt;
                    let file = fs::File::create(&path).unwrap();
                    file.set_len(hole_bytes + bytes.len() as u64).unwrap();
                    file.write_all_at(bytes, *hole_bytes).unwrap();
                }
                Thing::Symlink(target) => symlink(target, &path).unwrap(),
                Thing::EmptyDir => fs::create_dir(&path).unwrap(),
            }
        }
    }
}
