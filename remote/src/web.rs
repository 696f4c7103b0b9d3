//! One file of a web server. Its key is empty, and nothing lies below it.

use reqwest::header::HeaderMap;
use reqwest::{Request, Url};

use crate::error::RemoteError;
use crate::source::{Page, Source, get};
use crate::url::shown;

/// The file at this URL.
pub struct WebFile(pub Url);

impl Source for WebFile {
    fn place(&self) -> &Url {
        &self.0
    }

    fn shown(&self, _: &str) -> String {
        shown(&self.0)
    }

    fn container(&self) -> Option<&str> {
        None
    }

    fn object(&self, _: &str, headers: HeaderMap) -> Result<Request, RemoteError> {
        Ok(get(self.0.clone(), headers))
    }

    fn listing(&self, _: &str, _: Option<&str>) -> Result<Option<Request>, RemoteError> {
        Ok(None)
    }

    fn page(&self, _: &[u8]) -> Result<Page, RemoteError> {
        Ok(Page::default())
    }
}
