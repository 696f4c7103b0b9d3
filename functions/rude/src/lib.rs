//! Says in its answers whatever it is told to, on WASI 0.2 without our SDK: what no well-meaning function would. The tests
//! ask whether it reaches anybody.
#![cfg(target_family = "wasm")]

mod told;

use told::{HOARDED_BYTES, Hoard, Told};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
};

struct Rude;

impl Guest for Rude {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let told = Told::new(&request.path_with_query().unwrap_or_default());
        (0..told.keeps).for_each(|_| std::mem::forget(Fields::new()));
        if let Some(what) = told.hoard {
            hoard(what);
        }
        if let Some(bytes) = told.error {
            let text = "x".repeat(bytes);
            return ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(text))));
        }
        let response = OutgoingResponse::new(fields(&told.fields));
        response
            .set_status_code(told.status)
            .expect("the host takes any status");
        let body = response.body().expect("a body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("a stream is taken once");
        for _ in 0..told.times {
            // Beyond the declared length the host says so, and a rude function does not listen.
            let _ = stream.blocking_write_and_flush(&told.body);
        }
        drop(stream);
        let trailers = (!told.trailers.is_empty()).then(|| fields(&told.trailers));
        let finished = OutgoingBody::finish(body, trailers);
        assert!(!told.strict || finished.is_ok(), "{finished:?}");
    }
}

wasip2::http::proxy::export!(Rude);

fn hoard(what: Hoard) -> ! {
    loop {
        let fields = Fields::new();
        match what {
            Hoard::Fields => {
                fields
                    .append("x-long", &vec![b'x'; HOARDED_BYTES])
                    .expect("the host takes such a field");
                std::mem::forget(fields);
            }
            Hoard::Requests => {
                let request = OutgoingRequest::new(fields);
                request
                    .set_path_with_query(Some(&format!("/{}", "x".repeat(HOARDED_BYTES))))
                    .expect("the host takes such a path");
                std::mem::forget(request);
            }
        }
    }
}

fn fields(told: &[(String, Vec<u8>)]) -> Fields {
    let fields = Fields::new();
    for (name, value) in told {
        fields.append(name, value).expect("the host takes such a field");
    }
    fields
}
