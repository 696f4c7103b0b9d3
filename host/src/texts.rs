//! Texts of outgoing requests that no type bounds: a method, a scheme and an authority may be of any length to the engine, which
//! keeps them for as long as the guest keeps the request. Longer ones than a head may have are refused where they come in.

use nearfield_protocol::limits;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p3::bindings::http::types as p3;
use wasmtime_wasi_http::{WasiHttpView, p2::types::HostOutgoingRequest, p3::Request};

use crate::guest::Guest;

/// The versions that the engine's own WASI has: guests with others are linked to them too.
const P2_TYPES: &str = "wasi:http/types@0.2.12";
const P3_TYPES: &str = "wasi:http/types@0.3.0";

const MAX_TEXT_BYTES: usize = limits::RESPONSE_HEADER_BYTES;

type Set = wasmtime::Result<(Result<(), ()>,)>;

/// Has the host refuse a text that `$is_long`, where the engine's own `$set` would keep it.
macro_rules! bound {
    ($types:ident, $request:ty, $name:expr, $set:ident, $text:ty, $is_long:expr) => {
        $types.func_wrap(
            $name,
            |mut store: StoreContextMut<'_, Guest>, (request, text): (Resource<$request>, $text)| -> Set {
                let is_long: fn(&$text) -> bool = $is_long;
                match is_long(&text) {
                    true => Ok((Err(()),)),
                    false => Ok((store.data_mut().http().$set(request, text)?,)),
                }
            },
        )?
    };
}

/// Bounds the texts of one WASI version's requests. `$wit` has the version's types; `$resource` is its name of an outgoing request.
macro_rules! bound_texts {
    ($linker:ident, $interface:ident, $wit:ident, $request:ty, $resource:literal) => {
        $linker.allow_shadowing(true);
        let mut types = $linker.instance($interface)?;
        let name = concat!("[method]", $resource, ".set-method");
        bound!(types, $request, name, set_method, $wit::Method, |method| {
            matches!(method, $wit::Method::Other(text) if is_long(text))
        });
        let name = concat!("[method]", $resource, ".set-scheme");
        bound!(types, $request, name, set_scheme, Option<$wit::Scheme>, |scheme| {
            matches!(scheme, Some($wit::Scheme::Other(text)) if is_long(text))
        });
        let name = concat!("[method]", $resource, ".set-authority");
        bound!(types, $request, name, set_authority, Option<String>, |authority| {
            authority.as_deref().is_some_and(is_long)
        });
        $linker.allow_shadowing(false);
    };
}

/// Bounds them for WASI 0.2.
pub(crate) fn add_p2_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use p2::HostOutgoingRequest as _;
    bound_texts!(linker, P2_TYPES, p2, HostOutgoingRequest, "outgoing-request");
    Ok(())
}

/// Bounds them for WASI 0.3.
pub(crate) fn add_p3_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use p3::HostRequest as _;
    bound_texts!(linker, P3_TYPES, p3, Request, "request");
    Ok(())
}

fn is_long(text: &str) -> bool {
    text.len() > MAX_TEXT_BYTES
}
