use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::Node;

/// A server that gives one answer and counts who came.
struct Server {
    address: std::net::SocketAddr,
    hits: Arc<AtomicUsize>,
}

impl Server {
    fn start(answer: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hits = Arc::new(AtomicUsize::new(0));
        let counted = hits.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Server { address, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn log_of(node: &Node, needle: &str) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::time::Instant::now() < deadline {
        if String::from_utf8_lossy(&node.ok(&["logs", "fetch"])).contains(needle) {
            return true;
        }
    }
    false
}

fn fetch(node: &Node, url: &str) -> crate::harness::Reply {
    node.get(&format!("/fn/fetch?url={url}"))
}

#[test]
fn an_allowed_request_goes_out() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere");
    let node = Node::start();
    node.deploy(
        "fetch",
        "fetch",
        &format!("public = true\nallow = {{ http = [\"{}\"] }}", server.address),
    );
    let reply = fetch(&node, &format!("http://{}/x", server.address));
    assert!(
        reply.text().contains("there"),
        "{}: {}",
        reply.status,
        reply.text()
    );
    assert_eq!(server.hits(), 1);
    let call = node.record(reply.id());
    assert_eq!(call["report"]["outgoing_requests"], 1);
}

#[test]
fn what_is_not_granted_is_refused_before_anything_is_sent() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno");
    let node = Node::start();
    let port = server.address.port();
    // A name for the address is granted, not the address: names may come to mean anything.
    let allow = format!(
        "[\"localhost:{port}\", \"169.254.169.254.nip.invalid:80\", \"[::ffff:7f00:2]:{port}\", \"metadata:80\"]"
    );
    node.deploy(
        "fetch",
        "fetch",
        &format!("public = true\nallow = {{ http = {allow} }}"),
    );
    let cases = [
        (
            format!("http://127.0.0.1:{port}/"),
            format!("`127.0.0.1:{port}` is not in the manifest"),
        ),
        (
            format!("http://localhost:{port}/"),
            "which is no public address".to_owned(),
        ),
        (
            "http://169.254.169.254/".to_owned(),
            "`169.254.169.254:80` is not in the manifest".to_owned(),
        ),
        (
            format!("http://[::ffff:127.0.0.1]:{port}/"),
            "is not in the manifest".to_owned(),
        ),
        (
            format!("http://localhost.:{port}/"),
            "is not in the manifest".to_owned(),
        ),
    ];
    for (url, reason) in cases {
        let reply = fetch(&node, &url);
        assert_ne!(reply.text(), "no", "{url}");
        assert!(log_of(&node, &reason), "{url}: the log does not say `{reason}`");
    }
    assert_eq!(server.hits(), 0, "nothing was sent");
}

#[test]
fn a_redirect_leads_nowhere_new() {
    let target = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret");
    let location = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        target.address
    );
    let server = Server::start(location.leak());
    let node = Node::start();
    node.deploy(
        "fetch",
        "fetch",
        &format!("public = true\nallow = {{ http = [\"{}\"] }}", server.address),
    );
    let reply = fetch(&node, &format!("http://{}/", server.address));
    assert!(!reply.text().contains("secret"));
    assert_eq!((server.hits(), target.hits()), (1, 0));
}

#[test]
fn a_function_cannot_reach_its_own_node() {
    let node = Node::start();
    node.deploy("fetch", "fetch", "public = true");
    for url in [&node.functions_url, &node.admin_url] {
        assert_ne!(fetch(&node, &format!("{url}/healthz")).text(), "ok\n");
        assert!(log_of(&node, "is not in the manifest"));
    }
}
