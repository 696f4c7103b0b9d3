//! Kinds of places that objects are read from.

use reqwest::header::HeaderMap;
use reqwest::{Method, Request, Url};

use crate::error::RemoteError;

/// A place with objects in it. It makes requests and reads listings; whoever has it sends them.
pub trait Source: Send + Sync {
    /// Where requests go, for messages and for what is asked of a proxy.
    fn place(&self) -> &Url;

    /// An object as people write where it is.
    fn shown(&self, key: &str) -> String;

    /// What holds the objects, where that has a name of its own: a bucket.
    fn container(&self) -> Option<&str>;

    /// The request for an object, or for a part of it: `headers` say which and under what condition.
    fn object(&self, key: &str, headers: HeaderMap) -> Result<Request, RemoteError>;

    /// The request for a page of the list of all below `prefix`: the first one, or what [`Page::next`] named. None where
    /// nothing can be listed.
    fn listing(&self, prefix: &str, page: Option<&str>) -> Result<Option<Request>, RemoteError>;

    /// What the answer to such a request lists.
    fn page(&self, answer: &[u8]) -> Result<Page, RemoteError>;
}

/// An object as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub size_bytes: u64,
    pub etag: Option<String>,
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<ListedObject>,
    /// What to ask for the next page with.
    pub next: Option<String>,
}

/// A GET with these headers.
pub fn get(url: Url, headers: HeaderMap) -> Request {
    let mut request = Request::new(Method::GET, url);
    *request.headers_mut() = headers;
    request
}
