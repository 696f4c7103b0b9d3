//! Symlinks of a folder, followed as far as they stay in it.

use super::{Entry, EntryKind, PathIndex, check_path};

/// Links that one path may lead through: what Linux allows.
pub const MAX_LINKS: usize = 40;

/// Why a path leads to nothing that the folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFollowed {
    /// Nothing stands there, or a folder does.
    Missing,
    /// `link`, the first on the way, leads out of the folder.
    Outside { link: String, target: String },
    /// `link`, the first on the way, leads to `at`, where nothing stands, or a folder.
    Nowhere {
        link: String,
        target: String,
        at: String,
    },
    /// More links than [`MAX_LINKS`].
    Loop,
}

impl<B: AsRef<[u8]>> PathIndex<B> {
    /// What stands at `path` once its links are followed: a file or an empty folder.
    pub fn follow(&self, path: &str) -> Result<Entry, NotFollowed> {
        if check_path(path).is_err() {
            return Err(NotFollowed::Missing);
        }
        // Most paths lead through no link.
        match self.get(path) {
            Some(entry) if !matches!(entry.kind, EntryKind::Symlink { .. }) => return Ok(entry),
            _ => {}
        }
        let mut links = 0;
        let mut first: Option<(String, String)> = None;
        let mut walked: Vec<String> = Vec::new();
        // The components still to walk, the next one last.
        let mut ahead: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        while let Some(component) = ahead.pop() {
            match component.as_str() {
                "" | "." => continue,
                ".." => {
                    if walked.pop().is_none() {
                        return Err(outside(first));
                    }
                    continue;
                }
                _ => walked.push(component),
            }
            let link = walked.join("/");
            let Some(EntryKind::Symlink { target }) = self.get(&link).map(|entry| entry.kind) else {
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(NotFollowed::Loop);
            }
            let absolute = target.starts_with('/');
            ahead.extend(target.rsplit('/').map(str::to_owned));
            first.get_or_insert((link, target));
            if absolute {
                return Err(outside(first));
            }
            walked.pop();
        }
        let at = walked.join("/");
        self.get(&at).ok_or(match first {
            Some((link, target)) => NotFollowed::Nowhere { link, target, at },
            None => NotFollowed::Missing,
        })
    }
}

fn outside(first: Option<(String, String)>) -> NotFollowed {
    match first {
        Some((link, target)) => NotFollowed::Outside { link, target },
        // Without a link nothing leads out: the path itself was checked.
        None => NotFollowed::Missing,
    }
}
