//! `envd`: the guest daemon, or, as PID 1, the guest's init.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use envd::daemon::Options;

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
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        envd::init::run();
    }
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).with_ansi(false).init();
    let arguments = Arguments::parse();
    let options = Options {
        run_dir: arguments.run_dir,
        cgroup_root: arguments.cgroup_root,
        forward_address: arguments.forward_address,
        owns_machine: arguments.owns_machine,
    };
    match envd::serve::run(SocketAddr::new(arguments.address, arguments.port), options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("envd: {error}");
            ExitCode::FAILURE
        }
    }
}
