//! What survives a pause, and what does not survive a destroy.

use crate::Verdict;
use crate::host::Footprint;
use crate::platform::Platform;
use futures_util::future::try_join_all;
use model::CapsuleId;

const ROUNDS: usize = 20;

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

/// Starts a program that takes commands by `/root/in` and answers by `/root/out`.
pub async fn start_keeper(platform: &Platform, id: CapsuleId, program: &'static str) -> Verdict {
    platform.client.write_file(id, "/root/keeper.py", std::io::Cursor::new(program.as_bytes())).await?;
    platform.sh(id, "mkfifo /root/in /root/out; nohup python3 /root/keeper.py >/root/log 2>&1 &").await?;
    Ok(())
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
    // One of them goes by way of a pause, so that a generation has to go too.
    if let Some(first) = capsules.first() {
        platform.pause(first.id).await?;
    }
    try_join_all(capsules.iter().map(|capsule| platform.destroy(capsule.id))).await?;
    let after = Footprint::settled(&platform.dir, instance.trim()).await;
    before.compare(&after)
}
