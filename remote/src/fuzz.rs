//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.

use crate::object::content_range;
use crate::url::{Remote, no_path};
use crate::{prefix, s3, transport};

/// What an S3 server answers: a page of a listing, or an error.
pub fn listing(bytes: &[u8]) {
    let _ = transport::code(bytes);
    let Ok(page) = s3::page(bytes) else { return };
    for prefix in ["", "p/"] {
        let Ok(found) = prefix::folder(prefix, page.objects.clone()) else {
            continue;
        };
        assert!(
            found
                .iter()
                .all(|found| no_path(found.path.trim_end_matches('/')).is_none())
        );
        assert!(found.is_sorted_by(|one, next| one.path < next.path));
    }
}

/// A URL as it is typed, and the range that a server says it sends, on the next line.
pub fn source(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (url, range) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(remote) = url.parse::<Remote>() {
        assert!(remote.name().chars().all(|char| char != '/'));
        if !remote.has_secrets() {
            assert_eq!(remote.to_string().parse().ok().as_ref(), Some(&remote));
        }
    }
    if let Some((range, size)) = content_range(range) {
        assert!(range.start < range.end && range.end <= size);
    }
}

#[cfg(test)]
nearfield_mutate::targets!(listing, source);
