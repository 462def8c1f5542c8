//! `wrenn doctor`: what this machine can do, and the command that changes what it cannot.
//!
//! A check gathers facts and then judges them; the judgement is a pure function. [`CHECKS`] lists them.

mod check;
mod checks;
#[cfg(test)]
mod docs;
mod fix;
mod host;
#[cfg(test)]
mod lab;
mod limits;
mod machine;
mod network;
pub mod programs;
mod storage;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use check::{Finding, Verdict};
use checks::CHECKS;
use fix::Fix;
use serde::Serialize;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What the checks are about.
#[derive(Debug)]
pub struct Plan {
    /// Data directory; need not exist yet.
    pub dir: PathBuf,
    /// Where the API shall listen.
    pub listen: SocketAddr,
    /// A platform of this directory runs already, and rightly holds the port.
    pub running: bool,
    /// Which VMM an agent would use.
    pub vmm: agent::VmmOptions,
    /// Also what may take seconds: boot a guest with KVM if nobody has since this machine booted, and ask name servers.
    pub thorough: bool,
}

#[cfg(test)]
impl Default for Plan {
    fn default() -> Self {
        let vmm = agent::VmmOptions::default();
        Self { dir: PathBuf::new(), listen: ([127, 0, 0, 1], 0).into(), running: false, vmm, thorough: false }
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// A change that was made, or was not.
#[derive(Debug, Serialize)]
struct Change {
    check: &'static str,
    fix: Fix,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Every finding. `ok` is false when one of them fails.
#[derive(Debug, Serialize)]
pub struct Report {
    ok: bool,
    /// What `--fix` did before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Change>,
    checks: Vec<Line>,
}

/// Runs every check. Changes nothing on the machine.
pub async fn examine(plan: &Plan) -> Report {
    let mut checks = Vec::new();
    for check in CHECKS {
        checks.push(Line { name: check.name, finding: (check.examine)(plan).await });
    }
    Report { ok: checks.iter().all(|line| line.finding.verdict != Verdict::Fail), changes: Vec::new(), checks }
}

/// Prints the report, with `fix` after having mended what can be mended safely; fails when a check does.
pub async fn run(plan: &Plan, fix: bool, out: Output) -> Outcome {
    if plan.thorough && host::kernel_to_try(plan).is_some() {
        out.note("booting a guest with KVM, which takes up to ten seconds where it does not work");
    }
    let mut report = examine(plan).await;
    if fix {
        let changes = report.fix();
        // Looked at again even where nothing was changed: what is shown is what is.
        report = Report { changes, ..examine(plan).await };
    }
    out.result(&report, Report::text)?;
    report.outcome()
}

impl Report {
    /// Does what mends the findings, in the order of the checks.
    fn fix(&self) -> Vec<Change> {
        let fixes = self.checks.iter().flat_map(|line| line.finding.fixes.iter().map(|fix| (line.name, fix)));
        fixes.map(|(check, fix)| Change { check, fix: fix.clone(), error: fix.apply().err() }).collect()
    }

    fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Line> {
        self.checks.iter().filter(move |line| line.finding.verdict == verdict)
    }

    /// The failing checks by name: what they found has been printed.
    fn outcome(&self) -> Outcome {
        let names: Vec<_> = self.with(Verdict::Fail).map(|line| line.name).collect();
        match names.as_slice() {
            [] => Ok(()),
            names => Err(Failure::new(Exit::Failure, format_args!("this machine is not ready: {}", names.join(", ")))),
        }
    }

    /// The failing checks with what they found: nothing has been printed.
    pub fn into_outcome(self) -> Outcome {
        let Some(first) = self.with(Verdict::Fail).next() else { return Ok(()) };
        let names = self.with(Verdict::Fail).map(|line| format!("{} ({})", line.name, line.finding.line()));
        let names: Vec<_> = names.collect();
        let failure = Failure::new(Exit::Failure, format_args!("this machine is not ready: {}", names.join(", ")));
        Err(match &first.finding.remedy {
            Some(remedy) => failure.hint(remedy),
            None => failure,
        })
    }

    /// Names of the checks that warn.
    pub fn warnings(&self) -> Vec<&'static str> {
        self.with(Verdict::Warn).map(|line| line.name).collect()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Change { check, fix, error } in &self.changes {
            let outcome = error.as_ref().map_or("done".to_owned(), |error| format!("failed: {error}"));
            let _ = writeln!(text, "fix   {check}: {fix}: {outcome}");
        }
        if !self.changes.is_empty() {
            text.push('\n');
        }
        let width = self.checks.iter().map(|line| line.name.len()).max().unwrap_or(0);
        for Line { name, finding } in &self.checks {
            let found = finding.line();
            let _ = writeln!(text, "{:<4}  {name:width$}  {found}", finding.verdict.as_str());
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "      {:width$}  → {remedy}", "");
            }
        }
        text.push('\n');
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let count = |verdict| self.with(verdict).count();
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
        let mut text = format!(
            "{} ok, {warnings} warning{}, {failures} failure{}",
            count(Verdict::Ok),
            plural(warnings),
            plural(failures)
        );
        let fixable = self.checks.iter().filter(|line| !line.finding.fixes.is_empty());
        let fixable: Vec<_> = fixable.map(|line| line.name).collect();
        if !fixable.is_empty() {
            let verb = if self.changes.is_empty() { "can mend" } else { "could not mend" };
            let _ = write!(text, "; `wrenn doctor --fix` {verb} {}", fixable.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: [(&'static str, Finding); 5]) -> Report {
        let checks: Vec<_> = lines.into_iter().map(|(name, finding)| Line { name, finding }).collect();
        Report { ok: false, changes: Vec::new(), checks }
    }

    fn sample() -> Report {
        let setting = |name: &str| Fix::Set { file: format!("/proc/sys/net/{name}").into(), value: 7 };
        report([
            ("kernel", Finding::ok("6.1.0")),
            ("isolation", Finding::warn("KVM is there, but no guest boots", "another machine does better")),
            ("conntrack", Finding::warn_fixable("7 of 8 flows", setting("max"))),
            ("tun", Finding::fail_fixable("/dev/net/tun: not found", Fix::Load(&["tun"]))),
            ("port", Finding::fail("127.0.0.1:8000 is taken\n by somebody\n", "choose another")),
        ])
    }

    #[test]
    fn a_report_is_one_line_per_check_with_remedies_where_they_are_needed() {
        let mut report = sample();
        let before = report.text();
        report.changes = vec![
            Change { check: "conntrack", fix: Fix::Run("this".to_owned()), error: None },
            Change { check: "tun", fix: Fix::Load(&["tun"]), error: Some("no such module".to_owned()) },
        ];
        insta::assert_snapshot!(format!("{before}\n\n--fix\n\n{}", report.text()));
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
    }

    #[test]
    fn a_report_fails_with_every_name_and_for_others_with_the_first_remedy() {
        let failure = sample().outcome().unwrap_err();
        assert_eq!((&*failure.message, failure.hint), ("this machine is not ready: tun, port", None));
        assert_eq!(sample().warnings(), ["isolation", "conntrack"]);
        let failure = sample().into_outcome().unwrap_err();
        assert_eq!(
            failure.message,
            "this machine is not ready: tun (/dev/net/tun: not found), port (127.0.0.1:8000 is taken; by somebody)"
        );
        assert_eq!(failure.hint.as_deref(), Some("modprobe -a tun"));
    }

    #[test]
    fn fixes_are_applied_in_order_and_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |value| Fix::Set { file: file.path().to_owned(), value };
        let report = report([
            ("a", Finding::warn_fixable("", set(1))),
            ("b", Finding::ok("")),
            ("c", Finding::fail_fixable("", Fix::Run("false".to_owned()))),
            ("d", Finding::fail("", "")),
            ("e", Finding::warn_fixable("", set(2))),
        ]);
        let changes = report.fix();
        let told: Vec<_> = changes.iter().map(|change| (change.check, change.error.is_none())).collect();
        assert_eq!(told, [("a", true), ("c", false), ("e", true)]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "2");
    }

    #[tokio::test]
    async fn the_machine_of_the_tests_can_be_examined() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan { dir: dir.path().to_owned(), ..Plan::default() };
        let report = examine(&plan).await;
        assert_eq!(report.checks.len(), CHECKS.len());
        for Line { finding, .. } in &report.checks {
            assert_eq!(finding.verdict == Verdict::Ok, finding.remedy.is_none(), "{finding:?}");
            assert!(!finding.found.is_empty() && (finding.verdict != Verdict::Ok || finding.fixes.is_empty()));
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "an examination leaves nothing");
    }
}
