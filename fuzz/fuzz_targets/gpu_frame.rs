#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nearfield_gpu::fuzz::gpu_frame(bytes));
