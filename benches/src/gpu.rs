//! What `cargo xtask bench gpu` measures us against: the same dispatches by plain wgpu, in a program of its own.
//!
//! `bare-gpu ADAPTER ROUNDS` takes the adapter whose name it is given and prints, as JSON, the median microseconds of one submission:
//! of 1 and of 100 small dispatches, and of a histogram over 4 MiB that are in its memory.

use std::time::Instant;

use wgpu::util::DeviceExt;

const USAGE: &str = "usage: bare-gpu ADAPTER ROUNDS";
const USAGES: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(rounds)) = (arguments.next(), arguments.next()) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let rounds: usize = rounds.parse().expect(USAGE);
    let gpu = Gpu::open(&name);
    let small = gpu.kernel(include_str!("../gpu/double.wgsl"), "main");
    let histogram = gpu.kernel(
        include_str!("../../functions/histogram/src/histogram.wgsl"),
        "histogram",
    );
    let numbers: Vec<u8> = (0..1_u32 << 20)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let numbers = gpu.buffer(&numbers);
    let (little, counts) = (gpu.buffer(&[0; 256]), gpu.buffer(&[0; 1024]));
    let one = gpu.median_us(rounds, &small, &[&little], [1, 1, 1], 1, 4);
    let hundred = gpu.median_us(rounds, &small, &[&little], [1, 1, 1], 100, 4);
    let shard = gpu.median_us(rounds, &histogram, &[&numbers, &counts], [64, 1, 1], 1, 1024);
    println!("{{\"one_us\": {one}, \"hundred_us\": {hundred}, \"shard_us\": {shard}}}");
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Gpu {
    fn open(name: &str) -> Gpu {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // As the worker has it.
        descriptor.flags = wgpu::InstanceFlags::empty();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        let backends = descriptor.backends;
        let adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
        let adapter = adapters
            .into_iter()
            .find(|adapter| adapter.get_info().name == name);
        let adapter = adapter.unwrap_or_else(|| panic!("no adapter is called {name}"));
        let opened = adapter.request_device(&wgpu::DeviceDescriptor::default());
        let (device, queue) = pollster::block_on(opened).expect("the adapter opens");
        Gpu { device, queue }
    }

    fn kernel(&self, wgsl: &str, entry: &str) -> wgpu::ComputePipeline {
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(wgsl.into()),
        });
        self.device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
    }

    fn buffer(&self, contents: &[u8]) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents,
            usage: USAGES,
        })
    }

    /// Records, submits, waits and reads back, as often as asked for, after some times that do not count.
    fn median_us(
        &self,
        rounds: usize,
        kernel: &wgpu::ComputePipeline,
        buffers: &[&wgpu::Buffer],
        [x, y, z]: [u32; 3],
        dispatches: u32,
        read: u64,
    ) -> f64 {
        let entries: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.get_bind_group_layout(0),
            entries: &entries,
        });
        let out = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: read,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let last = buffers[buffers.len() - 1];
        let mut times = Vec::with_capacity(rounds);
        for round in 0..rounds + rounds / 5 + 1 {
            let begun = Instant::now();
            let mut encoder = self.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(kernel);
                pass.set_bind_group(0, &group, &[]);
                for _ in 0..dispatches {
                    pass.dispatch_workgroups(x, y, z);
                }
            }
            encoder.copy_buffer_to_buffer(last, 0, &out, 0, read);
            self.queue.submit([encoder.finish()]);
            out.slice(..)
                .map_async(wgpu::MapMode::Read, |mapped| mapped.expect("it is read"));
            self.device
                .poll(wgpu::PollType::wait_indefinitely())
                .expect("the device goes on");
            std::hint::black_box(out.slice(..).get_mapped_range().expect("it is mapped").to_vec());
            out.unmap();
            if round > rounds / 5 {
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}
