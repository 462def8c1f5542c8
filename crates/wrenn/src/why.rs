//! `wrenn why ID`: one paragraph instead of a search through logs.

use crate::capsule;
use crate::cli::Global;
use crate::failure::Outcome;
use crate::output::Output;
use model::rest::Capsule;
use model::{CapsuleId, CapsuleStatus, EndReason};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Explanation<'a> {
    id: CapsuleId,
    status: CapsuleStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a EndReason>,
    #[serde(rename = "explanation")]
    text: String,
    next: &'static str,
}

/// Explains the capsule's status.
pub async fn run(global: &Global, id: CapsuleId) -> Outcome {
    let client = capsule::connect(global)?;
    let capsule = client.get(id).await?;
    let (text, next) = explain(&capsule);
    let answer = Explanation { id, status: capsule.status, reason: capsule.reason.as_ref(), text, next };
    let since = capsule.last_updated.to_rfc3339();
    Ok(Output { json: global.json }.result(&answer, |answer| {
        let next = if answer.next.is_empty() { String::new() } else { format!("hint: {}\n", answer.next) };
        format!("{} is {} since {since}: {}\n{next}", answer.id, answer.status, answer.text)
    })?)
}

fn explain(capsule: &Capsule) -> (String, &'static str) {
    match (&capsule.reason, capsule.status) {
        (_, status) if status.is_transient() => ("an operation is under way.".to_owned(), "look again in a moment"),
        (_, CapsuleStatus::Running) => ("nothing has stopped it.".to_owned(), ""),
        (Some(reason), CapsuleStatus::Paused) if reason.is_loss() => (
            "its VM ended unexpectedly; it is back where it was last resumed from.".to_owned(),
            "`wrenn capsule resume` continues from there; the agent's log in $WRENN_DIR/logs has the VM's last words",
        ),
        (Some(reason), _) => of_reason(reason),
        (None, CapsuleStatus::Missing) => of_reason(&EndReason::HostLost),
        (None, _) => ("no reason was recorded.".to_owned(), "the agent's log is in $WRENN_DIR/logs"),
    }
}

fn of_reason(reason: &EndReason) -> (String, &'static str) {
    match reason {
        EndReason::User => ("somebody asked for it.".to_owned(), ""),
        EndReason::Ttl => ("its time was over.".to_owned(), "a larger `--timeout-sec` keeps it longer; 0 = for ever"),
        EndReason::GuestOom => ("it ran out of memory.".to_owned(), "create it with a larger `--memory-mb`"),
        EndReason::HostOom => ("its host ran out of memory.".to_owned(), "run fewer or smaller capsules on that host"),
        EndReason::VmCrash => {
            ("its VM ended unexpectedly.".to_owned(), "the agent's log in $WRENN_DIR/logs has its last words")
        }
        EndReason::PagesLost => (
            "what its memory was read from failed.".to_owned(),
            "the agent's log in $WRENN_DIR/logs says what; check its disk",
        ),
        EndReason::HostDrained => (
            "its host was emptied for maintenance.".to_owned(),
            "`wrenn capsule resume` continues once the host takes capsules again",
        ),
        EndReason::HostLost => {
            ("its host cannot be reached.".to_owned(), "start the host's agent again; what was paused is kept")
        }
        EndReason::StartFailed(why) => {
            (format!("it could not be started: {why}."), "`wrenn doctor` checks this machine")
        }
    }
}
