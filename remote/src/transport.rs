//! Requests, made again while that may help.

use std::error::Error;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response, Url};
use rustls::crypto::ring;

use crate::error::{Cause, RemoteError};
use crate::url;

/// A server that has not taken a connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing comes for so long is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// So much comes in each such time, or it is given up: a server that sends a byte now and then holds nobody.
const LEAST_BYTES: usize = 64 << 10;
const LEAST_TIME: Duration = Duration::from_secs(30);

/// Nothing is asked again so long after the first failure: who waits wants to know.
const MOST_RETRYING: Duration = Duration::from_secs(120);

/// Nobody listens: soon told, since most often the address is wrong.
const CONNECT_RETRIES: u32 = 3;

/// Servers that are asked too much say so for some seconds.
const RETRIES: u32 = 8;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// As many as `curl` and browsers follow, or fewer.
const MOST_REDIRECTS: usize = 10;

/// Most bytes of an answer that is taken whole: a range, a page of a listing.
pub const MOST_BYTES: u64 = 16 << 20;

/// Most bytes read of an answer that refuses.
const REFUSAL_BYTES: usize = 64 << 10;
/// How long such an answer may take beside its head.
const REFUSAL: Duration = Duration::from_secs(5);

/// Makes requests, and makes them again while that may help.
pub struct Transport {
    client: Client,
}

/// Why there is no answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No connection came about.
    Unreachable(String),
    /// Answers broke off, each time.
    BrokeOff(String),
    /// A redirect that is not followed.
    Redirect(String),
    Refused(Refusal),
    /// More bytes than any answer to such a question has.
    TooLong,
}

/// A status that is none of success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// What S3 calls the cause, such as `NoSuchKey`.
    pub code: Option<String>,
    /// Where the bucket is, if S3 says so.
    pub region: Option<String>,
}

impl Transport {
    /// For one place. `redirects` may lead elsewhere, over plain http only if `insecure`.
    pub fn new(place: &Url, redirects: bool, insecure: bool) -> Result<Self, RemoteError> {
        // The same provider as everywhere here; an error says that it is installed already.
        let _ = ring::default_provider().install_default();
        let policy = match redirects {
            false => Policy::none(),
            true => Policy::custom(move |attempt| {
                if attempt.previous().len() > MOST_REDIRECTS {
                    attempt.error("it redirects too often")
                } else if url::is_exposed(attempt.url()) && !insecure {
                    attempt.error("it redirects to plain http")
                } else {
                    attempt.follow()
                }
            }),
        };
        let mut client = Client::builder()
            .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            // Ranges on connections of their own share no window.
            .http1_only()
            // What a URL holds behind its `?` may be a signature.
            .referer(false)
            // Bytes are put as they are kept there.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .redirect(policy);
        if url::is_loopback(place) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            let what = format!("preparing to read a URL: {error}");
            RemoteError::new(Cause::Failed, what)
        })?;
        Ok(Transport { client })
    }

    /// The head of an answer that is one of success; its body is not read yet.
    pub async fn head(&self, request: &Request) -> Result<Response, Trouble> {
        self.retried(request, None).await
    }

    /// The same with all of its body, which replaces what `body` holds.
    pub async fn whole(&self, request: &Request, body: &mut Vec<u8>) -> Result<Response, Trouble> {
        self.retried(request, Some(body)).await
    }

    async fn retried(&self, request: &Request, mut body: Option<&mut Vec<u8>>) -> Result<Response, Trouble> {
        let (mut failing_since, mut retries) = (None, 0);
        loop {
            match self.once(request, body.as_deref_mut()).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => {
                    let failing = failing_since.get_or_insert_with(Instant::now).elapsed();
                    match pause(&trouble, retries) {
                        Some(pause) if failing + pause < MOST_RETRYING => tokio::time::sleep(pause).await,
                        _ => return Err(trouble),
                    }
                }
            }
            retries += 1;
        }
    }

    async fn once(&self, request: &Request, body: Option<&mut Vec<u8>>) -> Result<Response, Trouble> {
        let again = request
            .try_clone()
            .ok_or_else(|| Trouble::BrokeOff("it cannot be asked twice".to_owned()))?;
        let mut response = self.client.execute(again).await.map_err(trouble)?;
        if !response.status().is_success() {
            return Err(Trouble::Refused(refusal(response).await));
        }
        if let Some(body) = body {
            read(&mut response, body).await?;
        }
        Ok(response)
    }
}

/// The rest of an answer. What is short of its `Content-Length` is an error, not an answer.
pub async fn read(head: &mut Response, body: &mut Vec<u8>) -> Result<(), Trouble> {
    let said = head.content_length();
    if said.is_some_and(|bytes| bytes > MOST_BYTES) {
        return Err(Trouble::TooLong);
    }
    body.clear();
    body.reserve_exact(said.unwrap_or(0) as usize);
    let (mut since, mut before) = (Instant::now(), 0);
    while let Some(chunk) = head.chunk().await.map_err(trouble)? {
        if (body.len() + chunk.len()) as u64 > MOST_BYTES {
            return Err(Trouble::TooLong);
        }
        body.extend_from_slice(&chunk);
        if since.elapsed() > LEAST_TIME {
            if body.len() - before < LEAST_BYTES {
                return Err(Trouble::BrokeOff("it came too slowly".to_owned()));
            }
            (since, before) = (Instant::now(), body.len());
        }
    }
    match said {
        Some(bytes) if bytes != body.len() as u64 => {
            Err(Trouble::BrokeOff(format!("{} of {bytes} bytes came", body.len())))
        }
        _ => Ok(()),
    }
}

/// How long to wait before the next try; none if there shall be none.
fn pause(trouble: &Trouble, retries: u32) -> Option<Duration> {
    let most = match trouble {
        Trouble::Unreachable(_) => CONNECT_RETRIES,
        Trouble::BrokeOff(_) => RETRIES,
        Trouble::Refused(refusal) if matches!(refusal.status, 408 | 429 | 500 | 502 | 503 | 504) => RETRIES,
        Trouble::Refused(_) | Trouble::Redirect(_) | Trouble::TooLong => 0,
    };
    (retries < most).then(|| FIRST_PAUSE.saturating_mul(1 << retries).min(LONGEST_PAUSE))
}

/// What went wrong with a connection; never with its URL, which may hold secrets.
pub fn trouble(error: reqwest::Error) -> Trouble {
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let told = cause.to_string();
    match (error.is_redirect(), error.is_connect()) {
        (true, _) => Trouble::Redirect(told),
        (_, true) => Trouble::Unreachable(told),
        _ => Trouble::BrokeOff(told),
    }
}

async fn refusal(mut response: Response) -> Refusal {
    let header = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let region = header("x-amz-bucket-region");
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() < REFUSAL_BYTES
        {
            body.extend_from_slice(&chunk);
        }
    };
    // The status alone will do if the rest does not come.
    let _ = tokio::time::timeout(REFUSAL, reading).await;
    Refusal {
        status: response.status().as_u16(),
        code: code(&body),
        region,
    }
}

pub(crate) fn code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Told {
        #[serde(rename = "Code")]
        code: String,
    }
    let told: Told = quick_xml::de::from_reader(body).ok()?;
    Some(told.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> Trouble {
        Trouble::Refused(Refusal {
            status,
            code: None,
            region: None,
        })
    }

    #[test]
    fn what_may_pass_is_tried_again_for_a_while() {
        for (trouble, tries) in [
            (refused(503), RETRIES),
            (refused(429), RETRIES),
            (Trouble::BrokeOff(String::new()), RETRIES),
            (Trouble::Unreachable(String::new()), CONNECT_RETRIES),
            (refused(403), 0),
            (refused(404), 0),
            (refused(412), 0),
            (Trouble::TooLong, 0),
        ] {
            let pauses: Vec<_> = (0..).map_while(|retry| pause(&trouble, retry)).collect();
            assert_eq!(pauses.len(), tries as usize, "{trouble:?}");
            assert!(pauses.is_sorted() && pauses.iter().sum::<Duration>() < Duration::from_secs(30));
        }
    }

    #[test]
    fn the_cause_is_read_from_what_s3_says() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>no</Message></Error>";
        assert_eq!(code(body).as_deref(), Some("NoSuchKey"));
        assert_eq!(code(b"<html>not found</html>"), None);
    }
}
