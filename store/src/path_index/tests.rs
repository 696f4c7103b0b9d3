use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        any::<(u32, u64, u64, bool)>().prop_map(|(shard, offset, len, executable)| EntryKind::File {
            shard,
            offset,
            len,
            executable
        }),
        "[a-z./]{1,20}".prop_map(|target| EntryKind::Symlink { target }),
        Just(EntryKind::EmptyDir),
    ]
}

/// Entries by key.
fn entries() -> impl Strategy<Value = BTreeMap<String, Entry>> {
    let entry = ("[a-c]{1,3}([/-][a-c]{1,2}){0,3}", kind()).prop_map(|(path, kind)| {
        let entry = Entry { path, kind };
        (entry.key(), entry)
    });
    proptest::collection::vec(entry, 0..200).prop_map(|entries| entries.into_iter().collect())
}

fn build(entries: &BTreeMap<String, Entry>) -> Vec<u8> {
    let mut builder = PathIndexBuilder::new();
    for entry in entries.values() {
        builder.push(&entry.path, &entry.kind);
    }
    builder.build()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn entries_come_back(entries in entries(), other in "[a-c]{1,3}(/[a-c]{1,2}){0,2}") {
        let index = PathIndex::parse(build(&entries)).unwrap();
        prop_assert_eq!(index.len(), entries.len() as u64);
        prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries.values().cloned().collect::<Vec<_>>());
        let expected = |path: &str| {
            entries.get(path).or_else(|| entries.get(&format!("{path}/"))).cloned()
        };
        for path in entries.values().map(|entry| &entry.path).chain([&other]) {
            prop_assert_eq!(index.get(path), expected(path));
            let folder = format!("{path}/");
            let below = entries.iter().filter(|(key, _)| key.starts_with(&folder));
            let below = below.map(|(_, entry)| entry.clone()).collect::<Vec<_>>();
            prop_assert_eq!(index.prefix(path).collect::<Vec<_>>(), below);
            for key in [path, &folder] {
                let behind = entries.iter().filter(|(other, _)| *other > key);
                let behind = behind.map(|(_, entry)| entry.clone()).collect::<Vec<_>>();
                prop_assert_eq!(index.behind(key).collect::<Vec<_>>(), behind);
            }
        }
    }

    #[test]
    fn hostile_bytes_do_no_harm(
        entries in entries(),
        damage in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = build(&entries);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            let Ok(index) = PathIndex::parse(bytes) else { continue };
            prop_assert!(index.iter().all(|entry| check_path(&entry.path).is_ok()));
            index.get("a/b");
            index.prefix("a").count();
            index.behind("a/b").count();
        }
    }
}

#[test]
fn many_entries_stay_small() {
    let mut builder = PathIndexBuilder::new();
    for number in 0..50_000u32 {
        let kind = EntryKind::File {
            shard: number / 100,
            offset: 1 << 20,
            len: 9000,
            executable: false,
        };
        builder.push(
            &format!("images/train/{:03}/{number:08}.jpeg", number / 1000),
            &kind,
        );
    }
    let bytes = builder.build();
    assert!(
        bytes.len() < 50_000 * 30,
        "{} bytes an entry",
        bytes.len() / 50_000
    );
    assert!(
        PathIndex::parse(&bytes)
            .unwrap()
            .get("images/train/007/00007777.jpeg")
            .is_some()
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "./a",
        "a/../b",
        "..",
        "a\0b",
        &"a".repeat(4097),
    ] {
        assert!(check_path(path).is_err(), "{path:?}");
    }
    for path in ["a", "a/b", "..a", "a b/ü", ".git"] {
        assert!(check_path(path).is_ok(), "{path:?}");
    }
}

#[test]
fn links_are_followed_inside_the_folder() {
    let link = |target: &str| EntryKind::Symlink {
        target: target.to_owned(),
    };
    let file = EntryKind::File {
        shard: 1,
        offset: 2,
        len: 3,
        executable: false,
    };
    let mut builder = PathIndexBuilder::new();
    for (path, kind) in [
        ("a/file", &file),
        ("a/here", &link("file")),
        ("a/up", &link("../b/./far")),
        ("absolute", &link("/etc/hostname")),
        ("b/far", &link("../folder/file")),
        ("b/through", &link("far/more")),
        ("dangling", &link("a/nothing")),
        ("folder", &link("a")),
        ("loop", &link("pool")),
        ("out", &link("a/../../etc")),
        ("pool", &link("loop")),
    ] {
        builder.push(path, kind);
    }
    let index = PathIndex::parse(builder.build()).unwrap();
    for path in ["a/file", "a/here", "a/up", "b/far", "folder/file", "folder/up"] {
        let entry = index
            .follow(path)
            .unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!((entry.path.as_str(), &entry.kind), ("a/file", &file), "{path}");
    }
    let leads = |path: &str, link: &str, target: &str| {
        let (link, target) = (link.to_owned(), target.to_owned());
        assert_eq!(
            index.follow(path),
            Err(NotFollowed::Outside { link, target }),
            "{path}"
        );
    };
    leads("absolute", "absolute", "/etc/hostname");
    leads("absolute/more", "absolute", "/etc/hostname");
    leads("out", "out", "a/../../etc");
    assert_eq!(
        index.follow("dangling"),
        Err(NotFollowed::Nowhere {
            link: "dangling".to_owned(),
            target: "a/nothing".to_owned(),
            at: "a/nothing".to_owned()
        })
    );
    // What lies below a file is nowhere, as in a file system.
    assert_eq!(
        index.follow("b/through"),
        Err(NotFollowed::Nowhere {
            link: "b/through".to_owned(),
            target: "far/more".to_owned(),
            at: "a/file/more".to_owned()
        })
    );
    assert_eq!(index.follow("loop"), Err(NotFollowed::Loop));
    for path in [
        "nothing",
        "a",
        "a/file/x",
        "",
        "../a/file",
        "/a/file",
        "a/../a/file",
    ] {
        assert_eq!(index.follow(path), Err(NotFollowed::Missing), "{path}");
    }
}
