//! Debian and Ubuntu packages: which are missing, and their installation.

use std::env;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::{Outcome, process, workspace};

/// A package, how to see that it is there, and what for.
#[derive(Debug)]
pub struct Need {
    pub package: &'static str,
    pub present: Present,
    pub why: &'static str,
}

/// Evidence that a package, or the same thing from elsewhere, is installed.
#[derive(Debug)]
pub enum Present {
    Program(&'static str),
    File(&'static str),
    /// A program in any version's directory below this one: `<dir>/*/bin/<program>`.
    Versioned(&'static str, &'static str),
    /// A module Python can import.
    PythonModule(&'static str),
}

/// To run capsules: the program's own list, three columns.
pub static RUN: LazyLock<Vec<Need>> =
    LazyLock::new(|| include_str!("../../wrenn/packages.txt").lines().filter_map(need).collect());

fn need(line: &'static str) -> Option<Need> {
    let mut columns = line.split("  ").map(str::trim).filter(|column| !column.is_empty());
    let (program, package, why) = (columns.next()?, columns.next()?, columns.next()?);
    let present = if program.starts_with('/') { Present::File(program) } else { Present::Program(program) };
    Some(Need { package, present, why })
}

/// To test, beyond [`RUN`].
pub const TEST: &[Need] = &[
    Need {
        package: "postgresql",
        present: Present::Versioned("/usr/lib/postgresql", "initdb"),
        why: "second database under test",
    },
    Need {
        package: "busybox-static",
        present: Present::Program("busybox"),
        why: "root file system without Debian's libraries",
    },
    Need { package: "python3-venv", present: Present::PythonModule("ensurepip"), why: "Python SDKs" },
    Need { package: "nodejs", present: Present::Program("node"), why: "JavaScript SDK" },
    Need { package: "npm", present: Present::Program("npm"), why: "JavaScript SDK" },
];

/// To measure the guest daemon, beyond [`RUN`].
pub const BENCH: &[Need] =
    &[Need { package: "nginx", present: Present::Program("nginx"), why: "what file transfers are measured against" }];

/// Whether the user is asked before packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    Ask,
    Given,
}

impl Present {
    fn holds(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name),
            Self::File(path) => Path::new(path).exists(),
            Self::Versioned(dir, program) => Path::new(dir).read_dir().is_ok_and(|mut entries| {
                entries.any(|entry| entry.is_ok_and(|e| e.path().join("bin").join(program).exists()))
            }),
            Self::PythonModule(name) => {
                process::run_quietly(Command::new("python3").args(["-c", &format!("import {name}")])).is_ok()
            }
        }
    }
}

/// The needs that are not met.
pub fn missing(needs: &'static [Need]) -> Vec<&'static Need> {
    needs.iter().filter(|need| !need.present.holds()).collect()
}

/// Installs what is missing, after saying what and why.
pub fn install(missing: &[&Need], consent: Consent) -> Outcome {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if !find_program("apt-get") {
        return Err(format!("not a Debian or Ubuntu host: install the equivalent of `{by_hand}` and try again"));
    }
    eprintln!("Missing packages:");
    for need in missing {
        eprintln!("  {:<24} {}", need.package, need.why);
    }
    if consent == Consent::Ask && !confirmed("Install them now? [Y/n] ")? {
        return Err(format!("nothing was installed; by hand: {by_hand}"));
    }
    process::step("install packages", || {
        // A stale index is the commonest reason for 404s, so it is refreshed first; a failing third-party source
        // must not stop us from trying.
        if let Err(failure) = process::run_quietly(&mut apt_get(&["update", "-qq"])) {
            eprintln!("{failure}");
        }
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(&names);
        process::run_quietly(&mut apt_get(&arguments))
    })
}

/// `apt-get` without questions, through sudo unless run by root.
fn apt_get(arguments: &[&str]) -> Command {
    let mut command = privileged("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    command
}

/// A program run as root: directly, or through sudo.
pub fn privileged(program: &str) -> Command {
    if workspace::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

fn confirmed(question: &str) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err("there is no terminal to ask at: add --yes".to_owned());
    }
    eprint!("{question}");
    let mut answer = String::new();
    let read = io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
    read.map_err(|error| format!("cannot ask: {error}"))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes"))
}

/// Looks also where an ordinary user's PATH does not lead.
fn find_program(name: &str) -> bool {
    let path = env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    dirs.map(Path::new).any(|dir| dir.join(name).is_file())
}
