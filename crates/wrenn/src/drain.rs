//! `wrenn drain`: this host is emptied for maintenance, or takes capsules again.

use crate::cli::{DrainArgs, Global};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::instance;
use crate::output::Output;
use crate::up::platform;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the agent is asked who is left.
const PAUSE: Duration = Duration::from_millis(500);
/// After this long those that are left are most likely stuck.
const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Debug, Serialize)]
struct Told {
    dir: PathBuf,
    draining: bool,
}

/// Tells the agent of this data directory, and waits until no capsule runs.
pub async fn run(global: &Global, args: &DrainArgs) -> Outcome {
    let dir = global.data_dir();
    if !instance::is_running(&dir) {
        return Err(Failure::new(Exit::Unreachable, format_args!("no platform runs on {}", dir.display()))
            .hint("start it with `wrenn up`, or name its directory with --dir; both need root"));
    }
    let out = Output { json: global.json };
    let link = platform::agent_link(&dir);
    let told = Told { dir, draining: !args.end };
    let began = Instant::now();
    let tell = async || link.set_draining(told.draining).await.map_err(Failure::plain);
    let mut left = tell().await?;
    while told.draining && left > 0 {
        if began.elapsed() > PATIENCE {
            return Err(Failure::plain(format_args!("{left} capsules still run")).hint(
                "they are tried again until they are paused; the agent's log in $WRENN_DIR/logs says what fails",
            ));
        }
        tokio::time::sleep(PAUSE).await;
        let now = tell().await?;
        if now != left && now > 0 {
            out.note(&format!("{now} capsules still run"));
        }
        left = now;
    }
    Ok(out.result(&told, |told| {
        let text = if told.draining {
            "no capsule runs on this host, and none starts until `wrenn drain --end`"
        } else {
            "this host takes capsules again; what was paused stays so until somebody resumes it"
        };
        format!("{text}\n")
    })?)
}
