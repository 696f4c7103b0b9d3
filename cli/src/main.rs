//! `nearfield`: the one binary. A node (`up`) and everything a user types at one.
//!
//! `args` says what can be typed, `commands` does it, `client` speaks with a node's admin API,
//! `failure` turns what went wrong into a message and an exit code.

mod archive;
mod args;
mod client;
mod commands;
mod deliver;
mod events;
mod failure;
mod guest;
mod interrupt;
mod listener;
mod output;
mod project;
mod sdk;
mod source;
mod up;
mod visible;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let json = args.global.json;
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, json),
    }
}
