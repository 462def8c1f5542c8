//! `wrenn capsule …`: one function per command, each a few calls of the client.

mod copy;
mod exec;
mod metrics;
mod show;

use crate::cli::{CapsuleCommand, CreateArgs, ForkArgs, Global, NetworkArgs, PauseArgs, ResumeArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use client::{Client, Credentials};
use model::rest::{Capsule, CreateCapsule, ForkCapsule, Forked, Network};
use model::{CapsuleId, CapsuleStatus};
use std::process::ExitCode;
use std::time::Duration;

pub use show::age;

/// How long a command waits for what it asked for. A first start without KVM can take a minute.
pub const SETTLE: Duration = Duration::from_mins(3);

/// A client for the credentials this command line leads to.
pub fn connect(global: &Global) -> Outcome<Client> {
    Ok(Client::new(Credentials::find(&global.data_dir())?)?)
}

/// Runs the command.
pub async fn run(global: &Global, command: CapsuleCommand) -> Outcome<ExitCode> {
    let out = Output { json: global.json };
    let client = connect(global)?;
    match command {
        CapsuleCommand::Create(args) => create(&client, args, out).await?,
        CapsuleCommand::List => show::list(&client, out).await?,
        CapsuleCommand::Get(arg) => out.result(&client.get(arg.id).await?, show::capsule)?,
        CapsuleCommand::Network(args) => network(&client, args, out).await?,
        CapsuleCommand::Metrics(args) => metrics::show(&client, &args, out).await?,
        CapsuleCommand::Exec(args) => return exec::run(&client, args, out).await,
        CapsuleCommand::Cp(args) => copy::run(&client, &args, out).await?,
        CapsuleCommand::Pause(args) => pause(&client, &args, out).await?,
        CapsuleCommand::Resume(args) => resume(&client, &args, out).await?,
        CapsuleCommand::Fork(args) => fork(&client, &args, out).await?,
        CapsuleCommand::Rm { ids } => remove(&client, &ids, out).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, args: CreateArgs, out: Output) -> Outcome {
    let wait = !args.no_wait;
    let request = CreateCapsule {
        template: args.template,
        vcpus: args.vcpus,
        memory_mb: args.memory_mb,
        disk_size_mb: args.disk_size_mb,
        timeout_sec: args.timeout_sec,
        metadata: args.metadata.into_iter().collect(),
        envs: args.env.into_iter().collect(),
        network: args.egress.network(),
    };
    let mut capsule = client.create(&request).await?;
    if wait {
        capsule = reached(client, capsule.id, CapsuleStatus::Running).await?;
    }
    Ok(out.result(&capsule, |capsule| capsule.id.to_string())?)
}

/// Shows what it may reach, after a change if one is asked for.
async fn network(client: &Client, args: NetworkArgs, out: Output) -> Outcome {
    let id = args.capsule.id;
    let wanted = if args.reset { Some(Network::default()) } else { args.egress.network() };
    let capsule = match wanted {
        Some(network) => client.set_network(id, &network).await?,
        None => client.get(id).await?,
    };
    Ok(out.result(&capsule.network, show::network)?)
}

async fn pause(client: &Client, args: &PauseArgs, out: Output) -> Outcome {
    client.pause(args.capsule.id, args.discard_memory).await?;
    let capsule = reached(client, args.capsule.id, CapsuleStatus::Paused).await?;
    Ok(out.result(&capsule, |capsule| format!("{} {}", capsule.id, capsule.status))?)
}

async fn resume(client: &Client, args: &ResumeArgs, out: Output) -> Outcome {
    client.resume(args.capsule.id, args.discard_memory).await?;
    let capsule = reached(client, args.capsule.id, CapsuleStatus::Running).await?;
    Ok(out.result(&capsule, |capsule| format!("{} {}", capsule.id, capsule.status))?)
}

/// Prints the clones there are, also when others could not be made.
async fn fork(client: &Client, args: &ForkArgs, out: Output) -> Outcome {
    let clones = client.fork(args.capsule.id, &ForkCapsule { count: Some(args.count.into()) }).await?;
    let mut capsules = Vec::with_capacity(clones.len());
    let mut failed = Vec::new();
    for clone in clones {
        match clone {
            Forked::Capsule(capsule) => capsules.push(*capsule),
            Forked::Error { message, .. } => failed.push(message),
        }
    }
    if !capsules.is_empty() {
        out.result(&show::List { capsules }, show::ids)?;
    }
    match failed.first() {
        None => Ok(()),
        Some(why) => {
            let message = format!("{} of {} clones could not be made: {why}", failed.len(), args.count);
            Err(Failure::new(Exit::Failure, message))
        }
    }
}

async fn remove(client: &Client, ids: &[CapsuleId], out: Output) -> Outcome {
    for id in ids {
        client.destroy(*id).await?;
    }
    let mut capsules = Vec::with_capacity(ids.len());
    for id in ids {
        capsules.push(reached(client, *id, CapsuleStatus::Stopped).await?);
    }
    Ok(out.result(&show::List { capsules }, show::ids)?)
}

/// The capsule once it settled in `wanted`; a failure that says why when it settled elsewhere.
pub async fn reached(client: &Client, id: CapsuleId, wanted: CapsuleStatus) -> Outcome<Capsule> {
    let capsule = client.settled(id, SETTLE).await?;
    if capsule.status == wanted {
        return Ok(capsule);
    }
    if capsule.status.is_transient() {
        let message = format!("capsule {id} is still {} after {} s", capsule.status, SETTLE.as_secs());
        return Err(Failure::new(Exit::Unreachable, message)
            .hint(format_args!("`wrenn capsule get {id}` shows how it goes on")));
    }
    let why = capsule.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let message = format!("capsule {id} is {}{why}, not {wanted}", capsule.status);
    Err(Failure::new(Exit::Failure, message).hint(format_args!("`wrenn why {id}` explains it")))
}
