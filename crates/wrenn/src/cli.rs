//! The command line. Its texts are part of the product: docs/cli.md holds each of them.

use crate::up::platform::LISTEN;
use clap::{Args, Parser, Subcommand};
use model::CapsuleId;
use model::egress::Block;
use model::metrics::Range;
use model::rest::Network;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Isolated Linux microVMs on your own machines.
#[derive(Debug, Parser)]
#[command(name = "wrenn", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Print JSON instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    #[expect(clippy::doc_markdown, reason = "shown as it is by --help")]
    /// Data directory; else $WRENN_DIR, else .wrenn in a checkout or /var/lib/wrenn
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub dir: Option<PathBuf>,
}

impl Global {
    /// The data directory to use.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(client::data_dir)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole platform on this machine and run a first capsule
    Up(UpArgs),
    /// End everything `up` started
    Down(DownArgs),
    /// Empty this host for maintenance: pause what runs, start nothing
    Drain(DrainArgs),
    /// Check what this machine can do, and say what to change
    Doctor(DoctorArgs),
    /// Create and use capsules
    #[command(subcommand)]
    Capsule(CapsuleCommand),
    /// Keep capsules as templates, to make others of
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Explain why a capsule stopped
    Why {
        /// Capsule
        #[arg(value_name = "ID", value_parser = capsule_id)]
        id: CapsuleId,
    },
    /// Run the control plane alone
    Server(ServerArgs),
    /// Run the host agent alone
    Agent(AgentArgs),
    /// Parent of one VM; started by the agent
    #[command(hide = true)]
    Keeper,
}

/// Where the API is offered.
#[derive(Debug, Args)]
pub struct ListenArg {
    /// Address of the API
    #[arg(long, value_name = "ADDR", default_value_t = LISTEN)]
    pub listen: SocketAddr,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub listen: ListenArg,
    /// Install missing packages without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Stop after the first capsule has run
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// Also delete the data directory: capsules, keys, downloads
    #[arg(long)]
    pub purge: bool,
    /// Do not ask before deleting
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Take capsules again
    #[arg(long)]
    pub end: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub listen: ListenArg,
    /// First do what is safe: load modules, set kernel settings, close the data directory to others, open other firewalls
    #[arg(long)]
    pub fix: bool,
}

#[derive(Debug, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub listen: ListenArg,
    #[expect(clippy::doc_markdown, reason = "shown as it is by --help")]
    /// Database; SQLite in the data directory when absent
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Address of the server's API, for events
    #[arg(long, value_name = "ADDR", default_value_t = LISTEN)]
    pub server: SocketAddr,
}

#[derive(Debug, Subcommand)]
pub enum CapsuleCommand {
    /// Create a capsule and print its id
    Create(CreateArgs),
    /// List capsules
    #[command(visible_alias = "ls")]
    List,
    /// Show one capsule
    Get(IdArg),
    /// Show or replace what a capsule may reach; connections it may not have any longer are cut
    Network(NetworkArgs),
    /// Show what a capsule used
    Metrics(MetricsArgs),
    /// Run a command and pass on its output and exit code
    Exec(ExecArgs),
    /// Copy a file into or out of a capsule
    Cp(CpArgs),
    /// Save a capsule with its memory and free its resources
    Pause(PauseArgs),
    /// Continue a paused capsule where it was
    Resume(ResumeArgs),
    /// Make clones of a running capsule with its memory and processes, and print their ids
    Fork(ForkArgs),
    /// Destroy capsules
    Rm {
        /// Capsules
        #[arg(value_name = "ID", required = true, value_parser = capsule_id)]
        ids: Vec<CapsuleId>,
    },
}

#[derive(Debug, Args)]
pub struct IdArg {
    /// Capsule
    #[arg(value_name = "ID", value_parser = capsule_id)]
    pub id: CapsuleId,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Template to start from
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N")]
    pub vcpus: Option<i64>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    pub memory_mb: Option<i64>,
    /// Root disk in MiB, at least the template's
    #[arg(long, value_name = "MIB")]
    pub disk_size_mb: Option<i64>,
    /// Pause after this many seconds without activity; 0 = never
    #[arg(long, value_name = "SECONDS")]
    pub timeout_sec: Option<i64>,
    /// Label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub metadata: Vec<(String, String)>,
    /// Environment of every command; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    #[command(flatten)]
    pub egress: EgressArgs,
    /// Do not wait until it runs
    #[arg(long)]
    pub no_wait: bool,
}

/// What a capsule may reach.
#[derive(Debug, Args)]
pub struct EgressArgs {
    /// Reach nothing but what --allow-out names
    #[arg(long)]
    pub no_internet: bool,
    /// IPv4 address or block to reach whatever --deny-out says; may be given several times
    #[arg(long, value_name = "BLOCK", value_parser = block)]
    pub allow_out: Vec<String>,
    /// IPv4 address or block not to reach; may be given several times
    #[arg(long, value_name = "BLOCK", value_parser = block)]
    pub deny_out: Vec<String>,
}

impl EgressArgs {
    /// As the API takes it; none when nothing was said.
    pub fn network(self) -> Option<Network> {
        let network = Network {
            allow_internet: self.no_internet.then_some(false),
            allow_out: self.allow_out,
            deny_out: self.deny_out,
        };
        (network != Network::default()).then_some(network)
    }
}

#[derive(Debug, Args)]
pub struct NetworkArgs {
    #[command(flatten)]
    pub capsule: IdArg,
    #[command(flatten)]
    pub egress: EgressArgs,
    /// Back to the Internet and nothing else
    #[arg(long, conflicts_with_all = ["no_internet", "allow_out", "deny_out"])]
    pub reset: bool,
}

#[derive(Debug, Args)]
pub struct MetricsArgs {
    #[command(flatten)]
    pub capsule: IdArg,
    /// How far back: 5m, 10m, 1h, 2h, 6h, 12h or 24h
    #[arg(long, value_name = "RANGE", default_value_t = Range::default())]
    pub range: Range,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// User to run as; else the template's default user
    #[arg(long, short, value_name = "NAME")]
    pub user: Option<String>,
    /// Working directory
    #[arg(long, short = 'w', value_name = "PATH")]
    pub cwd: Option<String>,
    /// Environment variable; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// End the command after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = model::limits::EXEC_TIMEOUT_S_MAX,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(model::limits::EXEC_TIMEOUT_S_MAX)))]
    pub timeout: u32,
    /// Start it and print its process id
    #[arg(long, conflicts_with = "timeout")]
    pub background: bool,
    /// Name to find a background command by
    #[arg(long, value_name = "NAME", requires = "background")]
    pub tag: Option<String>,
    /// Capsule
    #[arg(value_name = "ID", value_parser = capsule_id)]
    pub id: CapsuleId,
    /// Command and its arguments, not passed through a shell
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CpArgs {
    /// File, `-` for stdin, or CAPSULE:PATH
    pub from: String,
    /// File, directory, `-` for stdout, or CAPSULE:PATH
    pub to: String,
}

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Keep a running or paused capsule as a template; it stays what it is
    Create(SaveArgs),
    /// List templates
    #[command(visible_alias = "ls")]
    List,
    /// Delete templates; capsules made of them stay
    Rm {
        /// Templates
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Capsule to make it of
    #[arg(long, value_name = "ID", value_parser = capsule_id)]
    pub from: CapsuleId,
    /// Without memory and processes; its capsules boot
    #[arg(long)]
    pub disk_only: bool,
    /// Replace a template of this name
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    pub capsule: IdArg,
    /// Save its disk only; it boots when it is resumed
    #[arg(long)]
    pub discard_memory: bool,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    pub capsule: IdArg,
    /// Boot from its disk and forget its memory
    #[arg(long)]
    pub discard_memory: bool,
}

#[derive(Debug, Args)]
pub struct ForkArgs {
    #[command(flatten)]
    pub capsule: IdArg,
    /// How many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(model::limits::FORK_COUNT_MAX)))]
    pub count: u32,
}

/// Reads an id as the API and as host names spell it.
pub fn capsule_id(text: &str) -> Result<CapsuleId, String> {
    CapsuleId::parse_lenient(text).map_err(|error| error.to_string())
}

/// Only checked here: the API takes texts.
fn block(text: &str) -> Result<String, String> {
    text.parse::<Block>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
