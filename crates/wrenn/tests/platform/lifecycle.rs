//! What survives a pause, and what does not survive a destroy.

use crate::Verdict;
use crate::fork::sum;
use crate::host::Footprint;
use crate::platform::{Platform, SETTLE};
use client::Client;
use futures_util::future::{join_all, try_join_all};
use model::rest::{CreateCapsule, SaveTemplate};
use model::{CapsuleId, CapsuleStatus, Code, limits};
use std::error::Error;
use std::time::{Duration, Instant};

const ROUNDS: usize = 20;
/// Storms on one capsule, and who takes part in each.
const STORMS: usize = 4;
const CALLERS: usize = 24;
/// Until all storms are over.
const STORMY: Duration = Duration::from_mins(20);
/// Names of templates that a storm makes begin so.
const KEPT: &str = "storm-";

/// Keeps 32 MiB and a file, changes both by random writes and by zeroing, and answers with their digests. Its state is
/// nowhere but in the capsule's memory and on its disk.
pub const KEEPER: &str = r"
import hashlib, os, random
memory, pages = bytearray(32 << 20), (32 << 20) // 4096
disk = open('/root/disk.bin', 'w+b')
disk.truncate(4 << 20)

def write(page, data):
    memory[page * 4096:(page + 1) * 4096] = data
    disk.seek(page % 1024 * 4096)
    disk.write(data)

def digest():
    disk.flush()
    disk.seek(0)
    return hashlib.sha256(memory).hexdigest() + hashlib.sha256(disk.read()).hexdigest()

while True:
    with open('/root/in') as commands:
        command = commands.readline().split()
    if command[0] == 'step':
        chance = random.Random(command[1])
        for _ in range(300):
            write(chance.randrange(pages), os.urandom(4096))
            write(chance.randrange(pages), bytes(4096))
    with open('/root/out', 'w') as answer:
        answer.write(digest())
";

/// Says hello to whoever comes to its port, and bye once there is `/root/over`.
const GREETER: &str = r"
import os, socket, time
server = socket.create_server(('0.0.0.0', 7000))
peer, _ = server.accept()
peer.recv(4096)
peer.sendall(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n')
while not os.path.exists('/root/over'):
    time.sleep(0.1)
peer.sendall(b'3\r\nbye\r\n0\r\n\r\n')
";

/// Starts a program that takes commands by `/root/in` and answers by `/root/out`.
pub async fn start_keeper(platform: &Platform, id: CapsuleId, program: &'static str) -> Verdict {
    platform.sh(id, "mkfifo /root/in /root/out").await?;
    start_program(platform, id, "/root/keeper.py", program).await
}

async fn start_program(platform: &Platform, id: CapsuleId, path: &str, program: &'static str) -> Verdict {
    platform.client.write_file(id, path, std::io::Cursor::new(program.as_bytes())).await?;
    platform.sh(id, &format!("nohup python3 {path} >/root/log 2>&1 &")).await.map(drop)
}

/// The answer of a [`GREETER`] that has said hello; it ends with an error once this limit is over.
async fn greeted(platform: &Platform, id: CapsuleId, limit: Duration) -> Result<reqwest::Response, Box<dyn Error>> {
    start_program(platform, id, "/root/greeter.py", GREETER).await?;
    platform.sh(id, "until grep -q :1B58 /proc/net/tcp; do sleep 0.1; done").await?;
    let http = reqwest::Client::builder().timeout(limit).build()?;
    let mut page = http.get(&platform.base_url).header("Host", format!("7000-{id}.localhost")).send().await?;
    assert_eq!(page.chunk().await?.as_deref(), Some(&b"hello"[..]));
    Ok(page)
}

/// Random writes and zeroing in memory and on disk, then pause, resume, compare; twenty times.
pub async fn memory_and_disk_survive_twenty_rounds(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    start_keeper(platform, id, KEEPER).await?;
    for round in 0..ROUNDS {
        let before = platform.sh(id, &format!("echo step {round} > /root/in; cat /root/out")).await?;
        platform.pause(id).await?;
        platform.resume(id).await?;
        let after = platform.sh(id, "echo sum > /root/in; cat /root/out").await?;
        if before.len() != 128 || before != after {
            return Err(format!("round {round}: {before} became {after}").into());
        }
    }
    platform.destroy(id).await
}

/// A file that is being read and a request to a port fail when the capsule is paused under them: neither waits for ever, and
/// neither looks like it had come to its end.
pub async fn a_pause_cuts_what_is_open(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    platform.sh(id, "truncate -s 1G /root/large").await?;
    let mut page = greeted(platform, id, SETTLE).await?;
    let mut file = platform.client.read_file(id, "/root/large").await?;
    assert!(file.chunk().await?.is_some());
    platform.pause(id).await?;
    let Err(error) = page.chunk().await else { return Err("the page is not at its end".into()) };
    assert!(!error.is_timeout(), "{error}");
    while let Ok(chunk) = file.chunk().await {
        assert!(chunk.is_some(), "the file is not at its end");
    }
    platform.destroy(id).await
}

/// What was paused because nobody used it has all of its idle time again once it is resumed.
pub async fn idle_time_counts_from_the_resume(platform: &mut Platform) -> Verdict {
    let idle = CreateCapsule { timeout_sec: Some(limits::IDLE_S_MIN.into()), ..CreateCapsule::default() };
    let id = platform.client.create(&idle).await?.id;
    let deadline = Instant::now() + SETTLE;
    while platform.client.get(id).await?.status != CapsuleStatus::Paused {
        assert!(Instant::now() < deadline, "it is not paused");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Whatever was done in it lies further back than that.
    platform.resume(id).await?;
    // Longer than an end that is overdue takes to begin.
    tokio::time::sleep(Duration::from_millis(500)).await;
    platform.sh(id, "true").await?;
    platform.destroy(id).await
}

/// Five at once answer; once destroyed nothing of them is left on the host.
pub async fn five_at_once_leave_nothing(platform: &mut Platform) -> Verdict {
    let instance = std::fs::read_to_string(platform.dir.join("instance"))?;
    let before = Footprint::settled(&platform.dir, instance.trim()).await;
    let capsules = try_join_all((0..5).map(|_| platform.capsule())).await?;
    let answers =
        try_join_all(capsules.iter().map(|capsule| platform.sh(capsule.id, "cat /proc/sys/kernel/random/uuid")))
            .await?;
    let distinct: std::collections::HashSet<_> = answers.iter().collect();
    assert_eq!(distinct.len(), 5, "clones share random numbers: {answers:?}");
    crate::host::vmms_are_confined(&platform.dir)?;
    // One of them goes by way of a pause, so that a generation has to go too.
    if let Some(first) = capsules.first() {
        platform.pause(first.id).await?;
    }
    try_join_all(capsules.iter().map(|capsule| platform.destroy(capsule.id))).await?;
    let after = Footprint::settled(&platform.dir, instance.trim()).await;
    before.compare(&after)
}

/// Many callers want different things of one capsule at the same time: each gets what it wanted or is told why not, and
/// what is left is one capsule in one state, with all it held. The last one wants it gone. The capsule beside it notices
/// nothing, and neither does who is connected to that.
pub async fn a_storm_on_one_capsule_leaves_one_state(platform: &mut Platform) -> Verdict {
    let before = crate::host::saved(&platform.dir);
    let (id, neighbour) = (platform.capsule().await?.id, platform.capsule().await?.id);
    for each in [id, neighbour] {
        start_keeper(platform, each, KEEPER).await?;
    }
    let digest = platform.sh(id, "echo step 1 > /root/in; cat /root/out").await?;
    let beside = platform.sh(neighbour, "echo step 2 > /root/in; cat /root/out").await?;
    let mut page = greeted(platform, neighbour, STORMY).await?;
    for round in 0..STORMS {
        let last = round + 1 == STORMS;
        storm(&platform.client, id, last).await.map_err(|error| format!("round {round}: {error}"))?;
        let capsule = platform.client.settled(id, SETTLE).await?;
        match capsule.status {
            CapsuleStatus::Stopped if last => {}
            CapsuleStatus::Running if !last => {}
            CapsuleStatus::Paused if !last => platform.resume(id).await?,
            status => return Err(format!("round {round}: it is {status}").into()),
        }
        if !last {
            assert_eq!(sum(platform, id).await?, digest);
        }
        assert_eq!(sum(platform, neighbour).await?, beside);
    }
    platform.sh(neighbour, "touch /root/over").await?;
    assert_eq!(page.chunk().await?.as_deref(), Some(&b"bye"[..]));
    assert_eq!(page.chunk().await?, None);
    platform.destroy(neighbour).await?;
    crate::host::saved_again(&platform.dir, &before).await
}

/// All callers at once. The templates some of them make go again.
async fn storm(client: &Client, id: CapsuleId, last: bool) -> Verdict {
    let asked = (0..CALLERS).map(|caller| async move {
        match caller % 5 {
            0 => client.pause(id, false).await.map(drop),
            1 => client.resume(id, false).await.map(drop),
            2 => client.ping(id).await,
            3 => {
                let wish = SaveTemplate { sandbox_id: id, name: Some(format!("{KEPT}{caller}")), memory: Some(true) };
                client.save_template(&wish, true).await.map(drop)
            }
            _ if last => client.destroy(id).await,
            _ => client.get(id).await.map(drop),
        }
    });
    let answers = join_all(asked).await;
    for template in client.templates().await? {
        if template.name.starts_with(KEPT) {
            client.delete_template(&template.name).await?;
        }
    }
    for answer in answers {
        match answer.as_ref().err().map(client::Error::code) {
            None | Some(Some(Code::InvalidState | Code::Conflict | Code::Unavailable | Code::NotFound)) => {}
            Some(_) => return Err(format!("{answer:?}").into()),
        }
    }
    Ok(())
}
