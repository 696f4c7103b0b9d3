//! `cargo xtask`: sets up what is missing, then does the thing. It drives the `nearfield` binary as a user would.

mod bench;
mod demo;
mod gpu;
mod guests;
mod readme;
mod report;
mod soak;
mod sources;
mod test;
mod text;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask demo [--keep] [--release]      the whole path on real data, with a report
       cargo xtask demo --hosts 3 [--release]     the same over a network, and a host is killed
       cargo xtask test                           builds the functions and tests everything
       cargo xtask readme                         runs the README's commands in their order
       cargo xtask bench http [--seconds 5] [--json]    calls, side by side with bare and other servers
       cargo xtask bench data [--json]            what put and get reach
       cargo xtask bench jobs [--json]            word count over text that is made, beside others
       cargo xtask bench foreign [--json]         components of other languages' toolchains, beside wasmtime serve
       cargo xtask bench gpu [--json]             the way to the GPU, beside plain wgpu
       cargo xtask soak [--quick] [--debug] [--only=ATTACK] [PART…]
                                                  the long checks: crash memory bytes fsync startup jobs
                                                  differential keyed sources in-place writers network
                                                  partition corruption simulation gpu hostile overload

What was built before is taken from NEARFIELD_BIN, NEARFIELD_FUNCTIONS, NEARFIELD_FOREIGN, NEARFIELD_BARE_SERVER and
NEARFIELD_BARE_GPU, where those are set.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match nearfield_testkit::cleanup::on_interrupt().and_then(|()| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["demo", rest @ ..] => demo::run(&demo::Options::parse(rest)?),
        ["test"] => test::run(),
        ["readme"] => readme::run(),
        ["bench", "http", rest @ ..] => bench::http::run(&bench::http::Options::parse(rest)?),
        ["bench", "data", rest @ ..] => bench::data::run(bench::data::parse(rest)?),
        ["bench", "foreign", rest @ ..] => bench::foreign::run(bench::foreign::parse(rest)?),
        ["bench", "gpu"] => bench::gpu::run(false),
        ["bench", "gpu", "--json"] => bench::gpu::run(true),
        ["bench", "jobs"] => bench::jobs::run(false),
        ["bench", "jobs", "--json"] => bench::jobs::run(true),
        ["soak", rest @ ..] => soak::run(&soak::Options::parse(rest)?),
        _ => bail!(USAGE),
    }
}
