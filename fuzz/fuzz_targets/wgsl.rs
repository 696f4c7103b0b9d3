#![no_main]

libfuzzer_sys::fuzz_target!(
    // What panics while it reads a shader is caught, and the shader refused; libFuzzer's hook would end the process there.
    init: std::panic::set_hook(Box::new(|_| ())),
    |bytes: &[u8]| nearfield_gpu::fuzz::wgsl(bytes)
);
