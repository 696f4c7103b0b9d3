//! The product as its users meet it: real processes, real sockets, real files. A module a behaviour.
//!
//! `cargo xtask test` builds what is needed and says where it is, in `NEARFIELD_BIN` and
//! `NEARFIELD_FUNCTIONS`; without them the usual places are tried.

mod bad_input;
mod calls;
mod content;
mod data;
mod differential;
mod full_disk;
mod growth;
mod harness;
mod hostile;
mod http;
mod http2;
mod imports;
mod in_place;
mod jobs;
mod keyed;
mod network;
mod objects;
mod odd_files;
mod on_a_gpu;
mod on_a_gpu_client;
mod outgoing;
mod replay;
mod residency;
mod restart;
mod roundtrip;
mod sources;
mod strangers;
mod tokens;
mod upgrade;
mod verbs;
mod walls;
mod web;
mod wrong_results;
