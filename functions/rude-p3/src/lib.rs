//! Says in its answers whatever it is told to, on WASI 0.3 without our SDK: what `rude` does on WASI 0.2. `?seen=` has it say what
//! it was asked.
#![cfg(target_family = "wasm")]

#[path = "../../rude/src/told.rs"]
mod told;

use told::{HOARDED_BYTES, Hoard, Told};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};

struct Rude;

impl Guest for Rude {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let mut told = Told::new(&target);
        if target.ends_with("?seen=") {
            told.body = seen(&target, &request);
        }
        // Two handles each, which are the guest's own alone: the host has nothing for them.
        (0..told.keeps.div_ceil(2)).for_each(|_| std::mem::forget(wasip3::wit_stream::new::<u8>()));
        if let Some(what) = told.hoard {
            hoard(what);
        }
        if let Some(bytes) = told.error {
            return Err(ErrorCode::InternalError(Some("x".repeat(bytes))));
        }
        let (mut body, receiver) = wasip3::wit_stream::new();
        let (trailers, trailers_receiver) = wasip3::wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(fields(&told.fields), Some(receiver), trailers_receiver);
        response
            .set_status_code(told.status)
            .expect("the host takes any status");
        wasip3::spawn(async move {
            for _ in 0..told.times {
                // What is left over was not wanted.
                body.write_all(told.body.clone()).await;
            }
            drop(body);
            let told = (!told.trailers.is_empty()).then(|| fields(&told.trailers));
            // The host may not want them.
            let _ = trailers.write(Ok(told)).await;
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Rude);

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
                let (_, trailers) = wasip3::wit_future::new(|| Ok(None));
                let (request, sent) = Request::new(fields, None, trailers, None);
                request
                    .set_path_with_query(Some(&format!("/{}", "x".repeat(HOARDED_BYTES))))
                    .expect("the host takes such a path");
                std::mem::forget((request, sent));
            }
        }
    }
}

/// What was asked, a line each.
fn seen(target: &str, request: &Request) -> Vec<u8> {
    let host = request.get_authority().unwrap_or_default();
    let mut lines = format!("target {target}\nhost {host}\n").into_bytes();
    for (name, value) in request.get_headers().copy_all() {
        lines.extend_from_slice(format!("{name}: ").as_bytes());
        lines.extend_from_slice(&value);
        lines.push(b'\n');
    }
    lines
}

fn fields(told: &[(String, Vec<u8>)]) -> Fields {
    let fields = Fields::new();
    for (name, value) in told {
        fields.append(name, value).expect("the host takes such a field");
    }
    fields
}
