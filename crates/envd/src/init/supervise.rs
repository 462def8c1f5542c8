//! The daemon, as init runs it.

use std::path::Path;

use rustix::process::Resource;
use sys::spawn::{Spawn, Stream};

use super::console::{Console, uptime_ms};
use super::network::ADDRESS;
use super::{CGROUPS, DAEMON};
use crate::descriptors;
use crate::supervise::Supervision;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:/usr/local/games";
/// The daemon is the last thing the kernel may kill for memory (`proc_pid_oom_score_adj(5)`).
const OOM_SCORE_ADJ: i32 = -1000;

/// Never returns: PID 1 is told to stop by nobody, and a guest without a daemon is of no use.
pub(super) fn run(console: &mut Console) -> ! {
    let (soft, hard) = descriptors::raise_limit();
    console.say(format_args!("starting envd ({} ms)", uptime_ms()));
    let failure = match Supervision::new(Path::new(DAEMON), false, &mut |what| console.say(what)) {
        Ok(mut supervision) => {
            supervision.run(|program| daemon(program).limit(Resource::Nofile as u32, soft, hard));
            "envd is not supervised any more".to_owned()
        }
        Err(error) => format!("supervising envd: {error}"),
    };
    console.fatal(&failure)
}

fn daemon(program: &Path) -> Spawn {
    Spawn::new(program)
        .argv0("envd")
        .args(["--cgroup-root", CGROUPS, "--forward-address", &ADDRESS.address.to_string(), "--owns-machine"])
        .env("PATH", PATH)
        .cwd("/")
        .stderr(Stream::Inherit)
        .new_session()
        .oom_score_adj(OOM_SCORE_ADJ)
}
