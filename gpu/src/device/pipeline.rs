//! Guests' shaders as pipelines.

use std::time::Instant;

use super::{Device, Scopes};
use crate::GpuError;
use crate::shader::{self, EXHAUSTED_GROUP, ShaderError};
use crate::wire::{Access, Binding, Built, Id, Shader};

pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub bindings: Vec<Binding>,
}

/// What all pipelines share: the buffer that says that a loop was cut short.
pub(super) struct Layouts {
    exhausted_layout: wgpu::BindGroupLayout,
    pub exhausted: wgpu::Buffer,
    pub exhausted_group: wgpu::BindGroup,
}

impl Layouts {
    pub fn new(device: &wgpu::Device) -> Self {
        let exhausted_layout = layout(
            device,
            &[Binding {
                binding: 0,
                access: Access::ReadWrite,
            }],
        );
        let exhausted = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: super::BUFFER_USAGES,
            mapped_at_creation: false,
        });
        let exhausted_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &exhausted_layout,
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: exhausted.as_entire_binding(),
            }],
        });
        Layouts {
            exhausted_layout,
            exhausted,
            exhausted_group,
        }
    }
}

impl Device {
    /// Checks a shader, makes its loops end, and has the driver compile it.
    pub fn build(&mut self, id: Id, shader: &Shader) -> Result<Built, GpuError> {
        let begun = Instant::now();
        let limits = shader::Limits {
            workgroup_invocations: self.description.max_workgroup_invocations,
            turns: self.description.max_loop_turns,
            workgroup_bytes: self.description.max_workgroup_bytes.into(),
            ..shader::Limits::default()
        };
        let features = shader::Features {
            f16: self.description.f16,
            subgroups: self.description.subgroups,
        };
        let kernel = shader::check(&shader.wgsl, &shader.entry, &shader.constants, features, &limits)?;
        let bindings = kernel.bindings;
        let scopes = Scopes::push(&self.device);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(kernel.module)),
        });
        let layout = layout(&self.device, &bindings);
        debug_assert_eq!(EXHAUSTED_GROUP, 1, "the second of the groups below");
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                bind_group_layouts: &[Some(&layout), Some(&self.layouts.exhausted_layout)],
                ..wgpu::PipelineLayoutDescriptor::default()
            });
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(&kernel.entry),
                // Of constants nothing is left, and workgroup memory begins as zeros by default.
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
        scopes.pop()?;
        let built = Built {
            bindings: bindings.clone(),
            compile_us: begun.elapsed().as_micros() as u64,
        };
        self.pipelines.insert(
            id,
            Pipeline {
                pipeline,
                layout,
                bindings,
            },
        );
        Ok(built)
    }
}

fn layout(device: &wgpu::Device, bindings: &[Binding]) -> wgpu::BindGroupLayout {
    let entry = |binding: &Binding| wgpu::BindGroupLayoutEntry {
        binding: binding.binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding.access {
                Access::Uniform => wgpu::BufferBindingType::Uniform,
                access => wgpu::BufferBindingType::Storage {
                    read_only: access == Access::Read,
                },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = bindings.iter().map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &entries,
    })
}

impl From<ShaderError> for GpuError {
    fn from(error: ShaderError) -> Self {
        match error {
            ShaderError::TooMany { .. } => GpuError::Quota(error.to_string()),
            ShaderError::Invalid { .. } | ShaderError::NoEntry { .. } | ShaderError::Resource { .. } => {
                GpuError::Invalid(error.to_string())
            }
        }
    }
}
