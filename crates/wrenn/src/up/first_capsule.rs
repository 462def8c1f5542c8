//! The proof that the platform works: a capsule made, used and removed through the public API.

use super::steps::Steps;
use crate::capsule::reached;
use crate::failure::{Failure, Outcome};
use client::{Client, Output};
use model::rest::{Capsule, CreateCapsule, ExecRequest};
use model::{CapsuleId, CapsuleStatus, Code};
use std::time::Duration;

/// What the capsule runs, and what it must print when that is known.
const COMMANDS: [(&[&str], Option<&str>); 2] =
    [(&["uname", "-a"], None), (&["python3", "-c", "print(6*7)"], Some("42"))];
/// A first command without KVM meets a cold translation cache.
const TIMEOUT_S: i64 = 60;
/// How often a server without a host is asked again.
const GREETING_TRIES: u32 = 50;
const GREETING_PAUSE: Duration = Duration::from_millis(200);

/// Creates, runs, destroys; destroys also when a command failed.
pub async fn run(client: &Client, steps: &Steps) -> Outcome {
    let step = steps.begin("create a capsule");
    let capsule = create(client).await?;
    let capsule = reached(client, capsule.id, CapsuleStatus::Running).await?;
    step.done(&format!("{}, isolation {}", capsule.id, capsule.isolation));

    let tried = try_commands(client, capsule.id, steps).await;

    let step = steps.begin("destroy it");
    client.destroy(capsule.id).await?;
    reached(client, capsule.id, CapsuleStatus::Stopped).await?;
    step.done("");
    tried
}

/// The server greets its host in the background; until then there is none.
async fn create(client: &Client) -> Outcome<Capsule> {
    let mut tries = 0..GREETING_TRIES;
    loop {
        match client.create(&CreateCapsule::default()).await {
            Err(error) if error.code() == Some(Code::NoHosts) && tries.next().is_some() => {
                tokio::time::sleep(GREETING_PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

async fn try_commands(client: &Client, id: CapsuleId, steps: &Steps) -> Outcome {
    for (command, expected) in COMMANDS {
        let text = command.join(" ");
        let step = steps.begin(&text);
        let output = exec(client, id, command).await?;
        if expected.is_some_and(|expected| expected != output) {
            return Err(Failure::plain(format_args!("`{text}` in the first capsule printed {output:?}")));
        }
        step.done(&output);
    }
    Ok(())
}

async fn exec(client: &Client, id: CapsuleId, command: &[&str]) -> Outcome<String> {
    let mut words = command.iter().map(ToString::to_string);
    let cmd = words.next().unwrap_or_default();
    let request = ExecRequest { cmd, args: words.collect(), timeout_sec: Some(TIMEOUT_S), ..ExecRequest::default() };
    let result = client.exec(id, &request).await?;
    let output = Output::of(&result).ok_or_else(|| Failure::plain("the server's answer is not encoded as it says"))?;
    if result.exit_code != 0 {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message =
            format!("`{}` in the first capsule ended with {}: {}", command.join(" "), result.exit_code, stderr.trim());
        return Err(Failure::plain(message));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
