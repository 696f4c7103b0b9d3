//! What a guest may use of the GPU, as its manifest grants it, and what it has used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nearfield_gpu::client::{Account, Gpu};
use nearfield_gpu::{Description, GpuError, limits};
use nearfield_protocol::call::CallSpec;
use nearfield_protocol::gpu::{AdapterKind, GpuKind, GpuUsage};
use nearfield_protocol::job::PureSpec;
use nearfield_protocol::{FunctionName, units};

/// A guest's GPU.
pub(crate) struct GpuAccess {
    gpu: Option<Gpu>,
    /// Whose guest it is.
    function: FunctionName,
    grant: Option<Grant>,
    /// Of its own buffers.
    pub(super) bytes: u64,
    pub(super) buffers: usize,
    /// Bytes that its submissions read back and that it may still ask for.
    pub(super) read_bytes: u64,
    /// How long it waited for the GPU.
    pub(super) waited: Duration,
    /// Only where something is granted.
    account: Option<Account>,
}

/// What the manifest grants.
#[derive(Clone, Copy)]
pub(super) struct Grant {
    kind: GpuKind,
    time: Duration,
    memory_bytes: u64,
}

impl GpuAccess {
    pub fn of_call(gpu: Option<Gpu>, spec: &CallSpec) -> Self {
        let manifest = &spec.function.manifest;
        let grant = manifest.require.gpu.map(|kind| Grant {
            kind,
            time: manifest.limits.gpu_time.0,
            memory_bytes: manifest.limits.gpu_memory.0,
        });
        GpuAccess::new(gpu, &spec.function.name, grant, manifest.limits.timeout.0)
    }

    pub fn of_run(gpu: Option<Gpu>, spec: &PureSpec) -> Self {
        let grant = spec.setting.gpu.as_ref().map(|grant| Grant {
            kind: grant.kind,
            time: grant.time,
            memory_bytes: grant.memory_bytes,
        });
        GpuAccess::new(gpu, &spec.setting.function, grant, spec.setting.limits.timeout)
    }

    fn new(gpu: Option<Gpu>, function: &FunctionName, grant: Option<Grant>, timeout: Duration) -> Self {
        let mut access = GpuAccess {
            gpu,
            function: function.clone(),
            grant,
            bytes: 0,
            buffers: 0,
            read_bytes: 0,
            waited: Duration::ZERO,
            account: None,
        };
        access.open(timeout);
        access
    }

    /// Begins a call. Of an instance that is reused, buffers may be there from the last one.
    pub fn open(&mut self, timeout: Duration) {
        let account =
            |grant: Grant| Account::new(self.function.as_str(), grant.time, Instant::now() + timeout);
        self.account = self.grant.map(account);
        self.waited = Duration::ZERO;
    }

    /// Ends a call: what has not begun is not begun any more.
    pub fn close(&self) {
        if let Some(account) = &self.account {
            account.close();
        }
    }

    /// Whether it holds memory of the GPU, or may.
    pub fn holds_buffers(&self) -> bool {
        self.buffers > 0
    }

    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What was used so far; `None` if nothing was.
    pub fn usage(&self) -> Option<GpuUsage> {
        let usage = self.account.as_ref()?.usage();
        Some(usage).filter(|usage| *usage != GpuUsage::default())
    }

    /// The GPU, if it is granted and there is one.
    pub(super) fn gpu(&self) -> Result<(Gpu, Grant, Account), GpuError> {
        let (Some(grant), Some(account)) = (self.grant, &self.account) else {
            let text = "the manifest requires no GPU: add `require = { gpu = \"any\" }`, or \"hardware\"";
            return Err(GpuError::Denied(text.to_owned()));
        };
        let gpu = self.gpu.clone().ok_or_else(|| {
            GpuError::Unavailable("this host offers no GPU: it runs with `--gpu off`".to_owned())
        })?;
        Ok((gpu, grant, account.clone()))
    }

    pub(super) fn new_buffer(&mut self, bytes: u64) -> Result<Gpu, GpuError> {
        let (gpu, grant, _) = self.gpu()?;
        if self.buffers >= limits::BUFFERS {
            return Err(GpuError::Quota(format!(
                "a call holds at most {} buffers",
                limits::BUFFERS
            )));
        }
        if self.bytes.saturating_add(bytes) > grant.memory_bytes {
            return Err(GpuError::Quota(format!(
                "{bytes} bytes more than {} are wanted (limits.gpu_memory = {})",
                self.bytes,
                units::format_bytes(grant.memory_bytes)
            )));
        }
        self.buffers += 1;
        self.bytes += bytes;
        Ok(gpu)
    }
}

impl Drop for GpuAccess {
    fn drop(&mut self) {
        self.close();
    }
}

/// The GPU, once it is known to be what the function requires.
pub(super) async fn required(gpu: &Gpu, grant: Grant) -> Result<Arc<Description>, GpuError> {
    let description = gpu.describe().await?;
    let adapter = match description.software {
        true => AdapterKind::Software,
        false => AdapterKind::Hardware,
    };
    match grant.kind.takes(adapter) {
        true => Ok(description),
        false => Err(GpuError::Unavailable(format!(
            "the function requires hardware, and this host has {}, which computes on the processor: \
             `require = {{ gpu = \"any\" }}` would take it",
            description.name
        ))),
    }
}
