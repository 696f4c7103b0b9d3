//! The hello function without our SDK, on WASI 0.2: what the SDK's own hello is measured against, and a proof that
//! any `wasi:http` component is a function.
#![cfg(target_family = "wasm")]

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;

impl Guest for Hello {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("a stream is taken once");
        stream
            .blocking_write_and_flush(b"Hello, world!")
            .expect("the client is there");
        drop(stream);
        OutgoingBody::finish(body, None).expect("a body is finished once");
    }
}

wasip2::http::proxy::export!(Hello);
