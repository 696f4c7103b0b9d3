//! What below a prefix makes a folder.

use nearfield_protocol::said;

use crate::object::Object;
use crate::source::ListedObject;

/// Bytes of all objects: what servers say is no sum that overflows.
const MOST_BYTES: u64 = 1 << 60;

/// What stands in a folder of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderObject {
    /// Below the folder.
    pub path: String,
    /// None: an empty folder.
    pub object: Option<Object>,
}

/// What a folder cannot have is an error that names the key. An object that ends with a slash, as consoles make
/// them, is a folder.
pub fn folder(prefix: &str, listed: Vec<ListedObject>) -> Result<Vec<FolderObject>, String> {
    let mut found = Vec::with_capacity(listed.len());
    let mut all_bytes = 0_u64;
    for object in listed {
        all_bytes = all_bytes.saturating_add(object.size_bytes);
        if all_bytes > MOST_BYTES {
            return Err(format!(
                "the key `{}` has {} bytes, as its server says",
                said(&object.key),
                object.size_bytes
            ));
        }
        let Some(below) = object.key.strip_prefix(prefix) else {
            return Err(format!("`{}` was listed, which is not below it", object.key));
        };
        let (path, is_folder) = match below.strip_suffix('/') {
            Some(path) => (path, true),
            None => (below, below.is_empty()),
        };
        if is_folder && object.size_bytes > 0 {
            return Err(format!(
                "the key `{}` ends with a slash, and the object is not empty",
                object.key
            ));
        }
        if is_folder && below.is_empty() {
            continue;
        }
        if let Some(why) = super::url::no_path(path) {
            return Err(format!("the key `{}` {why}", said(&object.key)));
        }
        found.push((path.to_owned(), is_folder, object));
    }
    found.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!(
            "`{}` and `{}` are the same path",
            pair[0].2.key, pair[1].2.key
        ));
    }
    // Sorted, what lies below a path stands together, after it.
    let has_more_below = |path: &str| {
        let below = format!("{path}/");
        let first = found.partition_point(|(other, ..)| other.as_bytes() < below.as_bytes());
        found
            .get(first)
            .is_some_and(|(other, ..)| other.starts_with(&below))
    };
    let kept: Vec<bool> = found
        .iter()
        .map(|(path, is_folder, object)| match has_more_below(path) {
            true if !is_folder => Err(format!(
                "`{}` is an object, and others lie below it as in a folder",
                object.key
            )),
            has_more => Ok(!has_more),
        })
        .collect::<Result<_, _>>()?;
    let found = found.into_iter().zip(kept).filter(|(_, kept)| *kept);
    let found = found.map(|((path, is_folder, object), _)| FolderObject {
        path,
        object: (!is_folder).then_some(Object {
            key: object.key,
            size_bytes: object.size_bytes,
            etag: object.etag,
        }),
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefix: &str, listed: &[(&str, u64)]) -> Result<Vec<String>, String> {
        let listed = listed.iter().map(|&(key, size_bytes)| ListedObject {
            key: key.to_owned(),
            size_bytes,
            etag: None,
        });
        let shown = |found: FolderObject| match found.object {
            None => format!("{}/", found.path),
            Some(object) => {
                assert_eq!(object.key, format!("{prefix}{}", found.path));
                format!("{} {}", found.path, object.size_bytes)
            }
        };
        Ok(folder(prefix, listed.collect())?.into_iter().map(shown).collect())
    }

    #[test]
    fn keys_become_paths_in_byte_order() {
        let listed = [
            ("p/b", 1),
            ("p/a/c", 0),
            ("p/a.txt", 3),
            ("p/a-b", 2),
            ("p/ü/x", 4),
        ];
        let expected = ["a-b 2", "a.txt 3", "a/c 0", "b 1", "ü/x 4"];
        assert_eq!(of("p/", &listed).unwrap(), expected);
        assert_eq!(of("", &[("a", 1)]).unwrap(), ["a 1"]);
    }

    #[test]
    fn markers_of_folders_are_folders() {
        let listed = [
            ("p/", 0),
            ("p/full/", 0),
            ("p/full/x", 1),
            ("p/empty/", 0),
            ("p/a/b/", 0),
            ("p/a/", 0),
        ];
        assert_eq!(of("p/", &listed).unwrap(), ["a/b/", "empty/", "full/x 1"]);
        assert!(of("p/", &[("p/", 0)]).unwrap().is_empty());
    }

    #[test]
    fn what_no_folder_has_is_named() {
        for (listed, says) in [
            (&[("p//a", 1)][..], "`p//a` begins with a slash"),
            (&[("p/a//b", 1)], "`p/a//b` holds an empty segment"),
            (&[("p/../b", 1)], "`p/../b` holds a segment"),
            (&[("p/./b", 1)], "`p/./b`"),
            (&[("p/a\nb", 1)], "control character"),
            (&[("p//", 0)], "`p//`"),
            (&[("p/", 3)], "`p/` ends with a slash"),
            (&[("p/a/", 3)], "`p/a/` ends with a slash"),
            (&[("p/a", 0), ("p/a/", 0)], "`p/a` and `p/a/`"),
            (&[("p/a", 3), ("p/a/b", 1)], "`p/a` is an object"),
            (&[("p/a", 0), ("p/a/b/c", 1)], "`p/a` is an object"),
            (
                &[("p/a", 1), ("p/b", u64::MAX)],
                "`p/b` has 18446744073709551615 bytes",
            ),
            (&[("p/a", 3), ("p/a!", 1), ("p/a/b", 1)], "`p/a` is an object"),
            (&[("q/a", 1)], "not below"),
        ] {
            let why = of("p/", listed).unwrap_err();
            assert!(why.contains(says), "{listed:?}: {why}");
        }
    }

    /// Whoever lists thousands of folders in one key costs no more than it sends.
    #[test]
    fn keys_of_many_folders_take_no_longer_than_others() {
        let deep = |number: u32| format!("p/{}{number}", "a/".repeat(crate::url::KEY_BYTES / 2 - 10));
        let listed: Vec<_> = (0..5_000).map(deep).collect();
        let listed: Vec<_> = listed.iter().map(|key| (key.as_str(), 1)).collect();
        let begun = std::time::Instant::now();
        assert_eq!(of("p/", &listed).unwrap().len(), 5_000);
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        let long = format!("p/{}", "a".repeat(crate::url::KEY_BYTES + 1));
        assert!(
            of("p/", &[(&long, 1)])
                .unwrap_err()
                .contains("is longer than 4096 bytes")
        );
    }
}
