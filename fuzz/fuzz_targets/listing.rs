#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nearfield_remote::fuzz::listing(bytes));
