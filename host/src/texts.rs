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

/// Bounds them for WASI 0.2.
pub(crate) fn add_p2_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use p2::HostOutgoingRequest as _;
    linker.allow_shadowing(true);
    let mut types = linker.instance(P2_TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, Guest>,
         (request, method): (Resource<HostOutgoingRequest>, p2::Method)|
         -> Set {
            if matches!(&method, p2::Method::Other(text) if is_long(text)) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut store: StoreContextMut<'_, Guest>,
         (request, scheme): (Resource<HostOutgoingRequest>, Option<p2::Scheme>)|
         -> Set {
            if matches!(&scheme, Some(p2::Scheme::Other(text)) if is_long(text)) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_scheme(request, scheme)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, Guest>,
         (request, authority): (Resource<HostOutgoingRequest>, Option<String>)|
         -> Set {
            if authority.as_deref().is_some_and(is_long) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(request, authority)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Bounds them for WASI 0.3.
pub(crate) fn add_p3_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use p3::HostRequest as _;
    linker.allow_shadowing(true);
    let mut types = linker.instance(P3_TYPES)?;
    types.func_wrap(
        "[method]request.set-method",
        |mut store: StoreContextMut<'_, Guest>, (request, method): (Resource<Request>, p3::Method)| -> Set {
            if matches!(&method, p3::Method::Other(text) if is_long(text)) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-scheme",
        |mut store: StoreContextMut<'_, Guest>,
         (request, scheme): (Resource<Request>, Option<p3::Scheme>)|
         -> Set {
            if matches!(&scheme, Some(p3::Scheme::Other(text)) if is_long(text)) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_scheme(request, scheme)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-authority",
        |mut store: StoreContextMut<'_, Guest>,
         (request, authority): (Resource<Request>, Option<String>)|
         -> Set {
            if authority.as_deref().is_some_and(is_long) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(request, authority)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn is_long(text: &str) -> bool {
    text.len() > MAX_TEXT_BYTES
}
