#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nearfield_host::fuzz::outgoing_uri(bytes));
