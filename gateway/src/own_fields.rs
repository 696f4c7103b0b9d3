//! What the gateway itself says in a response's fields: which call it was, where it ran, and what it took.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use nearfield_protocol::call::Stages;
use nearfield_protocol::gpu::GpuUsage;

use crate::booking::Cost;
use crate::calls::CallPlacement;

pub const ID: HeaderName = HeaderName::from_static("nearfield-id");
pub const HOST: HeaderName = HeaderName::from_static("nearfield-host");
pub const PLACEMENT: HeaderName = HeaderName::from_static("nearfield-placement");
pub const FUEL: HeaderName = HeaderName::from_static("nearfield-fuel");
pub const GPU: HeaderName = HeaderName::from_static("nearfield-gpu");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Says what a call took, of a response's head or trailers.
pub fn set_cost(headers: &mut HeaderMap, cost: &Cost) {
    headers.insert(FUEL, HeaderValue::from(cost.fuel));
    if let Some(usage) = &cost.gpu {
        headers.insert(GPU, gpu_value(usage));
    }
    headers.insert(SERVER_TIMING, server_timing(&cost.stages));
}

/// Says where a call ran, and whether its data was there. `host` is the host's name.
pub fn set_placement(headers: &mut HeaderMap, host: HeaderValue, placement: &CallPlacement) {
    let CallPlacement {
        local,
        inputs,
        moved_bytes,
        ..
    } = placement;
    headers.insert(HOST, host);
    headers.insert(
        PLACEMENT,
        match inputs {
            0 => HeaderValue::from_static("local=0/0 moved=0"),
            _ => text_value(format!("local={local}/{inputs} moved={moved_bytes}")),
        },
    );
}

fn server_timing(stages: &Stages) -> HeaderValue {
    // Milliseconds with three places, without floating point: this is written for every call.
    let (ms, us) = (|us: u64| us / 1000, |us: u64| us % 1000);
    let Stages {
        queue_us,
        load_us,
        run_us,
    } = *stages;
    text_value(format!(
        "queue;dur={}.{:03}, load;dur={}.{:03}, run;dur={}.{:03}",
        ms(queue_us),
        us(queue_us),
        ms(load_us),
        us(load_us),
        ms(run_us),
        us(run_us)
    ))
}

/// What a call took of the GPU: time, bytes each way, and shards that were in its memory and that were not.
fn gpu_value(usage: &GpuUsage) -> HeaderValue {
    let GpuUsage {
        gpu_ns,
        compile_us,
        dispatches: _,
        uploaded_bytes,
        downloaded_bytes,
        resident_hits,
        resident_misses,
    } = usage;
    text_value(format!(
        "ns={gpu_ns} compile_us={compile_us} uploaded={uploaded_bytes} downloaded={downloaded_bytes} \
         hits={resident_hits} misses={resident_misses}"
    ))
}

/// Text of ours that is made of visible ASCII.
pub fn text_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
