//! `cargo xtask soak`: the checks that take long, as one table. Each part says what it did and what came out; the
//! first that fails ends the run.

mod bytes;
mod corruption;
mod crash;
mod differential;
mod fsync;
mod gpu;
mod hostile;
mod in_place;
pub mod inputs;
mod jobs;
mod keyed;
mod memory;
mod network;
mod odd;
mod overload;
mod partition;
mod simulation;
mod sources;
mod startup;
mod wires;
mod writers;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::guests;
use crate::report::{Table, time};
use crate::workspace::{self, Profile, step};

pub struct Options {
    quick: bool,
    profile: Profile,
    /// Empty: all.
    parts: Vec<Part>,
    only: Option<String>,
}

impl Options {
    pub fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options {
            quick: false,
            profile: Profile::Release,
            parts: Vec::new(),
            only: None,
        };
        for argument in arguments {
            match *argument {
                "--quick" => options.quick = true,
                "--debug" => options.profile = Profile::Debug,
                only if only.starts_with("--only=") => {
                    options.only = only.strip_prefix("--only=").map(str::to_owned);
                }
                name => {
                    let name = name.strip_prefix("--").unwrap_or(name);
                    let part = PARTS.iter().find(|part| part.0 == name);
                    options.parts.push(*part.with_context(|| {
                        let known: Vec<_> = PARTS.iter().map(|part| part.0).collect();
                        format!(
                            "soak knows --quick, --debug, --only=TEXT and {}; not {name}",
                            known.join(", ")
                        )
                    })?);
                }
            }
        }
        if options.parts.is_empty() {
            options.parts = PARTS.to_vec();
        }
        Ok(options)
    }
}

/// What every part is given.
pub struct Setting {
    /// Fewer rounds and smaller inputs, for CI.
    pub quick: bool,
    /// Of `hostile`: the attacks whose names hold this.
    pub only: Option<String>,
    pub nearfield: PathBuf,
    /// Which build of ours runs.
    pub profile: Profile,
    /// The folder of the functions' components.
    pub components: PathBuf,
}

/// A line of the table: what was done, what came out.
pub type Finding = (String, String);

type Part = (&'static str, fn(&Setting) -> Result<Vec<Finding>>);

const PARTS: &[Part] = &[
    ("crash", crash::run),
    ("memory", memory::run),
    ("bytes", bytes::run),
    ("fsync", fsync::run),
    ("startup", startup::run),
    ("jobs", jobs::run),
    ("differential", differential::run),
    ("odd", odd::run),
    ("keyed", keyed::run),
    ("in-place", in_place::run),
    ("writers", writers::run),
    ("sources", sources::run),
    ("network", network::run),
    ("partition", partition::run),
    ("corruption", corruption::run),
    ("simulation", simulation::run),
    ("gpu", gpu::run),
    ("hostile", hostile::run),
    ("overload", overload::run),
];

pub fn run(options: &Options) -> Result<()> {
    let setting = Setting {
        quick: options.quick,
        only: options.only.clone(),
        profile: options.profile,
        components: guests::build()?,
        nearfield: match options.profile {
            // After the tests, as CI does, it is there already.
            Profile::Debug => workspace::nearfield_with_tests()?,
            Profile::Release => workspace::nearfield(Profile::Release)?,
        },
    };
    let mut table = Table::new(["part", "what", "result", "time"]);
    for (name, part) in &options.parts {
        step(&format!("soak: {name}"));
        let start = Instant::now();
        match part(&setting) {
            Ok(findings) => {
                for (number, (what, result)) in findings.into_iter().enumerate() {
                    let (name, took) = match number {
                        0 => ((*name).to_owned(), time(start.elapsed())),
                        _ => (String::new(), String::new()),
                    };
                    table.row([name, what, result, took]);
                }
            }
            Err(error) => {
                println!("\n{table}");
                bail!(error.context(format!("soak: {name} failed")));
            }
        }
    }
    println!("\n{table}");
    Ok(())
}
