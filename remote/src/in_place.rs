//! Objects that stay where they are, as the store reads them.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nearfield_store::{FoundObjects, Object as InPlaceObject, ObjectError, Objects};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::ahead::Ahead;
use crate::error::{Cause, RemoteError};
use crate::object::{Object, is_strong};
use crate::site::{Encoded, Pins, Site, Trust};
use crate::url::Remote;

/// Buckets, and objects of web servers, whose connections are kept.
const MAX_SITES: u64 = 64;
/// How long they are kept unused.
const SITE_IDLE: Duration = Duration::from_secs(300);
/// Requests at once: each holds a window of 4 MiB or a piece of a put of 8 MiB, and a thread waits for it.
const MAX_REQUESTS: usize = 64;

/// The objects that a node reads where they are: those below URLs that its owner allowed.
///
/// Its functions block, and may be called on any thread; what a reader gives is read where a thread may block.
pub struct RemoteObjects {
    allowed: Vec<Remote>,
    runtime: Handle,
    /// By what [`Remote::site`] says.
    sites: moka::sync::Cache<String, Arc<Site>>,
    requests: Arc<Semaphore>,
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
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
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
            encoded: Encoded::Refused,
        };
        let site = self
            .sites
            .try_get_with(remote.site(), || Site::of(&remote, trust).map(Arc::new));
        match site {
            Ok(site) => Ok((site, key)),
            Err(error) => Err(told((*error).clone())),
        }
    }

    /// Makes a request, within `limit` if there is one, and waits for it.
    fn wait<T: Send + 'static>(
        &self,
        limit: Option<Duration>,
        request: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let room = self.requests.clone();
        let request = async move {
            let _room = room.acquire_owned().await;
            request.await
        };
        // A task of the runtime: when that ends, so does the wait.
        let asked = self.runtime.spawn(async move {
            match limit {
                Some(limit) => tokio::time::timeout(limit, request).await,
                None => Ok(request.await),
            }
        });
        // A runtime's own threads may not wait without saying so; elsewhere it changes nothing.
        match tokio::task::block_in_place(|| self.runtime.block_on(asked)) {
            Ok(Ok(answered)) => answered.map_err(told),
            Ok(Err(_)) => Err(ObjectError::Unreachable(format!(
                "the server did not answer within {} s: try again later, or put a copy",
                limit.unwrap_or_default().as_secs()
            ))),
            Err(_) => Err(ObjectError::Failed("the node is stopping".to_owned())),
        }
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
            let listed = site.clone();
            let found = self.wait(None, async move { listed.folder(&key, Pins::All).await })?;
            let entries = found
                .into_iter()
                .map(|found| Ok((found.path, found.object.map(pinned).transpose()?)));
            return Ok(FoundObjects::Folder(entries.collect::<Result<_, _>>()?));
        }
        let asked = site.clone();
        match self.wait(None, async move { asked.describe(&key).await })? {
            Some(object) => Ok(FoundObjects::One(pinned(object)?)),
            None => Err(unpinned(url)),
        }
    }

    fn read(
        &self,
        url: &str,
        etag: Option<&str>,
        range: Range<u64>,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, ObjectError> {
        let (site, key) = self.site(url)?;
        let etag = etag.map(str::to_owned);
        self.wait(
            limit,
            async move { site.range(&key, etag.as_deref(), range).await },
        )
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
        Cause::Unreachable | Cause::TimedOut => ObjectError::Unreachable(text),
        _ => ObjectError::Failed(text),
    }
}
