//! One submission: recorded, run to its end, read back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Instant;

use super::pipeline::Pipeline;
use super::{Device, Scopes, lost};
use crate::GpuError;
use crate::wire::frame::read_offsets;
use crate::wire::{Bound, Id, Ran, Run, Slice, Step};

/// Bytes before what a guest reads: two timestamps, and whether a loop was cut short.
const HEAD_BYTES: u64 = 24;
/// A readback buffer up to this size is kept for the next submission.
const KEPT_BYTES: u64 = 4 << 20;

/// Where results come out of the GPU.
pub(super) struct Readback {
    kept: wgpu::Buffer,
    /// Both timestamps, if the adapter takes some, and where they are resolved to.
    stamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

impl Readback {
    pub fn new(device: &wgpu::Device, timestamps: bool) -> Self {
        let stamps = timestamps.then(|| {
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let resolved = device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (set, resolved)
        });
        Readback {
            kept: readable(device, 64 << 10),
            stamps,
        }
    }
}

fn readable(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

impl Device {
    /// Runs one submission to its end. `writes` is what its writes are from; `read` is given all that is read back, each
    /// part at its offset.
    pub fn run(
        &mut self,
        run: &Run,
        writes: &[u8],
        mut read: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<Ran, GpuError> {
        for (id, len) in &run.create {
            let buffer = self.create(*len)?;
            self.buffers.insert(*id, buffer);
        }
        let offsets = read_offsets(run.reads.iter().map(|slice| slice.len));
        let last = offsets.iter().zip(&run.reads).next_back();
        let end = HEAD_BYTES + last.map_or(0, |(offset, slice)| offset + slice.len);
        if end > self.readback.kept.size() && end <= KEPT_BYTES {
            let scopes = Scopes::push(&self.device);
            let kept = readable(&self.device, end.next_power_of_two());
            scopes.pop()?;
            self.readback.kept = kept;
        }
        let inlet = match writes.is_empty() {
            true => None,
            false => Some(self.inlet.fill(&self.device, writes)?),
        };

        let scopes = Scopes::push(&self.device);
        let recorded = self.record(run, inlet.as_ref(), &offsets, end);
        let begun = Instant::now();
        let submitted = recorded.map(|(encoder, out)| {
            self.queue.submit([encoder.finish()]);
            out
        });
        // It was unmapped, whatever came of it.
        if inlet.is_some() {
            self.inlet.recycle();
        }
        let checked = scopes.pop();
        let out = submitted?;
        checked?;
        let slice = out.slice(..end.next_multiple_of(8));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        slice.map_async(wgpu::MapMode::Read, move |ended| {
            let _ = tell.send(ended);
        });
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(lost)?;
        let took_ns = begun.elapsed().as_nanos() as u64;
        told.try_recv().map_err(lost)?.map_err(lost)?;
        let view = slice.get_mapped_range().map_err(lost)?;
        let given = offsets.iter().zip(&run.reads).try_for_each(|(offset, slice)| {
            let start = (HEAD_BYTES + offset) as usize;
            read(*offset, &view[start..start + slice.len as usize])
        });
        let number = |at: usize| u64::from_le_bytes(*view[at..].first_chunk().expect("the head is 24 bytes"));
        let dispatched = run.steps.iter().any(|step| matches!(step, Step::Dispatch { .. }));
        let ran = Ran {
            gpu_ns: match (&self.readback.stamps, dispatched) {
                (_, false) => 0,
                (Some(_), true) => {
                    let ticks = number(8).saturating_sub(number(0)) as f64;
                    (ticks * f64::from(self.queue.get_timestamp_period())) as u64
                }
                (None, true) => took_ns,
            },
            exhausted: number(16) as u32 != 0,
        };
        drop(view);
        out.unmap();
        given.map_err(|error| GpuError::Unavailable(format!("giving back what was read: {error}")))?;
        Ok(ran)
    }

    /// Everything as commands, and the buffer that the results will be in.
    fn record(
        &self,
        run: &Run,
        inlet: Option<&wgpu::Buffer>,
        offsets: &[u64],
        end: u64,
    ) -> Result<(wgpu::CommandEncoder, wgpu::Buffer), GpuError> {
        let mut encoder = self
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(&self.layouts.exhausted, 0, None);
        let is_dispatch = |step: &Step| matches!(step, Step::Dispatch { .. });
        let first = run.steps.iter().position(is_dispatch);
        let last = run.steps.iter().rposition(is_dispatch);
        let mut groups = HashMap::new();
        let mut at = 0;
        while at < run.steps.len() {
            // Dispatches that follow each other are one pass.
            let dispatches = run.steps[at..]
                .iter()
                .take_while(|step| is_dispatch(step))
                .count();
            if dispatches > 0 {
                let range = at..at + dispatches;
                let timestamps = self.readback.stamps.as_ref().map(|(query_set, _)| {
                    let index = |of: Option<usize>, index| of.filter(|of| range.contains(of)).map(|_| index);
                    wgpu::ComputePassTimestampWrites {
                        query_set,
                        beginning_of_pass_write_index: index(first, 0),
                        end_of_pass_write_index: index(last, 1),
                    }
                });
                let stamped = timestamps.filter(|stamps| {
                    stamps.beginning_of_pass_write_index.is_some() || stamps.end_of_pass_write_index.is_some()
                });
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: stamped,
                });
                pass.set_bind_group(EXHAUSTED, &self.layouts.exhausted_group, &[]);
                for step in &run.steps[range] {
                    self.dispatch(step, &mut pass, &mut groups)?;
                }
                at += dispatches;
                continue;
            }
            match &run.steps[at] {
                Step::Copy { from, to, to_offset } => encoder.copy_buffer_to_buffer(
                    self.buffer(from.buffer)?,
                    from.offset,
                    self.buffer(*to)?,
                    *to_offset,
                    from.len,
                ),
                Step::Write { to, at } => {
                    let inlet = inlet.ok_or_else(|| GpuError::Invalid("a write without bytes".to_owned()))?;
                    encoder.copy_buffer_to_buffer(inlet, *at, self.buffer(to.buffer)?, to.offset, to.len);
                }
                Step::Dispatch { .. } => unreachable!("taken above"),
            }
            at += 1;
        }
        let out = match end <= self.readback.kept.size() {
            true => self.readback.kept.clone(),
            false => readable(&self.device, end.next_multiple_of(8)),
        };
        if let Some((set, resolved)) = self.readback.stamps.as_ref().filter(|_| first.is_some()) {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, &out, 0, 16);
        }
        encoder.copy_buffer_to_buffer(&self.layouts.exhausted, 0, &out, 16, 4);
        for (slice, offset) in run.reads.iter().zip(offsets) {
            let from = self.buffer(slice.buffer)?;
            encoder.copy_buffer_to_buffer(from, slice.offset, &out, HEAD_BYTES + offset, slice.len);
        }
        Ok((encoder, out))
    }

    fn dispatch<'a>(
        &self,
        step: &'a Step,
        pass: &mut wgpu::ComputePass<'_>,
        groups: &mut HashMap<(Id, &'a [Bound]), wgpu::BindGroup>,
    ) -> Result<(), GpuError> {
        let Step::Dispatch {
            pipeline: id,
            bindings,
            workgroups: [x, y, z],
        } = step
        else {
            return Ok(());
        };
        let pipeline = self
            .pipelines
            .get(id)
            .ok_or_else(|| GpuError::NotFound("the pipeline is not there".to_owned()))?;
        let key = (*id, bindings.as_slice());
        let group = match groups.entry(key) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(self.group(pipeline, bindings)?),
        };
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &*group, &[]);
        pass.dispatch_workgroups(*x, *y, *z);
        Ok(())
    }

    fn group(&self, pipeline: &Pipeline, bound: &[Bound]) -> Result<wgpu::BindGroup, GpuError> {
        let mut entries = Vec::with_capacity(pipeline.bindings.len());
        // More may be given than the entry point uses.
        for binding in &pipeline.bindings {
            let Some(Bound { slice, .. }) = bound.iter().find(|bound| bound.binding == binding.binding)
            else {
                return Err(GpuError::Invalid(format!(
                    "binding {} of the shader has no buffer",
                    binding.binding
                )));
            };
            let Slice { buffer, offset, len } = *slice;
            entries.push(wgpu::BindGroupEntry {
                binding: binding.binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: self.buffer(buffer)?,
                    offset,
                    size: wgpu::BufferSize::new(len),
                }),
            });
        }
        Ok(self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        }))
    }

    fn buffer(&self, id: Id) -> Result<&wgpu::Buffer, GpuError> {
        self.buffers
            .get(&id)
            .ok_or_else(|| GpuError::NotFound("the buffer is not there".to_owned()))
    }
}

const EXHAUSTED: u32 = crate::shader::EXHAUSTED_GROUP;
