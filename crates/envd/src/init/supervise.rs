//! Keeping the daemon alive, and reaping everybody's orphans.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};
use sys::spawn::{Spawn, Stream};

use super::console::{Console, uptime_ms};
use super::network::ADDRESS;
use super::{CGROUPS, DAEMON};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:/usr/local/games";
/// A daemon that ran so long is started again at once; one that ended sooner after a pause.
const STEADY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// The daemon is the last thing the kernel may kill for memory (`proc_pid_oom_score_adj(5)`).
const OOM_SCORE_ADJ: i32 = -1000;

/// Starts the daemon, again whenever it ends, and never returns. The processes it started are its children no more
/// then, but go on.
pub(super) fn run(console: &mut Console) -> ! {
    loop {
        let started = Instant::now();
        if let Some(daemon) = console.step("starting envd", start()) {
            console.say(format_args!("envd started ({} ms)", uptime_ms()));
            let end = reap_until(daemon);
            console.say(format_args!("envd ended: {end}"));
        }
        if started.elapsed() < STEADY {
            std::thread::sleep(PAUSE);
        }
    }
}

fn start() -> std::io::Result<u32> {
    let daemon = Spawn::new(DAEMON)
        .argv0("envd")
        .args(["--owns-machine", "--cgroup-root", CGROUPS, "--forward-address", &ADDRESS.address.to_string()])
        .env("PATH", PATH)
        .cwd("/")
        .stderr(Stream::Inherit)
        .new_session()
        .oom_score_adj(OOM_SCORE_ADJ)
        .spawn()?;
    Ok(daemon.pid())
}

/// PID 1 inherits every orphan, so it waits for any child.
fn reap_until(daemon: u32) -> String {
    let daemon = i32::try_from(daemon).ok().and_then(Pid::from_raw);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if Some(ended) == daemon => {
                return match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("exit status {code}"),
                    (None, signal) => format!("signal {}", signal.unwrap_or_default()),
                };
            }
            Ok(_) | Err(Errno::INTR) => {}
            // Nobody is left, the daemon neither.
            Err(errno) => return errno.to_string(),
        }
    }
}
