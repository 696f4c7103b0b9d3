//! HTTP/2 on the functions' listener, by prior knowledge.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version, response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nearfield_testkit::noise_bytes;
use tokio::runtime::Runtime;

use crate::harness::Node;

/// One connection.
struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    url: String,
}

struct Answer {
    head: response::Parts,
    body: Bytes,
    trailers: HeaderMap,
}

impl Client {
    fn connect(node: &Node) -> Client {
        let url = node.functions_url.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let sender = runtime.block_on(connected(&url));
        Client { runtime, sender, url }
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
    }

    fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.runtime.block_on(answer(self.sender.clone(), request))
    }

    fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).body(Full::default()).unwrap())
    }
}

/// A connection for requests with such bodies.
async fn connected<B>(url: &str) -> SendRequest<B>
where
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let address = url.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn answer(sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Answer {
    answered(sender, request).await.unwrap()
}

impl Answer {
    /// A trailer if the answer took longer than it is held back for, whatever its size.
    fn fuel(&self) -> u64 {
        let name = "nearfield-fuel";
        let fuel = self.head.headers.get(name).or(self.trailers.get(name));
        fuel.unwrap().to_str().unwrap().parse().unwrap()
    }
}

fn booked_fuel(node: &Node, answer: &Answer) -> u64 {
    let id = answer.head.headers["nearfield-id"].to_str().unwrap();
    node.record(id)["report"]["fuel"].as_u64().unwrap()
}

#[test]
fn calls_share_a_connection() {
    let node = Node::start();
    node.deploy("hello", "hello", "public = true");
    let client = Client::connect(&node);
    let first = client.get("/fn/hello");
    assert_eq!(
        (first.head.version, first.head.status),
        (Version::HTTP_2, StatusCode::OK)
    );
    assert_eq!(first.body, "Hello, world!");
    assert_eq!(first.fuel(), booked_fuel(&node, &first));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let request = client.request("GET", "/fn/hello").body(Full::default()).unwrap();
            client.runtime.spawn(answer(client.sender.clone(), request))
        })
        .collect();
    for call in calls {
        assert_eq!(client.runtime.block_on(call).unwrap().body, "Hello, world!");
    }
}

#[test]
fn a_long_response_says_its_fuel_in_trailers() {
    let node = Node::start();
    node.deploy("echo", "echo", "public = true");
    let client = Client::connect(&node);
    let sent = Bytes::from(noise_bytes(1, 5 << 20));
    let request = client
        .request("POST", "/fn/echo")
        .body(Full::new(sent.clone()))
        .unwrap();
    let long = client.send(request);
    assert_eq!(long.head.status, StatusCode::OK);
    assert!(long.body == sent);
    assert!(!long.head.headers.contains_key("nearfield-fuel"));
    assert!(long.trailers.contains_key("nearfield-fuel"));
    assert!(
        long.trailers["server-timing"]
            .to_str()
            .unwrap()
            .contains("run;dur=")
    );
    assert_eq!(long.fuel(), booked_fuel(&node, &long));
}

#[test]
fn a_hundred_fields_are_taken_and_no_more() {
    let node = Node::start();
    node.deploy("hello", "hello", "public = true");
    let client = Client::connect(&node);
    let with_fields = |count: usize| {
        let mut request = client.request("GET", "/fn/hello");
        for number in 0..count {
            request = request.header(format!("x-field-{number}"), "x");
        }
        client.send(request.body(Full::default()).unwrap())
    };
    assert_eq!(with_fields(100).head.status, StatusCode::OK);
    let refused = with_fields(101);
    assert_eq!(refused.head.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem["type"], "urn:nearfield:problem:headers-too-large");
    assert!(
        problem["limit"].as_str().unwrap().contains("100 fields"),
        "{problem}"
    );
    assert_eq!(
        client.get("/fn/hello").head.status,
        StatusCode::OK,
        "the connection lives"
    );
}

#[test]
fn cookies_and_the_host_reach_the_guest_as_in_http_1() {
    let node = Node::start();
    let network = crate::network::Network::start(1);
    for node in [&node, &network.gateway] {
        node.deploy("mirror", "mirror", "public = true");
        let client = Client::connect(node);
        let request = client.request("GET", "/fn/mirror").header("cookie", "a=1");
        let request = request.header("cookie", "b=2; c=3").header("cookie", "d=4");
        let answer = client.send(request.body(Full::default()).unwrap());
        let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            seen["headers"]["cookie"],
            serde_json::json!(["a=1; b=2; c=3; d=4"])
        );
        let host = node.functions_url.strip_prefix("http://").unwrap();
        assert_eq!(
            (&seen["host"], &seen["headers"]["host"][0]),
            (&host.into(), &host.into())
        );
    }
}

#[test]
fn a_guest_of_wasi_0_3_is_asked_the_same() {
    let node = Node::start();
    let network = crate::network::Network::start(1);
    for node in [&node, &network.gateway] {
        node.deploy("seen", "rude_p3", "public = true\nroute = \"/users/{id}\"");
        let client = Client::connect(node);
        let request = client
            .request("GET", "/users/7/a%20b?seen=")
            .header("cookie", "a=1");
        let request = request
            .header("cookie", "b=2")
            .header("nearfield-param-id", "forged");
        let answer = client.send(request.body(Full::default()).unwrap());
        let told = String::from_utf8_lossy(&answer.body);
        let lines: Vec<&str> = told.lines().collect();
        let host = node.functions_url.strip_prefix("http://").unwrap();
        for line in [
            "target /a%20b?seen=",
            &format!("host {host}"),
            "cookie: a=1; b=2",
            "nearfield-param-id: 7",
            "x-forwarded-prefix: /users/7",
        ] {
            assert!(lines.contains(&line), "{line} is not in {told}");
        }
        let once = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!((once("nearfield-param-id:"), once("cookie:")), (1, 1), "{told}");
        let old = node.raw(b"GET /users/8?seen= HTTP/1.0\r\n\r\n");
        let told = String::from_utf8_lossy(&old);
        assert!(
            told.contains("nearfield-param-id: 8") && !told.contains("host \n"),
            "{told}"
        );
    }
}

#[test]
fn head_and_what_has_no_content_end_with_their_heads() {
    let node = Node::start();
    node.deploy("mirror", "mirror", "public = true");
    let client = Client::connect(&node);
    for (method, path, status, length) in [
        ("HEAD", "/fn/mirror?status=200&body=hello", 200, Some("5")),
        ("HEAD", "/fn/mirror?status=200&length=5", 200, Some("5")),
        ("HEAD", "/fn/nowhere", 404, None),
        ("HEAD", "/healthz", 200, Some("3")),
        ("GET", "/fn/mirror?status=304&length=5", 304, None),
        ("GET", "/fn/mirror?status=204&body=hello", 204, None),
        ("GET", "/fn/mirror?status=205&body=hello", 205, Some("0")),
    ] {
        // A client resets a stream whose answer brings content that it must not have.
        let answer = client.send(client.request(method, path).body(Full::default()).unwrap());
        assert_eq!(
            (answer.head.status.as_u16(), answer.body.len()),
            (status, 0),
            "{path}"
        );
        if let Some(length) = length {
            assert_eq!(answer.head.headers["content-length"], length, "{path}");
        }
    }
    assert_eq!(
        client.get("/fn/mirror?status=200&body=x").body,
        "x",
        "the connection lives"
    );
}

#[test]
fn trailers_of_a_guest_say_nothing_for_its_host() {
    let node = Node::start();
    let client = Client::connect(&node);
    let piece = "x".repeat(1_000);
    for name in ["rude", "rude_p3"] {
        node.deploy(name, name, "public = true");
        let answer = client.get(&format!(
            "/fn/{name}?body={piece}&times=100&trailer=x-sum:1&trailer=nearfield-host:me&trailer=nearfield-fuel:0\
             &trailer=content-length:1&trailer=set-cookie:a"
        ));
        assert_eq!(
            (answer.head.status, answer.body.len()),
            (StatusCode::OK, 100_000),
            "{name}"
        );
        assert_eq!(answer.trailers["x-sum"], "1");
        assert!(answer.fuel() > 0);
        for gone in ["nearfield-host", "content-length", "set-cookie"] {
            assert!(!answer.trailers.contains_key(gone), "{name}: {gone}");
        }
    }
}

/// A body that does not come.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// Streams whose bodies do not come hold no place: neither of the function nor of its host.
#[test]
fn streams_without_their_bodies_hold_no_place() {
    const STREAMS: usize = 128;
    let node = Node::start();
    node.deploy("echo", "echo", "public = true");
    let url = node.functions_url.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..4 {
        let (url, answered) = (url.clone(), answered.clone());
        let sender = runtime.block_on(connected(&url));
        runtime.spawn(async move {
            for _ in 0..STREAMS {
                let (mut sender, answered): (SendRequest<Never>, _) = (sender.clone(), answered.clone());
                let request = Request::post(format!("{url}/fn/echo")).body(Never).unwrap();
                tokio::spawn(async move {
                    let answer = sender.send_request(request).await;
                    // The last ones end with the test.
                    let _ = answered.send(answer.map(|answer| answer.status()).ok());
                });
            }
            // The connection lasts as long as its sender.
            std::future::pending::<()>().await;
            drop(sender);
        });
    }
    // A client may have so many requests without a body. The others are refused, so all of them have come.
    for _ in 0..2 * STREAMS {
        let status = runtime.block_on(answers.recv()).unwrap();
        assert_eq!(status, Some(StatusCode::TOO_MANY_REQUESTS));
    }
    for _ in 0..20 {
        assert_eq!(node.get("/fn/echo").status, 200);
    }
}

/// Whoever asks for much without a token, and takes nothing of it, keeps only itself from more.
#[test]
fn answers_without_a_token_are_few_at_once_for_one_address() {
    let node = Node::start();
    let url = node.admin_url.clone();
    let runtime = Runtime::new().unwrap();
    let connect = async || {
        let address = url.strip_prefix("http://").unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    };
    let ask = async |sender: &SendRequest<Full<Bytes>>| {
        let request = Request::get(format!("{url}/metrics"))
            .body(Full::default())
            .unwrap();
        sender.clone().send_request(request).await.unwrap()
    };
    runtime.block_on(async {
        let sender = connect().await;
        let mut answers = Vec::new();
        for _ in 0..nearfield_protocol::limits::OPEN_ANSWERS {
            answers.push(ask(&sender).await);
        }
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
        assert_eq!(ask(&sender).await.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            ask(&connect().await).await.status(),
            StatusCode::TOO_MANY_REQUESTS
        );
        drop(answers.pop());
        while ask(&sender).await.status() != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        drop(answers);
    });
    // The admin token has no such bound, and its holder is not kept waiting.
    assert_eq!(node.admin("GET", "/v1/status", &[]).status, 200);
}

/// Over HTTP/2 a body has frames, so too long a one would not reach another answer; it would still be more than its head says.
#[test]
fn a_body_is_as_long_as_its_head_says() {
    let node = Node::start();
    for name in ["rude", "rude_p3"] {
        node.deploy(name, name, "public = true");
    }
    node.deploy("hello", "hello", "public = true");
    let client = Client::connect(&node);
    for name in ["rude", "rude_p3"] {
        for (length, times) in [
            (0, 1),
            (2, 1),
            (3, 1),
            (5, 1),
            (6, 2),
            (3, 2),
            (0, 0),
            (1, 0),
            (100_000, 40_000),
        ] {
            let is_right = length == 3 * times;
            let path = format!("/fn/{name}?field=content-length:{length}&body=abc&times={times}");
            for method in ["GET", "HEAD"] {
                let request = client.request(method, &path).body(Full::default()).unwrap();
                let asked = answered(client.sender.clone(), request);
                let Some(answer) = client.runtime.block_on(asked) else {
                    assert!(!is_right && method == "GET", "{method} {path} broke off");
                    continue;
                };
                let is_head = method == "HEAD";
                let status = answer.head.status;
                match is_right || is_head {
                    true => assert_eq!(
                        (status, answer.body.len()),
                        (StatusCode::OK, if is_head { 0 } else { length })
                    ),
                    false => assert_eq!(status, StatusCode::BAD_GATEWAY, "{path}"),
                }
                if let Some(declared) = answer.head.headers.get("content-length").filter(|_| !is_head) {
                    assert_eq!(
                        declared.to_str().unwrap(),
                        answer.body.len().to_string(),
                        "{path}"
                    );
                }
                assert_eq!(
                    client.get("/fn/hello").body,
                    "Hello, world!",
                    "after {method} {path}"
                );
            }
        }
    }
}

/// None where the response breaks off.
async fn answered(mut sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Option<Answer> {
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let collected = body.collect().await.ok()?;
    Some(Answer {
        head,
        trailers: collected.trailers().cloned().unwrap_or_default(),
        body: collected.to_bytes(),
    })
}
