//! `cargo xtask bench`: what we reach, beside what could be reached. benches/METHOD.md says how it is measured.

pub mod data;
pub mod foreign;
pub mod gpu;
pub mod http;
pub mod jobs;
pub mod peers;
pub mod wrk;
