//! Bytes on their way into GPU memory, in buffers of ours: running out of memory in those that wgpu hides would lose the
//! device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Scopes, lost};
use crate::{GpuError, limits};

/// Chunks of the ring: while one is copied on the GPU, the next is filled.
const CHUNKS: usize = 4;
const CHUNK_BYTES: u64 = 2 << 20;
/// Bytes that are filled at once, in a buffer that stays in the processor's cache: mapped memory may only be written.
const PIECE_BYTES: usize = 256 << 10;
/// An inlet is at least as large, so that small ones need not grow.
const INLET_BYTES: u64 = 64 << 10;

/// A buffer that is written through a map and copied from on the GPU.
struct Chunk {
    buffer: wgpu::Buffer,
    mapped: Arc<AtomicBool>,
}

impl Chunk {
    fn new(device: &wgpu::Device, size: u64) -> Self {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        let mapped = Arc::new(AtomicBool::new(true));
        Chunk { buffer, mapped }
    }

    /// Waits until the GPU has copied what was in it.
    fn ready(&self, device: &wgpu::Device) -> Result<(), GpuError> {
        while !self.mapped.load(Ordering::Acquire) {
            device.poll(wgpu::PollType::wait_indefinitely()).map_err(lost)?;
        }
        Ok(())
    }

    /// Asks for it back, once what was submitted is done.
    fn recycle(&self) {
        self.mapped.store(false, Ordering::Release);
        let mapped = self.mapped.clone();
        self.buffer
            .slice(..)
            .map_async(wgpu::MapMode::Write, move |ended| {
                mapped.store(ended.is_ok(), Ordering::Release)
            });
    }
}

/// Brings what is larger than memory that could be mapped at once.
pub(super) struct Ring {
    chunks: [Chunk; CHUNKS],
    next: usize,
    piece: Vec<u8>,
}

impl Ring {
    pub fn new(device: &wgpu::Device) -> Self {
        Ring {
            chunks: std::array::from_fn(|_| Chunk::new(device, CHUNK_BYTES)),
            next: 0,
            piece: vec![0; PIECE_BYTES],
        }
    }

    /// Fills a buffer from its start, and with zeros up to a multiple of 4. It is there when this returns.
    pub fn fill(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        buffer: &wgpu::Buffer,
        len: u64,
        mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<(), GpuError> {
        let scopes = Scopes::push(device);
        let mut at = 0;
        while at < len {
            let chunk = &self.chunks[self.next];
            self.next = (self.next + 1) % CHUNKS;
            chunk.ready(device)?;
            let bytes = CHUNK_BYTES.min(len - at);
            let padded = bytes.next_multiple_of(4);
            let mut view = chunk
                .buffer
                .slice(..padded)
                .get_mapped_range_mut()
                .map_err(lost)?;
            for start in (0..bytes as usize).step_by(PIECE_BYTES) {
                let end = (bytes as usize).min(start + PIECE_BYTES);
                let piece = &mut self.piece[..end - start];
                if let Err(error) = fill(piece) {
                    // As it was, for the next one.
                    drop(view);
                    drop(scopes);
                    return Err(GpuError::Unavailable(format!("a shard cannot be read: {error}")));
                }
                view.slice(start..end).copy_from_slice(piece);
            }
            view.slice(bytes as usize..)
                .copy_from_slice(&[0; 4][..(padded - bytes) as usize]);
            drop(view);
            chunk.buffer.unmap();
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&chunk.buffer, 0, buffer, at, padded);
            queue.submit([encoder.finish()]);
            chunk.recycle();
            at += bytes;
        }
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(lost)?;
        scopes.pop()
    }
}

/// Brings the writes of one submission. It grows to the largest that was needed, at most [`limits::WRITE_BYTES`].
#[derive(Default)]
pub(super) struct Inlet(Option<Chunk>);

impl Inlet {
    /// A buffer from which the submission can copy these bytes. [`Inlet::recycle`] once that is submitted.
    pub fn fill(&mut self, device: &wgpu::Device, bytes: &[u8]) -> Result<wgpu::Buffer, GpuError> {
        let needed = (bytes.len() as u64).next_multiple_of(4);
        debug_assert!(needed <= limits::WRITE_BYTES, "checked where it came from");
        if self.0.as_ref().is_none_or(|chunk| chunk.buffer.size() < needed) {
            self.0 = None;
            let scopes = Scopes::push(device);
            let chunk = Chunk::new(device, needed.next_power_of_two().max(INLET_BYTES));
            scopes.pop()?;
            self.0 = Some(chunk);
        }
        let chunk = self.0.as_ref().expect("made above");
        chunk.ready(device)?;
        let slice = chunk.buffer.slice(..needed);
        let mut view = slice.get_mapped_range_mut().map_err(lost)?;
        view.slice(..bytes.len()).copy_from_slice(bytes);
        drop(view);
        chunk.buffer.unmap();
        Ok(chunk.buffer.clone())
    }

    pub fn recycle(&self) {
        if let Some(chunk) = &self.0 {
            chunk.recycle();
        }
    }
}
