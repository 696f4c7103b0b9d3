//! Runs the compute shader that it is sent, whatever that is: to try one out, to measure the way to the GPU, and to see what
//! becomes of those that mean no good. Not public: whoever may call it may use the GPU as its limits allow.
//!
//! `POST /fn/shader?buffers=256,1024&workgroups=4,1,1&read=256` with WGSL as its body binds zeros of 256 bytes at binding 0 and of
//! 1,024 bytes at binding 1, dispatches the entry point `main` and answers with the numbers (`u32`) in the first 256 bytes of the
//! last binding. With `shard=N` the dataset's shard N is binding 0, and the buffers follow. `dispatches=100` dispatches as often in
//! one submission, `submissions=3` submits that as often. What fails is answered with the kind of the failure and its text.

use nearfield::gpu::{Batch, Buffer, GpuError, Kernel, Part, Usage};
use nearfield::{Dataset, IntoResponse, Json, Request, RequestExt, Result};
use serde_json::{Value, json};

#[derive(serde::Deserialize)]
struct Asked {
    entry: Option<String>,
    /// Sizes in bytes, with commas between them.
    #[serde(default)]
    buffers: String,
    /// Three numbers, with commas between them.
    workgroups: Option<String>,
    shard: Option<u32>,
    #[serde(default = "one")]
    dispatches: u32,
    #[serde(default = "one")]
    submissions: u32,
    /// Bytes of the last binding.
    #[serde(default)]
    read: usize,
    timeout_ms: Option<u64>,
}

fn one() -> u32 {
    1
}

#[nearfield::http]
fn shader(mut request: Request) -> Result<impl IntoResponse> {
    let asked: Asked = request.query()?;
    let wgsl = std::mem::take(request.body_mut()).text(8 << 20)?;
    Ok(Json(match run(&asked, &wgsl)? {
        Ok((numbers, usage)) => json!({ "numbers": numbers, "usage": told(&usage) }),
        Err(error) => json!({ "error": kind(&error), "text": error.to_string() }),
    }))
}

type Ran = Result<(Vec<u32>, Usage), GpuError>;

fn run(asked: &Asked, wgsl: &str) -> Result<Ran> {
    let shard = match asked.shard {
        Some(index) => Some(Dataset::open("data")?.shard(index)?),
        None => None,
    };
    let numbers = |text: &str| -> Result<Vec<u64>> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| Ok(part.parse()?)).collect()
    };
    let sizes = numbers(&asked.buffers)?;
    let workgroups = numbers(asked.workgroups.as_deref().unwrap_or("1,1,1"))?;
    let group = |at: usize| workgroups.get(at).copied().unwrap_or(1) as u32;
    let workgroups = [group(0), group(1), group(2)];

    let ran = || {
        let kernel = Kernel::new(wgsl, asked.entry.as_deref().unwrap_or("main"))?;
        let shard = shard.as_ref().map(Buffer::<u32>::from_shard).transpose()?;
        let buffers = sizes.iter().map(|size| Buffer::<u32>::zeroed(*size as usize / 4));
        let buffers: Vec<_> = buffers.collect::<Result<_, _>>()?;
        let bindings: Vec<Part<'_>> = shard.iter().chain(&buffers).map(Buffer::all).collect();
        let (mut total, mut answer) = (Usage::default(), Vec::new());
        for _ in 0..asked.submissions {
            let mut batch = Batch::new();
            if let Some(ms) = asked.timeout_ms {
                batch.timeout(std::time::Duration::from_millis(ms));
            }
            for _ in 0..asked.dispatches {
                batch.dispatch(&kernel, workgroups, &bindings);
            }
            let last = shard.iter().chain(&buffers).next_back();
            let read = last
                .filter(|_| asked.read > 0)
                .map(|last| batch.read(last, 0..asked.read / 4));
            let mut job = batch.submit()?;
            let usage = job.wait()?;
            total.gpu_ns += usage.gpu_ns;
            total.compile_us += usage.compile_us;
            total.uploaded_bytes += usage.uploaded_bytes;
            total.downloaded_bytes += usage.downloaded_bytes;
            total.resident_hits += usage.resident_hits;
            total.resident_misses += usage.resident_misses;
            if let Some(read) = read {
                answer = job.read(read)?;
            }
        }
        Ok((answer, total))
    };
    Ok(ran())
}

fn told(usage: &Usage) -> Value {
    json!({
        "gpu_ns": usage.gpu_ns,
        "compile_us": usage.compile_us,
        "uploaded_bytes": usage.uploaded_bytes,
        "downloaded_bytes": usage.downloaded_bytes,
        "resident_hits": usage.resident_hits,
        "resident_misses": usage.resident_misses,
    })
}

fn kind(error: &GpuError) -> &'static str {
    match error {
        GpuError::Denied(_) => "denied",
        GpuError::Invalid(_) => "invalid",
        GpuError::NotFound(_) => "not-found",
        GpuError::Quota(_) => "quota",
        GpuError::Timeout(_) => "timeout",
        GpuError::DeviceLost(_) => "device-lost",
        GpuError::Unavailable(_) => "unavailable",
    }
}
