//! A real S3 server on loopback, for tests and the soak: it speaks the protocol and checks signatures, keeps objects
//! as files, and fails as its script says.

mod faults;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::{PutObjectInput, StreamingBlob};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse, S3, S3Request};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use faults::Fault;

pub const ACCESS_KEY: &str = "AKIALOOPBACK";
pub const SECRET_KEY: &str = "only-for-tests";

/// What happens besides what is asked for.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// How many of a hundred requests fail: with 500 or 503, without an answer, or in the middle of one.
    pub fault_percent: u64,
    pub seed: u64,
    pub change: Option<Change>,
    /// The end of the keys of objects that are said to be encoded with brotli.
    pub brotli: Option<&'static str>,
}

/// Another content for an object, from a request on.
#[derive(Debug, Clone)]
pub struct Change {
    /// The first request that meets it; 1 is the first of all.
    pub at_request: u64,
    pub bucket: String,
    pub key: String,
    pub content: Bytes,
}

#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub requests: u64,
    pub faults: u64,
}

/// Serves until it is dropped.
pub struct S3Server {
    pub endpoint: String,
    shared: Arc<Shared>,
    /// Owns the listener's task and those of connections.
    runtime: Runtime,
}

struct Shared {
    service: S3Service,
    files: FileSystem,
    root: PathBuf,
    script: Script,
    requests: AtomicU64,
    faults: AtomicU64,
}

impl S3Server {
    /// Over the objects below `root`, where each folder is a bucket.
    pub fn start(root: &Path, script: Script) -> Result<S3Server> {
        let files = || FileSystem::new(root).map_err(|error| anyhow::anyhow!("{error:?}"));
        let mut service = S3ServiceBuilder::new(files()?);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared = Arc::new(Shared {
            service: service.build(),
            files: files()?,
            root: root.to_owned(),
            script,
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        });
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        runtime.spawn(listen(listener, shared.clone()));
        Ok(S3Server {
            endpoint,
            shared,
            runtime,
        })
    }

    /// What a client has to know, as the usual variables.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    pub fn put(&self, bucket: &str, key: &str, content: impl Into<Bytes>) -> Result<()> {
        let content = content.into();
        let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(content)]);
        self.runtime
            .block_on(self.shared.put(bucket, key, StreamingBlob::wrap(stream)))
    }

    pub fn put_file(&self, bucket: &str, key: &str, path: &Path) -> Result<()> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let blocks = std::iter::from_fn({
            let mut file = file;
            move || {
                let mut block = Vec::new();
                match Read::by_ref(&mut file).take(1 << 20).read_to_end(&mut block) {
                    Ok(0) => None,
                    Ok(_) => Some(Ok(Bytes::from(block))),
                    Err(error) => Some(Err(error)),
                }
            }
        });
        let stream = futures_util::stream::iter(blocks);
        self.runtime
            .block_on(self.shared.put(bucket, key, StreamingBlob::wrap(stream)))
    }

    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.shared.requests.load(Ordering::Relaxed),
            faults: self.shared.faults.load(Ordering::Relaxed),
        }
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| shared.answer(request));
            // A client that goes away, and every fault, end a connection with an error.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(change) = self
            .script
            .change
            .as_ref()
            .filter(|change| change.at_request == number)
        {
            let content = change.content.clone();
            let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(content)]);
            let put = self.put(&change.bucket, &change.key, StreamingBlob::wrap(stream));
            put.await.map_err(|error| HttpError::new(error.into()))?;
        }
        let fault = faults::draw(self.script.seed, number, self.script.fault_percent);
        if fault.is_some() {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        let brotli = self
            .script
            .brotli
            .is_some_and(|end| request.uri().path().ends_with(end));
        let mut answered = match fault {
            Some(Fault::Status(status)) => Ok(faults::refuse(status)),
            Some(Fault::Silence) => Err(HttpError::new("an injected fault".into())),
            Some(Fault::Cut) => Ok(faults::cut(self.service.call(request.map(Into::into)).await?)),
            None => self.service.call(request.map(Into::into)).await,
        }?;
        if brotli {
            answered
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        }
        Ok(answered)
    }

    async fn put(&self, bucket: &str, key: &str, content: StreamingBlob) -> Result<()> {
        std::fs::create_dir_all(self.root.join(bucket))?;
        let input = PutObjectInput {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            body: Some(content),
            ..PutObjectInput::default()
        };
        let request = S3Request {
            input,
            method: Method::PUT,
            uri: Uri::from_static("/"),
            headers: HeaderMap::new(),
            extensions: Extensions::new(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        self.files.put_object(request).await?;
        Ok(())
    }
}
