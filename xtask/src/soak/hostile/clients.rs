//! Clients that mean no good, by the bytes that they send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::Node;

use super::{Attack, End};

/// How long a client waits for an answer to nonsense.
const PATIENCE: Duration = Duration::from_millis(500);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A frame of settings that says nothing.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// What they send. `HOST` stands for the listener's address.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let field = "a".repeat(60_000);
    vec![
        ("no request at all", Vec::new()),
        ("half a head", text("GET /hello HTTP/1.1\r\nhost: HOST\r\nx: ")),
        ("half a preface of HTTP/2", text("PRI * HTTP/2.0\r\n")),
        (
            "a head of 600 KB",
            text(&format!(
                "GET /hello HTTP/1.1\r\nhost: HOST\r\n{}\r\n",
                format!("x: {field}\r\n").repeat(10)
            )),
        ),
        (
            "10,000 fields",
            text(&format!(
                "GET /hello HTTP/1.1\r\nhost: HOST\r\n{}\r\n",
                "x: y\r\n".repeat(10_000)
            )),
        ),
        (
            "a body that does not come",
            text("POST /hello HTTP/1.1\r\nhost: HOST\r\ncontent-length: 100\r\n\r\n"),
        ),
        (
            "two lengths",
            text(
                "POST /hello HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello\
                 GET /hello HTTP/1.1\r\nhost: HOST\r\n\r\n",
            ),
        ),
        (
            "a length beside chunks",
            text(
                "POST /hello HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
                 GET /hello HTTP/1.1\r\nhost: HOST\r\n\r\n",
            ),
        ),
        (
            "lines that end with a line feed alone",
            text("GET /hello HTTP/1.1\nhost: HOST\n\n"),
        ),
        (
            "chunks of one byte",
            text(&format!(
                "POST /hello HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n{}",
                "1;x=y\r\nz\r\n".repeat(20_000)
            )),
        ),
        (
            "100 requests at once",
            text(&"GET /hello HTTP/1.1\r\nhost: HOST\r\n\r\n".repeat(100)),
        ),
        (
            "addresses of others",
            text(&format!(
                "GET /hello HTTP/1.1\r\nhost: HOST\r\n{}connection: close\r\n\r\n",
                "x-forwarded-for: 10.0.0.1, 10.0.0.2\r\nforwarded: for=1.2.3.4\r\n".repeat(20)
            )),
        ),
        ("500 streams that are reset at once", resets(500)),
        ("a head in 2,000 continuations", continuations(2_000)),
        ("100 streams without a window", without_window(100)),
        ("1,000 pings", [PREFACE, SETTINGS, &ping().repeat(1_000)].concat()),
        (
            "1,000 frames of settings",
            [PREFACE, &SETTINGS.repeat(1_000)].concat(),
        ),
        (
            "noise",
            (0..100_000u32)
                .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect(),
        ),
    ]
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /hello` in HPACK: two fields of its table, two by their own text.
fn head() -> Vec<u8> {
    let mut head = vec![0x82, 0x86, 0x04, 6];
    head.extend_from_slice(b"/hello");
    head.extend_from_slice(&[0x01, 1, b'x']);
    head
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn resets(count: u32) -> Vec<u8> {
    let mut sent = [PREFACE, SETTINGS].concat();
    for stream in (0..count).map(|at| 2 * at + 1) {
        sent.extend(frame(1, END_STREAM | END_HEADERS, stream, &head()));
        sent.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    sent
}

fn continuations(count: usize) -> Vec<u8> {
    let mut sent = [PREFACE, SETTINGS].concat();
    sent.extend(frame(1, END_STREAM, 1, &head()));
    let field = [&[0x00, 1, b'y', 100][..], &[b'z'; 100]].concat();
    sent.extend(frame(9, 0, 1, &field).repeat(count));
    sent
}

fn without_window(count: u32) -> Vec<u8> {
    // Initial window size: none.
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut sent = [PREFACE, &settings].concat();
    for stream in (0..count).map(|at| 2 * at + 1) {
        sent.extend(frame(1, END_STREAM | END_HEADERS, stream, &head()));
    }
    sent
}

fn ping() -> Vec<u8> {
    frame(6, 0, 0, &[0; 8])
}

pub fn attacks() -> Vec<Attack> {
    let requests = requests().into_iter();
    let attacks = requests.map(|(name, bytes)| Attack {
        name: name.to_owned(),
        at_once: 8,
        attempt: Box::new(move |node| Ok(send(node, &bytes)?.map(End::from))),
    });
    attacks.collect()
}

/// Sends bytes on a connection of their own, and tells how the answer begins.
fn send(node: &Node, bytes: &[u8]) -> Result<Option<String>> {
    let address = node.functions_url.trim_start_matches("http://");
    // A listener that has as many connections of one address as it takes refuses more.
    let Ok(mut connection) = TcpStream::connect(address) else {
        return Ok(Some("refused".to_owned()));
    };
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let sent = connection.write_all(&named(bytes, address.as_bytes()));
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    while let Ok(count @ 1..) = connection.read(&mut piece) {
        answer.extend_from_slice(&piece[..count]);
        if answer.len() > 1 << 20 {
            break;
        }
    }
    Ok(Some(match (sent.is_ok(), &answer[..]) {
        (_, [b'H', b'T', b'T', b'P', ..]) => {
            let status = answer.get(9..12).context("a status")?;
            String::from_utf8_lossy(status).into_owned()
        }
        (true, []) => "silent".to_owned(),
        (true, _) => "frames".to_owned(),
        (false, _) => "cut off".to_owned(),
    }))
}

/// The bytes, with the listener's address for `HOST`.
fn named(bytes: &[u8], address: &[u8]) -> Vec<u8> {
    let mut named = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|window| window == b"HOST") {
        named.extend_from_slice(&rest[..at]);
        named.extend_from_slice(address);
        rest = &rest[at + 4..];
    }
    named.extend_from_slice(rest);
    named
}
