//! One adapter, through wgpu's safe and checked half alone.
//!
//! It does one thing at a time and waits for the end of each. `adapter` opens it, `pipeline` makes guests' shaders into
//! pipelines, `staging` brings bytes, `run` is a submission. Every call of wgpu is between `Scopes`, so that an error is an
//! answer. What it does not survive is the loss of the device: wgpu itself may panic then, and so whoever owns a device must
//! be able to end its process.

mod adapter;
#[cfg(test)]
mod on_a_gpu;
mod pipeline;
mod run;
mod staging;

use std::collections::HashMap;
use std::io;

pub use adapter::{AdapterInfo, OpenError, adapters};

use crate::GpuError;
use crate::wire::{Choice, Description, Id};
use pipeline::Pipeline;
use run::Readback;
use staging::{Inlet, Ring};

/// An adapter and what it holds for its user.
pub struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    description: Description,
    buffers: HashMap<Id, wgpu::Buffer>,
    pipelines: HashMap<Id, Pipeline>,
    layouts: pipeline::Layouts,
    ring: Ring,
    inlet: Inlet,
    readback: Readback,
}

/// What every buffer of a guest can be used as.
const BUFFER_USAGES: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::UNIFORM)
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

impl Device {
    /// Opens an adapter. `on_loss` is told when it goes away.
    pub fn open(choice: &Choice, on_loss: impl Fn(String) + Send + 'static) -> Result<Self, OpenError> {
        let (device, queue, description) = adapter::open(choice)?;
        device.set_device_lost_callback(move |reason, message| on_loss(format!("{reason:?}: {message}")));
        // What no scope caught is nobody's doing that could be told of it.
        device.on_uncaptured_error(std::sync::Arc::new(|error| eprintln!("gpu: {error}")));
        let layouts = pipeline::Layouts::new(&device);
        Ok(Device {
            ring: Ring::new(&device),
            inlet: Inlet::default(),
            readback: Readback::new(&device, description.timestamps),
            layouts,
            device,
            queue,
            description,
            buffers: HashMap::new(),
            pipelines: HashMap::new(),
        })
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Lets go of buffers and pipelines.
    pub fn let_go(&mut self, ids: &[Id]) {
        for id in ids {
            self.buffers.remove(id);
            self.pipelines.remove(id);
        }
        if !ids.is_empty() {
            // Nothing runs, so what was let go of is free at once.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
    }

    /// A buffer with `len` bytes that `fill` gives piece by piece, and zeros up to a multiple of 4.
    pub fn upload(
        &mut self,
        id: Id,
        len: u64,
        fill: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<(), GpuError> {
        let buffer = self.create(len)?;
        self.ring.fill(&self.device, &self.queue, &buffer, len, fill)?;
        self.buffers.insert(id, buffer);
        Ok(())
    }

    /// A buffer of zeros.
    fn create(&self, len: u64) -> Result<wgpu::Buffer, GpuError> {
        if len == 0 {
            return Err(GpuError::Invalid("a buffer has at least one byte".to_owned()));
        }
        let most = self.description.max_buffer_bytes;
        if len > most {
            return Err(GpuError::Quota(format!(
                "a buffer of {len} bytes, where {} takes at most {most}",
                self.description.name
            )));
        }
        let scopes = Scopes::push(&self.device);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: len.next_multiple_of(4),
            usage: BUFFER_USAGES,
            mapped_at_creation: false,
        });
        scopes.pop()?;
        Ok(buffer)
    }
}

/// Catches what goes wrong in between, of every kind.
struct Scopes([wgpu::ErrorScopeGuard; 3]);

impl Scopes {
    fn push(device: &wgpu::Device) -> Self {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        Scopes([Internal, OutOfMemory, Validation].map(|filter| device.push_error_scope(filter)))
    }

    fn pop(self) -> Result<(), GpuError> {
        let [internal, memory, validation] = self.0;
        // In the reverse of the order in which they were pushed.
        let errors = [validation, memory, internal].map(|scope| pollster::block_on(scope.pop()));
        match errors.into_iter().flatten().next() {
            None => Ok(()),
            Some(error) => Err(told(&error)),
        }
    }
}

fn told(error: &wgpu::Error) -> GpuError {
    match error {
        wgpu::Error::OutOfMemory { .. } => {
            GpuError::Unavailable("the GPU has no memory left for this".to_owned())
        }
        wgpu::Error::Validation { source, .. } => GpuError::Invalid(crate::shader::chain(source.as_ref())),
        wgpu::Error::Internal { description, .. } => {
            GpuError::Invalid(format!("the driver refuses this: {description}"))
        }
    }
}

fn lost(error: impl std::fmt::Display) -> GpuError {
    GpuError::DeviceLost(format!("the GPU does not go on: {error}"))
}
