//! What a host must survive: one misbehaviour for each path. The tests ask for them all, and then whether the host
//! still answers.
//!
//! | path | what it does | what should end it |
//! | --- | --- | --- |
//! | `/loop` | computes for ever | fuel |
//! | `/memory` | allocates and touches for ever | the memory limit |
//! | `/recurse` | recurses for ever | the stack limit |
//! | `/sleep` | waits an hour | the timeout |
//! | `/panic` | panics | is a trap |
//! | `/never` | returns without a response | is an error |
//! | `/half` | promises 1,000 bytes, sends 500, traps | is a broken transfer |
//! | `/logs` | writes 100 MB of logs, then answers | the log limit cuts them |
//! | `/handles` | makes resources for ever | the handle limit |
//! | `/hoard/headers`, `/hoard/bodies` | has the host hold what it may not hold itself | the memory limit |
//! | `/header` | sends a header of 10 MB | the header limit |
//! | `/host/…` | calls one function of the host for ever: see [`HOST_CALLS`] | fuel, the timeout |
//! | `/spin` | computes for about a millisecond, then answers | nothing |
//! | `/call?url=…` | asks another server, itself perhaps, and answers with its status | grants, the call depth |
//!
//! Any other path answers `ok`.
#![cfg(target_family = "wasm")]

use std::hint::black_box;

use wasip2::cli::{environment, stderr};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::filesystem::preopens;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::random::{insecure, random};

struct Hostile;

impl Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        match target.split('?').next().unwrap_or_default() {
            "/loop" => spin(),
            "/spin" => {
                turn(4_000_000);
                answer(out, "ok");
            }
            "/memory" => fill_memory(),
            "/recurse" => answer(out, &recurse(0).to_string()),
            "/sleep" => sleep(),
            "/panic" => panic!("as asked"),
            "/never" => drop(out),
            "/half" => half(out),
            "/logs" => {
                flood_logs();
                answer(out, "ok");
            }
            "/handles" => hoard_handles(),
            "/hoard/headers" => hoard_headers(),
            "/hoard/bodies" => hoard_bodies(),
            "/header" => huge_header(out),
            path if path.starts_with("/host/") => call_for_ever(&path["/host/".len()..]),
            "/call" => answer(out, &call(target.split_once("url=").map_or("", |(_, url)| url))),
            _ => answer(out, "ok"),
        }
    }
}

wasip2::http::proxy::export!(Hostile);

/// Calls of the host that cost it something and a guest nearly nothing.
const HOST_CALLS: [(&str, fn()); 9] = [
    ("random", || drop(black_box(random::get_random_bytes(256 << 10)))),
    ("random-once", || {
        black_box(random::get_random_u64());
    }),
    ("insecure", || {
        drop(black_box(insecure::get_insecure_random_bytes(256 << 10)))
    }),
    ("now", || {
        black_box(wall_clock::now());
    }),
    ("wait", || monotonic_clock::subscribe_duration(0).block()),
    ("environment", || drop(black_box(environment::get_environment()))),
    ("print", || {
        let _ = stderr::get_stderr().blocking_write_and_flush(&[b'x'; 4_096]);
    }),
    ("fields", || {
        let entries: Vec<_> = (0..500).map(|at| (format!("x-{at}"), b"v".to_vec())).collect();
        drop(black_box(Fields::from_list(&entries)));
    }),
    ("directories", || drop(black_box(preopens::get_directories()))),
];

fn call_for_ever(name: &str) {
    let (_, call) = HOST_CALLS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a call of the list");
    loop {
        call();
    }
}

fn turn(times: u64) {
    for time in 0..times {
        black_box(time);
    }
}

fn spin() {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns).wrapping_add(1);
    }
}

fn fill_memory() {
    loop {
        // Ones, since zeroes could come untouched from the host.
        std::mem::forget(black_box(vec![1u8; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "as asked")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[0]
}

fn sleep() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    monotonic_clock::subscribe_duration(HOUR_NS).block();
}

fn half(out: ResponseOutparam) {
    let headers = Fields::new();
    headers
        .append("content-length", b"1000")
        .expect("a header of ours");
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("a body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("a stream is taken once");
    stream
        .blocking_write_and_flush(&[b'x'; 500])
        .expect("the client is there");
    panic!("half is sent");
}

fn flood_logs() {
    const LINES: usize = 100_000_000 / 4096;
    let stderr = stderr::get_stderr();
    let mut line = [b'x'; 4096];
    line[4095] = b'\n';
    for _ in 0..LINES {
        // A host that stops listening is not told twice, but tried again all the same.
        let _ = stderr.blocking_write_and_flush(&line);
    }
}

fn hoard_handles() {
    loop {
        std::mem::forget(Fields::new());
    }
}

fn hoard_headers() {
    loop {
        let fields = Fields::new();
        fields
            .append("x-large", &vec![b'x'; 60 << 10])
            .expect("a header that may be sent");
        std::mem::forget(fields);
    }
}

fn hoard_bodies() {
    let piece = vec![b'x'; 32 << 10];
    loop {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a body is taken once");
        let stream = body.write().expect("a stream is taken once");
        // As much as the host takes without a reader.
        while stream.check_write().is_ok_and(|room| room >= piece.len() as u64) {
            stream.write(&piece).expect("there is room");
        }
        std::mem::forget((response, body, stream));
    }
}

fn huge_header(out: ResponseOutparam) {
    let headers = Fields::new();
    headers
        .append("x-huge", &vec![b'x'; 10_000_000])
        .expect("the host takes a header of any size");
    respond(out, headers, "ok");
}

/// The status of a GET of `url`, or why there is none.
fn call(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some((_, rest)) => (Scheme::Http, rest),
        None => return "no url".to_owned(),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })));
    if set.is_err() {
        return "a bad url".to_owned();
    }
    let pending = match outgoing_handler::handle(request, None) {
        Ok(pending) => pending,
        Err(error) => return format!("{error:?}"),
    };
    pending.subscribe().block();
    match pending.get() {
        Some(Ok(Ok(response))) => response.status().to_string(),
        other => format!("{other:?}"),
    }
}

fn answer(out: ResponseOutparam, text: &str) {
    respond(out, Fields::new(), text);
}

fn respond(out: ResponseOutparam, headers: Fields, text: &str) {
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("a body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("a stream is taken once");
    stream
        .blocking_write_and_flush(text.as_bytes())
        .expect("the client is there");
    drop(stream);
    OutgoingBody::finish(body, None).expect("a body is finished once");
}
