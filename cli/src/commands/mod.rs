//! What each verb does; a file a verb or a family of them.

mod build;
mod call;
mod deploy;
mod describe;
mod dev;
mod doctor;
mod du;
mod explain;
mod get;
mod jobs;
mod logs;
mod ls;
mod manage;
mod new;
mod nodes;
mod put;
mod replay;
mod status;
mod token;

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Args, Verb};
use crate::client::Client;
use crate::output::Output;
use crate::{interrupt, up};

/// What verbs work with.
pub struct Session {
    pub client: Client,
    pub out: Output,
}

pub fn run(args: Args) -> Result<()> {
    let Args { global, verb } = args;
    let data_dir = global.data_dir();
    let verb = match verb {
        Verb::Up(args) => return up::run(crate::args::UpArgs { data_dir, ..args }, global.json),
        Verb::Join(args) => {
            let up = crate::args::UpArgs {
                data_dir,
                ..args.up.clone()
            };
            return up::join(args, up, global.json);
        }
        Verb::CompileComponent { target } => std::process::exit(nearfield_host::compiler_main(&target)),
        Verb::Completions { shell } => {
            let mut command = Args::command();
            // Into memory first: the generator panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "nearfield", &mut script);
            std::io::Write::write_all(&mut crate::output::stdout(), &script)?;
            return Ok(());
        }
        Verb::GpuWorker => std::process::exit(nearfield_gpu::worker_main()),
        verb => verb,
    };
    interrupt::watch()?;
    let session = Session {
        client: Client::new(&global.url(), global.token(), &data_dir)?,
        out: Output { json: global.json },
    };
    match verb {
        Verb::Up(_)
        | Verb::Join(_)
        | Verb::Completions { .. }
        | Verb::CompileComponent { .. }
        | Verb::GpuWorker => {
            unreachable!("ran above")
        }
        Verb::Invite(args) => nodes::invite(&session, args),
        Verb::Leave => nodes::leave(&session),
        Verb::Drain(args) => nodes::drain(&session, args),
        Verb::Put(args) => put::run(&session, args),
        Verb::Get(args) => get::run(&session, args),
        Verb::New(args) => new::run(&session, args),
        Verb::Build(args) => build::run(&session, args),
        Verb::Test(args) => build::test(args),
        Verb::Dev(args) => dev::run(&session, args),
        Verb::Deploy(args) => deploy::run(&session, args),
        Verb::Call(args) => call::run(&session, args),
        Verb::Run(args) => jobs::run(&session, args),
        Verb::Jobs => jobs::list(&session),
        Verb::Wait(args) => jobs::wait(&session, args.job),
        Verb::Cancel(args) => jobs::cancel(&session, args.job),
        Verb::Replay(args) => replay::run(&session, args),
        Verb::Ls(args) => ls::run(&session, args.what),
        Verb::Describe(args) => describe::run(&session, args),
        Verb::Logs(args) => logs::run(&session, args),
        Verb::Rollback(args) => manage::rollback(&session, args),
        Verb::Rm(args) => manage::rm(&session, args),
        Verb::Pin(args) => manage::pin(&session, args),
        Verb::Prune(args) => manage::prune(&session, args),
        Verb::Du => du::run(&session),
        Verb::Token(args) => token::run(&session, args.verb),
        Verb::Explain(args) => explain::run(&session, &args.id),
        Verb::Status => status::run(&session),
        Verb::Doctor => doctor::run(&session, &data_dir),
    }
}
