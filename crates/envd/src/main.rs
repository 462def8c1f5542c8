//! `envd`: the guest daemon, or its supervisor, or, as PID 1, the guest's init.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use envd::daemon::Options;
use envd::supervise::Supervision;
use rustix::process::Resource;
use sys::spawn::{Spawn, Stream};

/// Guest daemon: processes and files over HTTP.
#[derive(Debug, Parser)]
#[command(version = envd::http::VERSION)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value_t = Ipv4Addr::UNSPECIFIED.into())]
    address: IpAddr,
    /// Port to listen on; 0 for any.
    #[arg(long, default_value_t = 49983)]
    port: u16,
    /// Where the daemon keeps its own files.
    #[arg(long, default_value = "/run/wrenn")]
    run_dir: PathBuf,
    /// Mount point of cgroup v2; processes run without groups otherwise.
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Address on which servers that listen on the loopback interface only are offered to the host.
    #[arg(long)]
    forward_address: Option<IpAddr>,
    /// This machine is the daemon's: it may set its clock, its names and its randomness.
    #[arg(long)]
    owns_machine: bool,
    /// Stay beside the daemon, start it again when it dies, and keep its processes' pipes and terminals meanwhile.
    #[arg(long, conflicts_with = "supervised")]
    supervise: bool,
    /// Standard input is the socket to the supervisor.
    #[arg(long, hide = true)]
    supervised: bool,
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        envd::init::run();
    }
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(io::stderr).with_ansi(false).init();
    let arguments = Arguments::parse();
    let done = if arguments.supervise { supervise() } else { serve(arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("envd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> io::Result<()> {
    let supervisor = arguments.supervised.then(|| io::stdin().as_fd().try_clone_to_owned()).transpose()?;
    let options = Options {
        program: std::env::current_exe()?,
        run_dir: arguments.run_dir,
        cgroup_root: arguments.cgroup_root,
        forward_address: arguments.forward_address,
        owns_machine: arguments.owns_machine,
        descriptors: envd::descriptors::raise_limit(),
    };
    envd::serve::run(SocketAddr::new(arguments.address, arguments.port), options, supervisor)
}

/// As init does for a guest, beside other processes.
fn supervise() -> io::Result<()> {
    let program = std::env::current_exe()?;
    let (soft, hard) = envd::descriptors::raise_limit();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--supervise").collect();
    let mut say = |what: &dyn std::fmt::Display| eprintln!("envd: {what}");
    let mut supervision = Supervision::new(&program, &mut say)?;
    supervision.run(|program| {
        Spawn::new(program).args(&arguments).inherit_env().stdout(Stream::Inherit).stderr(Stream::Inherit).limit(
            Resource::Nofile as u32,
            soft,
            hard,
        )
    });
    Ok(())
}
