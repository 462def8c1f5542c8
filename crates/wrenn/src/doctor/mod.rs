//! `wrenn doctor`: what this machine can do, and the command that changes what it cannot.

mod machine;
mod network;
mod storage;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use sys::spawn::{Exit as ProcessExit, Spawn};

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but slower, weaker or with a limit.
    Warn,
    /// `wrenn up` cannot work like this.
    Fail,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What the checks are about.
#[derive(Debug)]
pub struct Plan {
    /// Data directory; need not exist yet.
    pub dir: PathBuf,
    /// Where the API shall listen.
    pub listen: SocketAddr,
    /// A platform of this directory runs already, and rightly holds the port.
    pub running: bool,
}

/// Every finding. `ok` is false when one of them fails.
#[derive(Debug, Serialize)]
pub struct Report {
    ok: bool,
    checks: Vec<Check>,
}

/// Runs every check. Changes nothing on the machine.
pub fn examine(plan: &Plan) -> Report {
    let checks = vec![
        machine::privileges(),
        machine::qemu(),
        machine::isolation(),
        machine::memory(),
        machine::cgroups(),
        network::nft(),
        network::tun(),
        network::forwarding(),
        network::foreign_firewall(),
        network::port(plan),
        storage::clones(&plan.dir),
        storage::space(&plan.dir),
    ];
    Report { ok: checks.iter().all(|check| check.verdict != Verdict::Fail), checks }
}

/// Prints the report; fails when a check does.
pub fn run(plan: &Plan, out: Output) -> Outcome {
    let report = examine(plan);
    out.result(&report, text)?;
    report.into_outcome()
}

impl Report {
    /// The failing checks as one failure.
    pub fn into_outcome(self) -> Outcome {
        let failing: Vec<_> = self.checks.into_iter().filter(|check| check.verdict == Verdict::Fail).collect();
        let Some(first) = failing.first() else { return Ok(()) };
        let names: Vec<_> = failing.iter().map(|check| format!("{} ({})", check.name, check.found)).collect();
        let failure = Failure::new(Exit::Failure, format_args!("this machine is not ready: {}", names.join(", ")));
        Err(match &first.remedy {
            Some(remedy) => failure.hint(remedy),
            None => failure,
        })
    }
}

fn text(report: &Report) -> String {
    let mut text = output::table(
        ["CHECK", "VERDICT", "FOUND"],
        report
            .checks
            .iter()
            .map(|check| [check.name.to_owned(), format!("{:?}", check.verdict).to_lowercase(), check.found.clone()]),
    );
    for check in &report.checks {
        if let Some(remedy) = &check.remedy {
            text.extend(["\n", check.name, ": ", remedy]);
        }
    }
    text
}

/// Standard output of a tool that ended well.
fn tool(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Spawn::new(program).args(args).inherit_env().output()?;
    match output.exit {
        ProcessExit::Code(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fails_with_the_first_remedy_and_every_name() {
        let checks = vec![Check::ok("a", "x"), Check::fail("b", "none", "do b"), Check::fail("c", "old", "do c")];
        let failure = Report { ok: false, checks }.into_outcome().expect_err("two checks fail");
        assert_eq!(failure.message, "this machine is not ready: b (none), c (old)");
        assert_eq!(failure.hint.as_deref(), Some("do b"));
    }

    #[test]
    fn the_machine_of_the_tests_can_be_examined() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let report = examine(&Plan { dir: std::env::temp_dir(), listen, running: false });
        for check in &report.checks {
            assert_eq!(check.verdict == Verdict::Ok, check.remedy.is_none(), "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
    }
}
