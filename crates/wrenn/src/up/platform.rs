//! The one file that touches the interfaces of agent, server and image.

use super::steps::{Step, Steps};
use crate::doctor::Plan;
use crate::failure::{Failure, Outcome};
use agent::Agent;
use hostlink::{AgentLink, Callback, Endpoint};
use server::{HostCredentials, Server};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

pub use agent::Stop;

/// Where the API listens unless somebody says otherwise.
pub const LISTEN: SocketAddr = server::Options::LISTEN;

/// A running agent and server. They know each other by address only.
pub struct Platform {
    agent: Agent,
    server: Server,
}

/// The agent that runs on this data directory.
pub fn agent_link(dir: &Path) -> AgentLink {
    AgentLink::new(Endpoint::Unix(agent_socket(dir)))
}

fn agent_socket(dir: &Path) -> PathBuf {
    dir.join("run/agent.sock")
}

/// Makes what guests boot from, starts both halves, and returns once the API answers.
pub async fn start(plan: &Plan, steps: &Steps) -> Outcome<Platform> {
    let listen = settled(plan.listen)?;
    let callback = callback(&plan.dir, listen)?;
    let agent = start_agent(&plan.dir, callback, steps).await?;
    let step = steps.begin("server");
    match Server::start(server_options(&plan.dir, listen, database_url(), Some(agent.socket().to_owned()))).await {
        Ok(server) => {
            step.done(server.base_url());
            Ok(Platform { agent, server })
        }
        Err(error) => {
            agent.stop(Stop::Leave).await;
            Err(Failure::plain(error))
        }
    }
}

/// The agent must know the server's address before there is a server: a port left open is chosen here.
fn settled(listen: SocketAddr) -> Outcome<SocketAddr> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    TcpListener::bind(listen)
        .and_then(|listener| listener.local_addr())
        .map_err(|error| Failure::plain(format_args!("cannot listen on {listen}: {error}")))
}

fn callback(dir: &Path, listen: SocketAddr) -> Outcome<Callback> {
    let host = HostCredentials::of(dir).map_err(Failure::plain)?;
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    let base_url = format!("http://{}", SocketAddr::new(ip, listen.port()));
    Callback::new(&base_url, host.id.to_string(), host.token.expose().to_owned()).map_err(Failure::plain)
}

/// Postgres, instead of `SQLite` in the data directory.
fn database_url() -> Option<String> {
    std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty())
}

fn server_options(
    dir: &Path,
    listen: SocketAddr,
    database_url: Option<String>,
    agent_socket: Option<PathBuf>,
) -> server::Options {
    server::Options { listen, dir: dir.to_owned(), database_url, agent_socket, version: env!("CARGO_PKG_VERSION") }
}

async fn start_agent(dir: &Path, callback: Callback, steps: &Steps) -> Outcome<Agent> {
    let parts = Parts { steps: steps.clone(), running: Mutex::default(), after: Arc::default() };
    let after = parts.after.clone();
    let prepared = agent::prepare(agent_options(dir, callback)?, parts).await.map_err(not_started)?;
    if let Some(step) = after.lock().ok().and_then(|mut after| after.take()) {
        step.done(&prepared.isolation());
    }

    let step = steps.begin("agent");
    let agent = Agent::start(prepared).await.map_err(not_started)?;
    let (running, paused) = agent.census();
    step.done(&format!("{running} capsules running, {paused} paused"));

    if !agent.has_template() {
        let step = steps.begin("first boot of the template");
        match agent.make_template().await {
            Ok(()) => step.done("kept for every later capsule"),
            // Whoever has capsules needs the platform to make room.
            Err(error) if running + paused > 0 => step.done(&format!("put off until the next create: {error}")),
            Err(error) => {
                agent.stop(Stop::Leave).await;
                return Err(not_started(error));
            }
        }
    }
    Ok(agent)
}

fn not_started(error: agent::StartError) -> Failure {
    Failure::plain(error).hint("`wrenn doctor` checks this machine; details are in $WRENN_DIR/logs")
}

/// Which VMM the environment asks for.
pub fn vmm_options() -> Outcome<agent::VmmOptions> {
    let choice = std::env::var("WRENN_VMM").ok().map(|text| text.parse()).transpose();
    Ok(agent::VmmOptions {
        choice: choice.map_err(Failure::plain)?.unwrap_or_default(),
        firecracker: std::env::var_os("WRENN_FIRECRACKER").map(PathBuf::from),
    })
}

fn agent_options(dir: &Path, callback: Callback) -> Outcome<agent::Options> {
    let ready_vms = std::env::var("WRENN_READY_VMS").ok().map(|text| text.parse()).transpose();
    Ok(agent::Options {
        dir: dir.to_owned(),
        program: std::env::current_exe()
            .map_err(|error| Failure::plain(format_args!("cannot find this program: {error}")))?,
        envd: guest_daemon()?,
        source: image::Source::from_env(),
        vmm: vmm_options()?,
        ready_vms: ready_vms.map_err(|error| Failure::plain(format_args!("WRENN_READY_VMS: {error}")))?,
        callback: Some(callback),
    })
}

/// The static `envd`: where `cargo xtask` builds it in a checkout, else beside this program. The order matters: beside
/// a program in `target/debug` there may lie an `envd` that was linked for this machine, not for a guest.
fn guest_daemon() -> Outcome<PathBuf> {
    let named = std::env::var_os("WRENN_ENVD").map(PathBuf::from);
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().unwrap_or(Path::new("/"));
    let built = beside.join("../x86_64-unknown-linux-gnu/guest/envd");
    let found = named.into_iter().chain([built, beside.join("envd")]).find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::plain("the guest daemon `envd` is not beside this program")
            .hint("`cargo xtask up` builds it; WRENN_ENVD names another place")
    })
}

impl Platform {
    /// Whether this host was told to be empty.
    pub fn is_draining(&self) -> bool {
        self.agent.is_draining()
    }

    /// Ends both halves. VMs outlive them.
    pub async fn stop(self, how: Stop) {
        self.server.stop().await;
        self.agent.stop(how).await;
    }
}

/// The parts of the image as steps.
struct Parts {
    steps: Steps,
    running: Mutex<HashMap<image::Step, Step>>,
    /// What the agent does once the last part is there: a `/dev/kvm` that does not work takes 10 s to be found out.
    after: Arc<Mutex<Option<Step>>>,
}

impl image::Progress for Parts {
    fn started(&self, part: image::Step) {
        if let Ok(mut running) = self.running.lock() {
            running.insert(part, self.steps.begin(&part.to_string()));
        }
    }

    fn advanced(&self, part: image::Step, fraction: f32, doing: &str) {
        if let Some(step) = self.running.lock().ok().as_ref().and_then(|running| running.get(&part)) {
            step.advance(fraction, doing);
        }
    }

    fn finished(&self, part: image::Step, outcome: image::Outcome) {
        let started = self.running.lock().ok().and_then(|mut running| running.remove(&part));
        started.unwrap_or_else(|| self.steps.begin(&part.to_string())).done(match outcome {
            image::Outcome::Cached => "cached",
            image::Outcome::Built => "built",
        });
        // Made of the other two, so it is the last one.
        if part == image::Step::Initramfs
            && let Ok(mut after) = self.after.lock()
        {
            *after = Some(self.steps.begin("virtual machine monitor"));
        }
    }
}

/// Ends every VM of the directory and removes what the agent left on the host; `purge` also its files.
pub async fn teardown(dir: &Path, purge: bool) -> Outcome {
    agent::teardown(dir, purge).await.map_err(Failure::plain)
}

/// The body of `wrenn keeper`.
pub fn keeper() -> Outcome<ExitCode> {
    keeper::run().map(|()| ExitCode::SUCCESS).map_err(|error| Failure::plain(format_args!("keeper: {error}")))
}

/// The control plane alone, until `ended`. It finds the agent of this data directory, if one runs.
pub async fn server(
    dir: &Path,
    listen: SocketAddr,
    database_url: Option<String>,
    ended: impl Future<Output = ()>,
) -> Outcome {
    let options = server_options(dir, listen, database_url, Some(agent_socket(dir)));
    server::run(options, ended).await.map_err(Failure::plain)
}

/// The agent alone, until `ended`. Capsules go on.
pub async fn agent(dir: &Path, server: SocketAddr, ended: impl Future<Output = ()>) -> Outcome {
    let agent = start_agent(dir, callback(dir, server)?, &Steps::new(false)).await?;
    ended.await;
    agent.stop(Stop::Leave).await;
    Ok(())
}

/// Logs to the directory's `logs`; a command that talks to a person keeps all but warnings from the terminal.
pub fn start_logs(dir: &Path, name: &str, quiet: bool) -> Outcome {
    let file = Some(dir.join("logs").join(name));
    let options = telemetry::Options { level: std::env::var("LOG_LEVEL").ok(), file, quiet };
    telemetry::init(&options).map_err(Failure::plain)?.reopen_on_hangup();
    Ok(())
}
