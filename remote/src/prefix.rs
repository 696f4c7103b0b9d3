//! What below a prefix makes a folder.

use std::collections::HashSet;

use crate::object::Object;
use crate::source::ListedObject;

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
    for object in listed {
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
            return Err(format!("the key `{}` {why}", object.key));
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
    let folders: HashSet<&str> = found.iter().flat_map(|(path, ..)| parents(path)).collect();
    if let Some((_, _, object)) = found
        .iter()
        .find(|(path, is_folder, _)| !is_folder && folders.contains(path.as_str()))
    {
        return Err(format!(
            "`{}` is an object, and others lie below it as in a folder",
            object.key
        ));
    }
    let kept: Vec<bool> = found
        .iter()
        .map(|(path, is_folder, _)| !is_folder || !folders.contains(path.as_str()))
        .collect();
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

/// `a`, `a/b` of `a/b/c`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
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
            (&[("q/a", 1)], "not below"),
        ] {
            let why = of("p/", listed).unwrap_err();
            assert!(why.contains(says), "{listed:?}: {why}");
        }
    }
}
