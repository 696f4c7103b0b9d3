//! A component that never gets past its start: it loops while it is instantiated, before any request reaches it.
//! A host must count that time and fuel against the call, or against whoever deploys it.
#![cfg(target_family = "wasm")]

use std::hint::black_box;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

/// A constructor, as C++ has them for statics: the linker calls it from `_initialize`.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = spin;

extern "C" fn spin() {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns).wrapping_add(1);
    }
}

struct Never;

impl Guest for Never {
    fn handle(_: IncomingRequest, _: ResponseOutparam) {}
}

wasip2::http::proxy::export!(Never);
