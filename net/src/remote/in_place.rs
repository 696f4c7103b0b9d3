use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nearfield_store::{FoundObjects, Object as InPlaceObject, ObjectError, Objects};
use tokio::runtime::Handle;

use super::ahead::Ahead;
use super::object::{Object, is_strong};
use super::site::{Pins, Site, Trust};
use super::url::Remote;
use super::{Cause, RemoteError};

/// Buckets and servers whose connections are kept.
const MAX_SITES: u64 = 64;
/// How long they are kept unused.
const SITE_IDLE: Duration = Duration::from_secs(300);

/// The objects that a node reads where they are: those below URLs that its owner allowed.
///
/// Its functions block, and may be called on any thread.
pub struct RemoteObjects {
    allowed: Vec<Remote>,
    runtime: Handle,
    /// By what [`Remote::site`] says.
    sites: moka::sync::Cache<String, Arc<Site>>,
}

impl RemoteObjects {
    /// `allowed`: each names an object, or all below it if it ends with `/`. Requests are made on `runtime`.
    pub fn new(allowed: Vec<Remote>, runtime: Handle) -> Self {
        RemoteObjects {
            allowed,
            runtime,
            sites: moka::sync::Cache::builder()
                .max_capacity(MAX_SITES)
                .time_to_idle(SITE_IDLE)
                .build(),
        }
    }

    /// Where the object or folder at `url` is read from, and its key there.
    fn site(&self, url: &str) -> Result<(Arc<Site>, String), ObjectError> {
        let remote: Remote = url.parse().map_err(ObjectError::Failed)?;
        if remote.has_secrets() {
            return Err(ObjectError::Failed(format!(
                "{remote} holds a password or a query, and what is in place is kept and shown: put a copy"
            )));
        }
        if !self.allowed.iter().any(|allowed| allowed.holds(&remote)) {
            let allowed: Vec<_> = self.allowed.iter().map(Remote::to_string).collect();
            return Err(ObjectError::Failed(format!(
                "{remote} is not below a URL that this node may read in place ({}): `--allow-source` adds more",
                allowed.join(", ")
            )));
        }
        let key = match &remote {
            Remote::S3 { key, .. } => key.clone(),
            Remote::Web(_) => String::new(),
        };
        let trust = Trust {
            // Whoever allowed `http://…` has said so; where S3 is, the environment says.
            plain_http: matches!(remote, Remote::Web(_)),
            // They lead to where nobody allowed it.
            redirects: false,
        };
        let site = self
            .sites
            .try_get_with(remote.site(), || Site::of(&remote, trust).map(Arc::new));
        match site {
            Ok(site) => Ok((site, key)),
            Err(error) => Err(told((*error).clone())),
        }
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        // A runtime's own threads may not wait without saying so; elsewhere it changes nothing.
        tokio::task::block_in_place(|| self.runtime.block_on(work))
    }
}

impl Objects for RemoteObjects {
    fn find(&self, url: &str) -> Result<FoundObjects, ObjectError> {
        let (site, key) = self.site(url)?;
        let pinned = |object: Object| {
            let url = site.shown(&object.key);
            // Nothing of an empty one can change but its size.
            let empty = (object.size_bytes == 0).then(String::new);
            match object.etag.filter(|etag| is_strong(etag)).or(empty) {
                Some(etag) => Ok(InPlaceObject {
                    url,
                    size_bytes: object.size_bytes,
                    etag,
                }),
                None => Err(unpinned(&url)),
            }
        };
        if url.ends_with('/') && matches!(url.parse(), Ok(Remote::S3 { .. })) {
            let found = self.wait(site.folder(&key, Pins::All)).map_err(told)?;
            let entries = found
                .into_iter()
                .map(|found| Ok((found.path, found.object.map(pinned).transpose()?)));
            return Ok(FoundObjects::Folder(entries.collect::<Result<_, _>>()?));
        }
        match self.wait(site.describe(&key)).map_err(told)? {
            Some(object) => Ok(FoundObjects::One(pinned(object)?)),
            None => Err(unpinned(&site.shown(&key))),
        }
    }

    fn read(&self, url: &str, etag: Option<&str>, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let (site, key) = self.site(url)?;
        self.wait(site.range(&key, etag, range)).map_err(told)
    }

    fn reader(&self, object: &InPlaceObject, start: u64) -> Result<Box<dyn Read>, ObjectError> {
        let (site, key) = self.site(&object.url)?;
        let pinned = Object {
            key,
            size_bytes: object.size_bytes,
            etag: Some(object.etag.clone()),
        };
        let ahead = Ahead::from(self.runtime.clone(), site, pinned, start);
        Ok(Box::new(Told(ahead)))
    }
}

/// A stream whose errors are the store's.
struct Told(Ahead);

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            let known = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<RemoteError>());
            match known.cloned() {
                Some(known) => std::io::Error::other(told(known)),
                None => error,
            }
        })
    }
}

fn unpinned(url: &str) -> ObjectError {
    ObjectError::Failed(format!(
        "{url} cannot stay where it is: its server gives no ranges of it, or no ETag by which a change would show; \
         put a copy, without --in-place"
    ))
}

fn told(error: RemoteError) -> ObjectError {
    let text = match &error.next {
        Some(next) => format!("{error}; {next}"),
        None => error.to_string(),
    };
    match error.cause {
        Cause::Changed | Cause::NotFound => ObjectError::Changed(text),
        _ => ObjectError::Failed(text),
    }
}
