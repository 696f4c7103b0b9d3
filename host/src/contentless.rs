//! Responses that declare the length of content which they do not have: those to HEAD, and 304 (RFC 9110 §8.6).

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, HostOutgoingBody as _, Trailers};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;

use crate::guest::Guest;

/// The version that the engine's own WASI has: guests with older ones are linked to it too.
const TYPES: &str = "wasi:http/types@0.2.12";

/// Lets a p2 guest end a body without a byte whatever its head declares. The engine does not know the method and calls such
/// a body too short, and many guests trap at that. A response that should have content is still held to its length, in
/// [`crate::body`].
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(TYPES)?.func_wrap(
        "[static]outgoing-body.finish",
        |mut store: StoreContextMut<'_, Guest>,
         (body, trailers): (Resource<HostOutgoingBody>, Option<Resource<Trailers>>)| {
            let finished = store.data_mut().http().finish(body, trailers);
            let answer = match finished.map_err(|error| error.downcast()) {
                Ok(()) | Err(Ok(ErrorCode::HttpResponseBodySize(Some(0)))) => Ok(()),
                Err(code) => Err(code?),
            };
            Ok((answer,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
