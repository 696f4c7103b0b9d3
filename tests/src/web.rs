//! Web servers of one file, good and bad ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[derive(Clone, Copy)]
pub enum Answering {
    Ranges,
    RangesWithoutEtag,
    /// The file with its length, whatever was asked for.
    Whole,
    /// The file in chunks, its length not said.
    Chunked,
    /// Half of the file, where its whole length was said.
    Cut,
    /// Some chunks, and no last one.
    CutChunks,
    /// Ranges, each of another file if one believes their ETags.
    OtherEtags,
    Redirect(&'static str),
    NotFound,
}

pub struct Web {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Web {
    pub fn start(content: Vec<u8>, answering: Answering) -> Web {
        Web::start_over(content, answering, |stream| Box::new(stream))
    }

    /// Over TLS as `localhost`, and the certificate in PEM.
    pub fn start_tls(content: Vec<u8>, answering: Answering) -> (Web, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let web = Web::start_over(content, answering, move |stream| {
            let connection = ServerConnection::new(config.clone()).unwrap();
            Box::new(StreamOwned::new(connection, stream))
        });
        (web, made.cert.pem())
    }

    fn start_over(
        content: Vec<u8>,
        answering: Answering,
        over: impl Fn(TcpStream) -> Box<dyn Stream> + Send + 'static,
    ) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (counted, content) = (requests.clone(), Arc::new(content));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (counted, content) = (counted.clone(), content.clone());
                let mut stream = over(stream.unwrap());
                std::thread::spawn(move || {
                    let number = counted.fetch_add(1, Ordering::SeqCst);
                    // Who asked may have gone away.
                    let _ = answer(&mut *stream, number, &content, answering);
                });
            }
        });
        Web { address, requests }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// One request, one answer, and the connection ends.
fn answer(
    mut out: &mut dyn Stream,
    number: usize,
    content: &[u8],
    answering: Answering,
) -> std::io::Result<()> {
    let mut range = None;
    let mut head = BufReader::new(&mut out).lines();
    while let Some(line) = head.next().transpose()?.filter(|line| !line.is_empty()) {
        let asked = line.to_ascii_lowercase();
        if let Some((first, last)) = asked
            .strip_prefix("range: bytes=")
            .and_then(|range| range.split_once('-'))
        {
            let last: usize = last.parse().unwrap();
            range = Some(first.parse().unwrap()..(last + 1).min(content.len()));
        }
    }
    let (size, half) = (content.len(), content.len() / 2);
    let etag = match answering {
        Answering::Ranges => "etag: \"one\"\r\n".to_owned(),
        Answering::OtherEtags => format!("etag: \"{number}\"\r\n"),
        _ => String::new(),
    };
    match (answering, range) {
        (Answering::Ranges | Answering::OtherEtags | Answering::RangesWithoutEtag, Some(range)) => {
            write!(
                out,
                "HTTP/1.1 206 Partial Content\r\nconnection: close\r\n{etag}content-length: {}\r\n\
                 content-range: bytes {}-{}/{size}\r\n\r\n",
                range.len(),
                range.start,
                range.end - 1
            )?;
            out.write_all(&content[range])
        }
        (Answering::Chunked | Answering::CutChunks, _) => {
            out.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")?;
            let all = if matches!(answering, Answering::Chunked) {
                size
            } else {
                half
            };
            for chunk in content[..all].chunks(100_000) {
                write!(out, "{:x}\r\n", chunk.len())?;
                out.write_all(chunk)?;
                out.write_all(b"\r\n")?;
            }
            match answering {
                Answering::Chunked => out.write_all(b"0\r\n\r\n"),
                _ => Ok(()),
            }
        }
        (Answering::Redirect(to), _) => write!(
            out,
            "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        ),
        (Answering::NotFound, _) => {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno")
        }
        (answering, _) => {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
            )?;
            let all = if matches!(answering, Answering::Cut) {
                half
            } else {
                size
            };
            out.write_all(&content[..all])
        }
    }
}
