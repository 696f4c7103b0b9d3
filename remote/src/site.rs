//! Objects and their pieces, as they are asked of a source.

use std::collections::BTreeSet;
use std::ops::Range;

use futures_util::stream::{FuturesUnordered, StreamExt};
use nearfield_protocol::units::format_bytes;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, HeaderValue, IF_MATCH, RANGE};
use reqwest::{Request, Response, StatusCode};

use crate::error::{Cause, RemoteError};
use crate::object::{AHEAD_REQUESTS, Object, PIECE_BYTES, Wrong, described, is_strong, rangeable, verdict};
use crate::prefix::{self, FolderObject};
use crate::s3::Bucket;
use crate::source::{ListedObject, Source};
use crate::transport::{self, Refusal, Transport, Trouble};
use crate::trouble::{AskedUrl, changed, explain};
use crate::url::{Remote, is_exposed};
use crate::web::WebFile;

/// What a folder may hold, as the output of a job.
const MOST_OBJECTS: usize = 1_000_000;

/// A listing that ends nowhere must end here: pages hold a thousand keys, and may be empty.
const MOST_PAGES: usize = 100_000;
/// Pages in a row that may be empty: where much was deleted, there are some.
const MOST_EMPTY_PAGES: usize = 1_000;
/// Bytes of all keys and ETags of a listing: a million of usual length.
const MOST_LISTED_BYTES: usize = 256 << 20;

/// Encoded objects that are named.
const MOST_NAMED: usize = 1_000;

/// What a site may do with who reads it.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// Plain http may be used wherever it leads.
    pub plain_http: bool,
    /// It may lead to other places.
    pub redirects: bool,
    pub encoded: Encoded,
}

/// What becomes of objects that their server says are encoded, where their bytes do not tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// They are read, and [`Site::encoded`] names them.
    Named,
    Refused,
}

/// Which objects of a folder must have an ETag.
#[derive(Debug, Clone, Copy)]
pub enum Pins {
    /// Those that come in more than one piece.
    Pieces,
    /// All but empty ones.
    All,
}

/// Where objects are read from.
pub struct Site {
    transport: Transport,
    source: Box<dyn Source>,
    encoded: Encoded,
    /// Objects of folders that are encoded. The lock is held for one look-up.
    named: Mutex<BTreeSet<String>>,
}

/// How an object begins.
pub enum First {
    /// With its first piece, and what the server says that it is encoded as; the other pieces can be asked for.
    Ranges(Object, Vec<u8>, Option<String>),
    /// It comes in one stream, or not at all: the server gives no ranges, or no word by which a change would show.
    Stream(Response),
}

/// What an answer's body is encoded as, if its server says so: `br`, for instance.
pub fn encoding(head: &Response) -> Option<String> {
    let encoding = head.headers().get(CONTENT_ENCODING)?.to_str().ok()?;
    let encoding = encoding.trim().to_ascii_lowercase();
    (!encoding.is_empty() && encoding != "identity").then_some(encoding)
}

/// Whether what is encoded so cannot be told by its first bytes, as gzip and zstd can.
fn is_hidden(encoding: &str) -> bool {
    let mut encodings = encoding.split(',').map(str::trim);
    encodings.any(|encoding| matches!(encoding, "br" | "deflate" | "compress"))
}

impl Site {
    /// Where `remote` is; as whom it is read, the environment says.
    pub fn of(remote: &Remote, trust: Trust) -> Result<Site, RemoteError> {
        let insecure = trust.plain_http;
        let (source, redirects): (Box<dyn Source>, bool) = match remote {
            Remote::S3 { bucket, .. } => {
                let env = |name: &str| std::env::var(name).ok();
                // S3 redirects to the right region, where a signature for another is worth nothing.
                (Box::new(Bucket::from_env(bucket, insecure, env)?), false)
            }
            Remote::Web(url) if is_exposed(url) && !insecure => {
                let what = format!("{remote} is plain http, where others can read and change what comes");
                return Err(
                    RemoteError::new(Cause::Usage, what).next("use https://, or pass --insecure-source")
                );
            }
            Remote::Web(url) => (Box::new(WebFile(url.clone())), trust.redirects),
        };
        let transport = Transport::new(source.place(), redirects, insecure)?;
        Ok(Site {
            transport,
            source,
            encoded: trust.encoded,
            named: Mutex::default(),
        })
    }

    /// The pieces that came so far of these objects are encoded, as a put does not take off.
    pub fn encoded(&self) -> Vec<String> {
        let named = self.named.lock();
        named.iter().cloned().collect()
    }

    /// Notes or refuses an object that is encoded as a put does not take off.
    fn look_at_encoding(&self, key: &str, head: &Response) -> Result<(), RemoteError> {
        let Some(encoding) = encoding(head).filter(|encoding| is_hidden(encoding)) else {
            return Ok(());
        };
        let shown = self.shown(key);
        match self.encoded {
            Encoded::Named => {
                let mut named = self.named.lock();
                if named.len() < MOST_NAMED {
                    named.insert(shown);
                }
                Ok(())
            }
            Encoded::Refused => {
                let what = format!("{shown} is encoded as its server says (content-encoding: {encoding})");
                let next = "its bytes are not what its name says: put a copy, without --in-place";
                Err(RemoteError::new(Cause::Failed, what).next(next))
            }
        }
    }

    pub fn shown(&self, key: &str) -> String {
        self.source.shown(key)
    }

    /// All below a prefix as a folder, in the order of its paths; every object can be read by ranges.
    pub async fn folder(&self, prefix: &str, pins: Pins) -> Result<Vec<FolderObject>, RemoteError> {
        let (below, listed) = (prefix.to_owned(), self.list(prefix).await?);
        // A million keys are sorted: no other request waits for that.
        let sorted = tokio::task::spawn_blocking(move || prefix::folder(&below, listed)).await;
        let sorted = sorted.unwrap_or_else(|error| Err(format!("its listing was not read: {error}")));
        let mut found = sorted.map_err(|why| {
            RemoteError::new(
                Cause::Failed,
                format!("{} is no folder: {why}", self.shown(prefix)),
            )
            .next("rename or remove that object, or put prefixes without it")
        })?;
        if found.is_empty() {
            let what = format!("there is nothing below {}", self.shown(prefix));
            return Err(RemoteError::new(Cause::NotFound, what)
                .next("check bucket and prefix; one object is put without a / at its end"));
        }
        let most_unpinned = match pins {
            Pins::All => 0,
            Pins::Pieces => PIECE_BYTES,
        };
        // Listings may leave ETags out.
        let mut unpinned = Vec::new();
        for object in found.iter_mut().filter_map(|found| found.object.as_mut()) {
            if object.etag.is_none() && object.size_bytes > most_unpinned {
                unpinned.push(object);
            }
        }
        let (mut unpinned, mut asked) = (unpinned.into_iter(), FuturesUnordered::new());
        loop {
            while asked.len() < AHEAD_REQUESTS
                && let Some(object) = unpinned.next()
            {
                asked.push(self.pin(object));
            }
            match asked.next().await {
                Some(pinned) => pinned?,
                None => break,
            }
        }
        drop(asked);
        Ok(found)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, RemoteError> {
        let (mut objects, mut page, mut answer) = (Vec::new(), None, Vec::new());
        let (mut listed_bytes, mut empty_pages) = (0, 0);
        for _ in 0..MOST_PAGES {
            let Some(request) = self.source.listing(prefix, page.as_deref())? else {
                break;
            };
            let answered = self.transport.whole(&request, &mut answer).await;
            answered.map_err(|trouble| self.explain(prefix, &trouble))?;
            let found = self.source.page(&answer)?;
            empty_pages = match found.objects.is_empty() {
                true => empty_pages + 1,
                false => 0,
            };
            let bytes_of =
                |object: &ListedObject| object.key.len() + object.etag.as_ref().map_or(0, String::len);
            listed_bytes += found.objects.iter().map(bytes_of).sum::<usize>();
            objects.extend(found.objects);
            page = found.next;
            if listed_bytes > MOST_LISTED_BYTES {
                let what = format!(
                    "the keys below {} have more than {}",
                    self.shown(prefix),
                    format_bytes(MOST_LISTED_BYTES as u64)
                );
                let next = "put the prefixes below it, each as a --part";
                return Err(RemoteError::new(Cause::OverLimit, what).next(next));
            }
            if page.is_some() && empty_pages > MOST_EMPTY_PAGES {
                let what = format!(
                    "the server lists {MOST_EMPTY_PAGES} empty pages of {}, and more to come",
                    self.shown(prefix)
                );
                let next = "list it with another program to see whether the server does";
                return Err(RemoteError::new(Cause::Failed, what).next(next));
            }
            if page.is_none() || objects.len() > MOST_OBJECTS {
                break;
            }
        }
        if page.is_some() || objects.len() > MOST_OBJECTS {
            let what = format!(
                "below {} are more than {MOST_OBJECTS} objects",
                self.shown(prefix)
            );
            return Err(
                RemoteError::new(Cause::OverLimit, what).next("put the prefixes below it, each as a --part")
            );
        }
        Ok(objects)
    }

    /// Finds out by what a change of it would show.
    async fn pin(&self, object: &mut Object) -> Result<(), RemoteError> {
        let head = self.ask(&object.key, &(0..1), None, &mut Vec::new()).await?;
        let found = described(&head);
        if found
            .range
            .is_none_or(|(_, size_bytes)| size_bytes != object.size_bytes)
        {
            return Err(changed(&self.shown(&object.key)));
        }
        object.etag = found.etag;
        match object.etag {
            Some(_) => Ok(()),
            None => {
                let what = format!(
                    "{} has no ETag: a change while it is read would not show",
                    self.shown(&object.key)
                );
                Err(RemoteError::new(Cause::Failed, what).next("fetch it with another program and put that"))
            }
        }
    }

    /// Bytes of an object; all of them, and of none but that. `body` is a buffer to use.
    pub async fn piece(
        &self,
        object: &Object,
        range: Range<u64>,
        mut body: Vec<u8>,
    ) -> Result<Vec<u8>, RemoteError> {
        let etag = object.etag.as_deref();
        let head = self.ask(&object.key, &range, etag, &mut body).await?;
        let wrong = match verdict(object, &range, &described(&head), body.len() as u64) {
            None => {
                self.look_at_encoding(&object.key, &head)?;
                return Ok(body);
            }
            Some(Wrong::Changed) => return Err(changed(&self.shown(&object.key))),
            Some(Wrong::Range) => "the server sent other bytes than it was asked for".to_owned(),
            Some(Wrong::Short) => format!(
                "{} came where {} were asked for",
                format_bytes(body.len() as u64),
                format_bytes(range.end - range.start)
            ),
        };
        Err(
            RemoteError::new(Cause::Failed, format!("{}: {wrong}", self.shown(&object.key)))
                .next("put it again"),
        )
    }

    /// Bytes of what is there now; with an ETag, of what had that.
    pub async fn range(
        &self,
        key: &str,
        etag: Option<&str>,
        range: Range<u64>,
    ) -> Result<Vec<u8>, RemoteError> {
        let mut body = Vec::new();
        let head = self.ask(key, &range, etag, &mut body).await?;
        let found = described(&head);
        let Some((came, _)) = found.range else {
            let what = format!("{}: its server gives no ranges of it any more", self.shown(key));
            return Err(RemoteError::new(Cause::Failed, what).next("put a copy, without --in-place"));
        };
        let same = etag.is_none_or(|etag| found.etag.as_deref() == Some(etag));
        match same && came == range && body.len() as u64 == range.end - range.start {
            true => Ok(body),
            false => Err(changed(&self.shown(key))),
        }
    }

    /// An object's size and ETag; none if its server gives no ranges of it.
    pub async fn describe(&self, key: &str) -> Result<Option<Object>, RemoteError> {
        let object = |(size_bytes, etag)| Object {
            key: key.to_owned(),
            size_bytes,
            etag,
        };
        match self.transport.head(&self.get(key, Some(&(0..1)), None)?).await {
            // Of an empty object there is no first byte.
            Err(Trouble::Refused(Refusal { status: 416, .. })) => Ok(Some(object((0, None)))),
            answered => {
                let head = answered.map_err(|trouble| self.explain(key, &trouble))?;
                self.look_at_encoding(key, &head)?;
                let found = described(&head);
                Ok(found
                    .range
                    .map(|(_, size_bytes)| object((size_bytes, found.etag))))
            }
        }
    }

    /// The beginning of an object.
    pub async fn first(&self, key: &str) -> Result<First, RemoteError> {
        let request = self.get(key, Some(&(0..PIECE_BYTES)), None)?;
        let mut head = match self.transport.head(&request).await {
            // Of an empty object there is no first byte.
            Err(Trouble::Refused(Refusal { status: 416, .. })) => return self.plain(key).await,
            answered => answered.map_err(|trouble| self.explain(key, &trouble))?,
        };
        let encoding = encoding(&head);
        let Some(object) = rangeable(key, described(&head)) else {
            return match head.status() {
                StatusCode::PARTIAL_CONTENT => self.plain(key).await,
                _ => Ok(First::Stream(head)),
            };
        };
        let range = 0..object.size_bytes.min(PIECE_BYTES);
        let mut body = Vec::new();
        let bytes = match transport::read(&mut head, &mut body).await {
            Ok(()) if body.len() as u64 == range.end => body,
            _ => self.piece(&object, range, body).await?,
        };
        Ok(First::Ranges(object, bytes, encoding))
    }

    async fn plain(&self, key: &str) -> Result<First, RemoteError> {
        let request = self.get(key, None, None)?;
        let head = self.transport.head(&request).await;
        head.map(First::Stream)
            .map_err(|trouble| self.explain(key, &trouble))
    }

    async fn ask(
        &self,
        key: &str,
        range: &Range<u64>,
        etag: Option<&str>,
        body: &mut Vec<u8>,
    ) -> Result<Response, RemoteError> {
        let request = self.get(key, Some(range), etag)?;
        let answered = self.transport.whole(&request, body).await;
        answered.map_err(|trouble| self.explain(key, &trouble))
    }

    fn get(&self, key: &str, range: Option<&Range<u64>>, etag: Option<&str>) -> Result<Request, RemoteError> {
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| {
                let what = format!("the ETag of {} cannot be asked for", self.shown(key));
                RemoteError::new(Cause::Failed, what)
            })
        };
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            headers.insert(RANGE, value(&format!("bytes={}-{}", range.start, range.end - 1))?);
        }
        // Weak ones match nothing, by HTTP's own rule: these are only compared with what comes.
        if let Some(etag) = etag.filter(|etag| is_strong(etag)) {
            headers.insert(IF_MATCH, value(etag)?);
        }
        self.source.object(key, headers)
    }

    fn explain(&self, key: &str, trouble: &Trouble) -> RemoteError {
        let asked = AskedUrl {
            shown: &self.shown(key),
            host: self
                .source
                .place()
                .authority()
                .rsplit('@')
                .next()
                .unwrap_or_default(),
            bucket: self.source.container(),
        };
        explain(&asked, trouble)
    }
}
