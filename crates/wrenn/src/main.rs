//! The program `wrenn`: command line, progress, tables, `up`.
//!
//! Knows: what users type, what they are told, and which exit code says what ([`exit::Exit`]).
//! Must never know: how anything is done. User commands go through `client` like every other client;
//! `up/platform.rs` is the only file that starts the agent and the server, `doctor/host.rs` the one that asks what the host
//! offers an agent.

mod capsule;
mod cli;
#[cfg(test)]
mod docs;
mod doctor;
mod down;
mod drain;
mod exit;
mod failure;
mod instance;
mod output;
mod template;
mod up;
mod why;

use clap::Parser;
use cli::{Cli, Command};
use failure::{Failure, Outcome};
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Every VM waits for its keeper's start, and the command line takes a millisecond to be described.
    let (json, outcome) = if std::env::args_os().skip(1).eq(["keeper"]) {
        (false, up::platform::keeper())
    } else {
        let cli = Cli::parse();
        (cli.global.json, run(cli))
    };
    outcome.unwrap_or_else(|failure| {
        failure.report(json);
        failure.exit.into()
    })
}

fn run(cli: Cli) -> Outcome<ExitCode> {
    // The keeper lives as long as its VM: no threads, no runtime.
    if let Command::Keeper = cli.command {
        return up::platform::keeper();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::plain(format_args!("cannot start: {error}")))?;
    let outcome = runtime.block_on(dispatch(cli));
    // Blocking work that was interrupted (a download, a bootstrap) shall not hold the program back.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(cli: Cli) -> Outcome<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => up::run(global, &args).await?,
        Command::Down(args) => down::run(global, &args).await?,
        Command::Drain(args) => drain::run(global, &args).await?,
        Command::Doctor(args) => {
            let dir = global.data_dir();
            let running = instance::is_running(&dir);
            let vmm = up::platform::vmm_options()?;
            let plan = doctor::Plan { dir, listen: args.listen.listen, running, vmm, thorough: true };
            doctor::run(&plan, args.fix, Output { json: global.json }).await?;
        }
        Command::Capsule(command) => return capsule::run(global, command).await,
        Command::Template(command) => template::run(global, command).await?,
        Command::Why { id } => why::run(global, id).await?,
        Command::Server(args) => up::server_alone(&global.data_dir(), args).await?,
        Command::Agent(args) => up::agent_alone(&global.data_dir(), &args).await?,
        Command::Keeper => {}
    }
    Ok(ExitCode::SUCCESS)
}
