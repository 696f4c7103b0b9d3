//! The hello function without our SDK, on WASI 0.3: asynchronous, and many calls in one instance at once.
#![cfg(target_family = "wasm")]

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};

struct Hello;

impl Guest for Hello {
    async fn handle(_: Request) -> Result<Response, ErrorCode> {
        let (mut body, receiver) = wasip3::wit_stream::new();
        // Dropped unset, this future means what its default says: no trailers.
        let (_, trailers) = wasip3::wit_future::new(|| Ok(None));
        wasip3::spawn(async move {
            // What is left over was not wanted: the client has gone.
            body.write_all(b"Hello, world!".to_vec()).await;
        });
        let (response, _sent) = Response::new(Fields::new(), Some(receiver), trailers);
        Ok(response)
    }
}

wasip3::http::service::export!(Hello);
