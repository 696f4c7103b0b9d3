//! Folders: packed, cut, and whole again.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{Builder, EntryType, Header};

use super::*;
use crate::pack::write_folder_tar;
use crate::path_index::{EntryKind, PathIndex};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(Vec<u8>, bool),
    Link(String),
    EmptyDir,
}

type Tree = BTreeMap<String, Node>;

/// As a careful sender makes it: every folder has an entry, and paths are in byte order.
fn tar_of(tree: &Tree) -> Vec<u8> {
    let mut all = tree
        .iter()
        .map(|(path, node)| (path.clone(), Some(node)))
        .collect::<BTreeMap<_, _>>();
    for path in tree.keys() {
        for (slash, _) in path.match_indices('/') {
            all.insert(path[..slash].to_owned(), None);
        }
    }
    let mut builder = Builder::new(Vec::new());
    for (path, node) in all {
        let mut header = Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_uid(1000);
        header.set_mode(0o640);
        match node {
            Some(Node::File(content, executable)) => {
                header.set_mode(if *executable { 0o750 } else { 0o640 });
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, &content[..]).unwrap();
            }
            Some(Node::Link(target)) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Some(Node::EmptyDir) | None => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                builder
                    .append_data(&mut header, format!("{path}/"), io::empty())
                    .unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn tree_of(tar: &[u8]) -> Tree {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 0);
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let node = match entry.header().entry_type() {
            EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                Node::File(content, entry.header().mode().unwrap() == 0o755)
            }
            EntryType::Symlink => {
                Node::Link(String::from_utf8(entry.link_name_bytes().unwrap().into_owned()).unwrap())
            }
            EntryType::Directory => Node::EmptyDir,
            other => panic!("{other:?}"),
        };
        (path.trim_end_matches('/').to_owned(), node)
    });
    entries.collect()
}

fn cut_tar(mut tar: &[u8], split: Split) -> Result<(Vec<Shard>, PathIndex<Vec<u8>>), CutError> {
    let mut shards = Vec::new();
    let index = cut_folder(&mut tar, "", &options(split), &mut collect(&mut shards))?;
    Ok((shards, PathIndex::parse(index.build()).unwrap()))
}

fn tree(seed: u64, files: usize) -> Tree {
    let mut random = Random(seed);
    let mut tree = Tree::new();
    for number in 0..files {
        let long = if number % 40 == 7 {
            "long/".repeat(30)
        } else {
            String::new()
        };
        let path = format!(
            "d{}/{long}f{:06}{}",
            random.below(9),
            random.below(1 << 20),
            ["", ".txt"][number % 2]
        );
        let node = match random.below(20) {
            0 => Node::EmptyDir,
            1 => Node::Link(["../x", "/etc/passwd", &"deep/".repeat(50)][random.below(3)].to_owned()),
            2 => Node::File(lines(random.next(), 150_000), false),
            3 => Node::File(Vec::new(), true),
            _ => {
                let size = random.below(9_000);
                Node::File(random.bytes(size), random.below(2) == 0)
            }
        };
        tree.insert(path, node);
    }
    tree
}

#[test]
fn a_folder_comes_back() {
    for (seed, split) in [
        (1, Split::Files),
        (2, Split::Lines),
        (3, Split::Bytes),
        (4, Split::Csv),
        (5, Split::None),
    ] {
        let mut tree = tree(seed, 150);
        // Between the folder `a` and what it holds.
        tree.insert("a.txt".into(), Node::File(b"x".to_vec(), false));
        tree.insert("a-b".into(), Node::EmptyDir);
        tree.insert("a/b/c".into(), Node::EmptyDir);
        tree.insert("a0".into(), Node::EmptyDir);
        let (shards, index) = cut_tar(&tar_of(&tree), split).unwrap();
        let mut back = Vec::new();
        let mut shard = |number: u32, offset: u64, most: u64| {
            let bytes = &shards[number as usize].bytes[offset as usize..];
            Ok(&bytes[..bytes.len().min(most as usize)])
        };
        write_folder_tar(&index, &mut shard, &mut back).unwrap();
        let found = tree_of(&back);
        assert!(
            found.keys().eq(tree.keys()),
            "{split}: {found:?}",
            found = found.keys()
        );
        assert!(found == tree, "{split}");
        let again = cut_tar(&back, split).unwrap();
        assert_eq!(
            digests(&again.0),
            digests(&shards),
            "what came back is cut the same"
        );
        for shard in &shards {
            assert_eq!(shard.source.is_some(), split != Split::Files);
        }
    }
}

#[test]
fn packs_are_archives_and_the_index_points_into_them() {
    let tree = tree(9, 300);
    let (shards, index) = cut_tar(&tar_of(&tree), Split::Files).unwrap();
    let joined = shards
        .iter()
        .flat_map(|shard| tree_of(&shard.bytes))
        .collect::<Tree>();
    assert!(joined == tree);
    for entry in index.iter() {
        let EntryKind::File {
            shard, offset, len, ..
        } = entry.kind
        else {
            continue;
        };
        let content = &shards[shard as usize].bytes[offset as usize..][..len as usize];
        assert!(matches!(&tree[&entry.path], Node::File(expected, _) if expected == content));
    }
    let mean = shards.iter().map(|shard| shard.bytes.len()).sum::<usize>() / shards.len();
    assert!((16 << 10..160 << 10).contains(&mean), "a mean of {mean} bytes");
}

#[test]
fn a_file_behind_an_empty_folder_that_ends_a_pack_is_found() {
    let pair = |number: u32| {
        let file = Node::File(format!("content {number}").into_bytes(), false);
        [
            (format!("{number:03}-a"), Node::EmptyDir),
            (format!("{number:03}-b"), file),
        ]
    };
    let tree: Tree = (0..500).flat_map(pair).collect();
    let (shards, index) = cut_tar(&tar_of(&tree), Split::Files).unwrap();
    let ends_with = |shard: &Shard| tree_of(&shard.bytes).pop_last().map(|(_, node)| node);
    assert!(
        shards
            .iter()
            .any(|shard| ends_with(shard) == Some(Node::EmptyDir))
    );
    for entry in index.iter() {
        if let EntryKind::File {
            shard, offset, len, ..
        } = entry.kind
        {
            let content = &shards[shard as usize].bytes[offset as usize..][..len as usize];
            assert!(
                matches!(&tree[&entry.path], Node::File(expected, _) if expected == content),
                "{}",
                entry.path
            );
        }
    }
}

#[test]
fn one_new_file_changes_few_packs() {
    for seed in 0..12 {
        let mut tree = tree(seed, 250);
        let old = cut_tar(&tar_of(&tree), Split::Files).unwrap().0;
        tree.insert(
            format!("d{}/f5-new", seed % 9),
            Node::File(Random(seed).bytes(3_000), false),
        );
        let new = cut_tar(&tar_of(&tree), Split::Files).unwrap().0;
        assert!(
            (1..=3).contains(&changed(&old, &new)),
            "{} of {}",
            changed(&old, &new),
            new.len()
        );
    }
}

#[test]
fn a_huge_file_is_packed_on_disk() {
    let content = Random(1).bytes(17 << 20);
    let tree = Tree::from([("huge".to_owned(), Node::File(content, false))]);
    let (shards, _) = cut_tar(&tar_of(&tree), Split::Files).unwrap();
    assert!(shards[0].spilled);
    assert!(tree_of(&shards[0].bytes) == tree);
}

/// One entry with the raw `path`, which the tar crate would not write.
fn raw_entry(path: &[u8], entry_type: EntryType) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(0o644);
    header.set_size(0);
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkname[0] = b'x';
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn hostile_archives_are_refused_by_name() {
    let refusal = |entries: &[(&str, EntryType)]| {
        let blocks = entries
            .iter()
            .flat_map(|(path, kind)| raw_entry(path.as_bytes(), *kind));
        let tar = blocks.chain([0; 1024]).collect::<Vec<_>>();
        cut_tar(&tar, Split::Files)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let file = EntryType::Regular;
    let dir = EntryType::Directory;
    for path in ["/etc/passwd", "../x", "a/../b", "./a", "a//b", "a/", ""] {
        assert!(
            refusal(&[(path, file)]).starts_with(&format!("the path `{path}`")),
            "{path}"
        );
    }
    assert!(refusal(&[("b", file), ("a", file)]).contains("byte order"));
    assert!(refusal(&[("a", file), ("a", file)]).contains("twice"));
    assert!(refusal(&[("a", dir), ("a", file)]).contains("twice"));
    assert!(refusal(&[("a", file), ("a/", dir)]).contains("twice"));
    assert!(refusal(&[("a/", dir), ("a/", dir)]).contains("twice"));
    assert!(refusal(&[("a", file), ("a.b", file), ("a/b", file)]).contains("lies below a file"));
    for (kind, name) in [
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "fifo"),
        (EntryType::GNUSparse, "sparse file"),
        (EntryType::new(b'M'), "several volumes"),
        (EntryType::new(b'V'), "label of a volume"),
        (EntryType::new(b'D'), "incremental"),
        (EntryType::new(b'?'), "unknown"),
    ] {
        let text = refusal(&[("bad", kind)]);
        assert!(text.contains("`bad`") && text.contains(name), "{text}");
    }
    let not_utf8 = [raw_entry(b"a\xff", file), vec![0; 1024]].concat();
    assert!(matches!(
        cut_tar(&not_utf8, Split::Files),
        Err(CutError::BadPath { .. })
    ));
}

#[test]
fn a_sparse_file_is_refused_by_its_own_name() {
    let records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n24 GNU.sparse.name=hole\n28 GNU.sparse.realsize=9999\n";
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    let file = raw_entry(b"GNUSparseFile.7/hole", EntryType::Regular);
    let padding = crate::pack::padding(records.len() as u64);
    let tar = [header.as_bytes(), records.as_bytes(), padding, &file, &[0; 1024]].concat();
    for split in [Split::Files, Split::Lines, Split::Bytes] {
        let told = cut_tar(&tar, split).err().unwrap().to_string();
        assert!(
            told.contains("`hole` is a sparse file") && told.contains("without `--sparse`"),
            "{told}"
        );
    }
}

#[test]
fn broken_archives_are_refused() {
    let whole = tar_of(&tree(1, 20));
    for end in (0..whole.len() - 1024).step_by(511).chain([whole.len() - 1024]) {
        let result = cut_tar(&whole[..end], Split::Bytes);
        assert!(matches!(result, Err(CutError::Tar(_))), "cut off at {end}");
    }
    assert!(matches!(cut_tar(&[7; 4096], Split::Files), Err(CutError::Tar(_))));
    let mut long_name = Header::new_gnu();
    long_name.set_entry_type(EntryType::GNULongName);
    long_name.set_size(1 << 40);
    long_name.set_cksum();
    let mut endless = Cursor::new(long_name.as_bytes().to_vec()).chain(io::repeat(b'a'));
    let result = cut_folder(&mut endless, "", &options(Split::Files), &mut |_| Ok(()));
    assert!(matches!(result, Err(CutError::Tar(text)) if text.contains("1 MiB")));
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut damaged = whole.clone();
        for _ in 0..4 {
            let at = random.below(damaged.len());
            damaged[at] = random.next() as u8;
        }
        let _ = cut_tar(&damaged, Split::Files);
    }
}
