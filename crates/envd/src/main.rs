//! `envd`: the guest daemon, or its supervisor, or, as PID 1, the guest's init.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use envd::daemon::Options;
use envd::supervise::Supervision;
use lexopt::prelude::{Long, ValueExt as _};
use rustix::process::Resource;
use sys::spawn::{Spawn, Stream};

const USAGE: &str = "\
Guest daemon: processes and files over HTTP.

usage: envd [OPTIONS]

  --address IP           address to listen on [0.0.0.0]
  --port PORT            port to listen on; 0 for any [49983]
  --run-dir DIR          where the daemon keeps its own files [/run/wrenn]
  --cgroup-root DIR      mount point of cgroup v2; processes run without groups otherwise
  --forward-address IP   where servers that listen on the loopback interface only are offered to the host
  --owns-machine         this machine is the daemon's: it may set its clock, its names and its randomness
  --supervise            stay beside the daemon, start it again when it dies, keep its processes' pipes and terminals
  --version, --help";

/// What the command line says.
#[derive(Debug)]
enum Task {
    Serve(Arguments),
    /// A daemon with all these arguments but the one that said so.
    Supervise,
    /// Print this and end.
    Say(String),
}

#[derive(Debug)]
struct Arguments {
    address: SocketAddr,
    run_dir: PathBuf,
    cgroup_root: Option<PathBuf>,
    forward_address: Option<IpAddr>,
    owns_machine: bool,
    /// Standard input is the socket to the supervisor.
    supervised: bool,
}

impl Task {
    fn parse() -> Result<Self, lexopt::Error> {
        let mut arguments = Arguments {
            address: (Ipv4Addr::UNSPECIFIED, 49983).into(),
            run_dir: "/run/wrenn".into(),
            cgroup_root: None,
            forward_address: None,
            owns_machine: false,
            supervised: false,
        };
        let mut supervise = false;
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("address") => arguments.address.set_ip(parser.value()?.parse()?),
                Long("port") => arguments.address.set_port(parser.value()?.parse()?),
                Long("run-dir") => arguments.run_dir = parser.value()?.into(),
                Long("cgroup-root") => arguments.cgroup_root = Some(parser.value()?.into()),
                Long("forward-address") => arguments.forward_address = Some(parser.value()?.parse()?),
                Long("owns-machine") => arguments.owns_machine = true,
                Long("supervise") => supervise = true,
                Long("supervised") => arguments.supervised = true,
                Long("version") => return Ok(Self::Say(format!("envd {}", envd::http::VERSION))),
                Long("help") => return Ok(Self::Say(USAGE.to_owned())),
                unknown => return Err(unknown.unexpected()),
            }
        }
        Ok(if supervise { Self::Supervise } else { Self::Serve(arguments) })
    }
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        envd::init::run();
    }
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(io::stderr).with_ansi(false).init();
    let done = match Task::parse() {
        Ok(Task::Serve(arguments)) => serve(arguments),
        Ok(Task::Supervise) => supervise(),
        Ok(Task::Say(text)) => writeln!(io::stdout(), "{text}"),
        Err(error) => {
            eprintln!("envd: {error}; `envd --help` lists the options");
            return ExitCode::from(2);
        }
    };
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
    envd::serve::run(arguments.address, options, supervisor)
}

/// As init does for a guest, beside other processes.
fn supervise() -> io::Result<()> {
    let program = std::env::current_exe()?;
    let (soft, hard) = envd::descriptors::raise_limit();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--supervise").collect();
    let mut say = |what: &dyn std::fmt::Display| eprintln!("envd: {what}");
    let mut supervision = Supervision::new(&program, true, &mut say)?;
    supervision.run(|program| {
        Spawn::new(program).args(&arguments).inherit_env().stdout(Stream::Inherit).stderr(Stream::Inherit).limit(
            Resource::Nofile as u32,
            soft,
            hard,
        )
    });
    Ok(())
}
