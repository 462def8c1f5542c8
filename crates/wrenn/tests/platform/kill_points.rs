//! `kill -9` of the platform, of a keeper, of both and of a VMM at every named point of every operation on a capsule: nothing is left
//! behind, and what was saved, or still runs, holds what it must.
//!
//! A dozen points by chance; `WRENN_KILL_POINTS=all` for all of them, a part of a name for those that have it.
//! `WRENN_KILL_POINTS_SEED` chooses another dozen.

use crate::Verdict;
use crate::fork::sum;
use crate::host::{self, Footprint, vmms};
use crate::lifecycle::{KEEPER, start_keeper};
use crate::platform::{Platform, SETTLE};
use client::Client;
use hostlink::{AgentLink, Endpoint};
use model::rest::{CreateCapsule, ForkCapsule, SaveTemplate};
use model::{CapsuleId, CapsuleStatus, Code};
use proto::hostagent::v1 as wire;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CHOSEN: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    Pause,
    /// Without its memory.
    Shelve,
    Resume,
    Fork,
    /// Its disk as a template.
    Keep,
    Destroy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Platform,
    Keeper,
    /// Neither is there to end the VMM.
    Both,
    Vmm,
}

impl Victim {
    /// Whether the operation ends with it.
    fn is_platform(self) -> bool {
        matches!(self, Self::Platform | Self::Both)
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    operation: Operation,
    point: &'static str,
    victim: Victim,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of the {:?} at {}", self.operation, self.victim, self.point)
    }
}

/// Points of a start, whatever it starts; at those after the first its VM is there.
const START: [&str; 6] =
    ["start.acquired", "start.launched", "start.restored", "start.running", "start.woken", "start.recorded"];
const PAUSE: [&str; 6] =
    ["pause.begun", "pause.quiesced", "pause.stopped", "pause.filled", "pause.saved", "pause.recorded"];
const SNAPSHOT: [&str; 7] = [
    "snapshot.begun",
    "snapshot.held",
    "snapshot.stopped",
    "snapshot.filled",
    "snapshot.released",
    "snapshot.saved",
    "snapshot.recorded",
];

const SHELVE: [&str; 5] = ["pause.begun", "pause.quiesced", "pause.stopped", "pause.saved", "pause.recorded"];
const KEEP: [&str; 5] =
    ["snapshot.begun", "snapshot.stopped", "snapshot.filled", "snapshot.saved", "snapshot.recorded"];

/// What a capsule has on its disk in the end.
const MARK: &str = "written";

/// Name of the template that is made.
const KEPT: &str = "kill-points";

fn cases() -> Vec<Case> {
    use Operation::{Create, Destroy, Fork, Keep, Pause, Resume, Shelve};
    let with_vm = |point: &str| !["create.begun", "resume.begun", "start.acquired"].contains(&point);
    let of = |operation, points: &[&'static str]| points.iter().map(|point| (operation, *point)).collect::<Vec<_>>();
    let points = [
        of(Create, &["create.begun"]),
        of(Create, &START),
        of(Pause, &PAUSE),
        of(Shelve, &SHELVE),
        of(Resume, &["resume.begun"]),
        of(Resume, &START),
        of(Fork, &SNAPSHOT),
        of(Fork, &START),
        of(Keep, &KEEP),
        of(Destroy, &["destroy.begun", "destroy.recorded", "destroy.ended"]),
    ];
    let case = |(operation, point): (Operation, &'static str)| {
        let ended = point == "destroy.ended";
        let victims: &[Victim] = if with_vm(point) && !ended {
            &[Victim::Platform, Victim::Keeper, Victim::Both, Victim::Vmm]
        } else {
            &[Victim::Platform]
        };
        victims.iter().map(move |victim| Case { operation, point, victim: *victim })
    };
    points.into_iter().flatten().flat_map(case).collect()
}

pub async fn nothing_leaks_and_nothing_saved_is_lost(platform: &mut Platform) -> Verdict {
    let instance = std::fs::read_to_string(platform.dir.join("instance"))?;
    let before = Footprint::settled(&platform.dir, instance.trim()).await;
    let given: Option<u64> = std::env::var("WRENN_KILL_POINTS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    let chosen = match std::env::var("WRENN_KILL_POINTS").as_deref() {
        Ok("all") => cases(),
        Ok(part) => cases().into_iter().filter(|case| case.to_string().contains(part)).collect(),
        Err(_) => cases().into_iter().sample(&mut StdRng::seed_from_u64(seed), CHOSEN),
    };
    println!("  {} of {} points, seed {seed}", chosen.len(), cases().len());
    for case in chosen {
        let began = Instant::now();
        Trial::run(platform, case, instance.trim()).await.map_err(|error| format!("{case}: {error}"))?;
        println!("  {case}: ok ({:.1} s)", began.elapsed().as_secs_f64());
    }
    before.compare(&Footprint::settled(&platform.dir, instance.trim()).await)
}

/// One capsule that is in the state its operation needs, and what it holds.
struct Trial {
    case: Case,
    id: CapsuleId,
    /// What it holds.
    digest: String,
    /// What it held when it was last paused.
    last_good: String,
    /// Capsules that were there before: whatever a run that failed has left.
    strangers: Vec<CapsuleId>,
    /// VMMs that are not the one to be ended.
    others: Vec<u32>,
    stop_at: PathBuf,
    stopped_at: PathBuf,
}

impl Trial {
    async fn run(platform: &mut Platform, case: Case, instance: &str) -> Verdict {
        let saved = host::saved(&platform.dir);
        let before = vmms(&platform.dir);
        let trial = Self::prepare(platform, case, instance, &before).await?;
        trial.strike(platform).await?;
        trial.verify(platform).await?;
        trial.clean_up(platform).await?;
        host::saved_again(&platform.dir, &saved).await?;
        let deadline = Instant::now() + SETTLE;
        while vmms(&platform.dir) != before {
            until(deadline, "a VMM is left").await?;
        }
        Ok(())
    }

    async fn prepare(platform: &Platform, case: Case, instance: &str, before: &[u32]) -> Result<Self, Box<dyn Error>> {
        let strangers = platform.client.list().await?.iter().map(|capsule| capsule.id).collect();
        let id = platform.capsule().await?.id;
        start_keeper(platform, id, KEEPER).await?;
        let last_good = platform.sh(id, "echo step 1 > /root/in; cat /root/out").await?;
        platform.pause(id).await?;
        platform.resume(id).await?;
        let digest =
            platform.sh(id, &format!("echo {MARK} > /root/mark; echo step 2 > /root/in; cat /root/out")).await?;
        if case.operation == Operation::Resume {
            platform.pause(id).await?;
            let deadline = Instant::now() + SETTLE;
            while vmms(&platform.dir) != before {
                until(deadline, "the VM of the paused capsule is left").await?;
            }
        }
        // At points of a start the VM is a new one, at all others the capsule's.
        let others = if case.point.starts_with("start") { vmms(&platform.dir) } else { before.to_vec() };
        let runtime = Path::new("/run/wrenn").join(instance);
        Ok(Self {
            case,
            id,
            digest,
            last_good,
            strangers,
            others,
            stop_at: runtime.join("stop-at"),
            stopped_at: runtime.join("stopped-at"),
        })
    }

    /// Holds the operation at its point, ends the victim there, and lets go on what still lives.
    async fn strike(&self, platform: &mut Platform) -> Verdict {
        std::fs::write(&self.stop_at, self.case.point)?;
        let asked = tokio::spawn(ask(platform.client.clone(), self.case.operation, self.id));
        let deadline = Instant::now() + SETTLE;
        while !self.stopped_at.exists() {
            until(deadline, "the point is not passed").await?;
        }
        let victim = match self.case.victim {
            Victim::Platform => None,
            _ => Some(self.victim(&platform.dir)?),
        };
        if self.case.victim.is_platform() {
            platform.kill()?;
        }
        if let Some(victim) = victim {
            kill(victim)?;
        }
        std::fs::remove_file(&self.stopped_at)?;
        if self.case.victim.is_platform() {
            *platform = Platform::start("0").await?;
        }
        // What the caller heard is not what counts here.
        let _ = asked.await;
        Ok(())
    }

    fn victim(&self, dir: &Path) -> Result<u32, Box<dyn Error>> {
        let vmm = vmms(dir).into_iter().find(|pid| !self.others.contains(pid)).ok_or("there is no VMM to end")?;
        match self.case.victim {
            Victim::Vmm => Ok(vmm),
            _ => parent(vmm),
        }
    }

    /// Whatever became of it: it runs, or can be resumed, and holds what it must. One that lost its VM unsaved holds what it
    /// did when it was last paused.
    async fn verify(&self, platform: &Platform) -> Verdict {
        let Case { operation, point, victim } = self.case;
        let vm_was_ended = victim != Victim::Platform;
        let status = outcome(platform, self.id).await?;
        let unsaved = match operation {
            Operation::Destroy => return if status == CapsuleStatus::Stopped { Ok(()) } else { wrong(status) },
            // Saved with all it holds before, or by then.
            Operation::Resume => false,
            Operation::Pause | Operation::Shelve if victim == Victim::Both => point != "pause.recorded",
            Operation::Pause => vm_was_ended && !["pause.filled", "pause.saved", "pause.recorded"].contains(&point),
            Operation::Shelve => vm_was_ended && !["pause.stopped", "pause.saved", "pause.recorded"].contains(&point),
            Operation::Create | Operation::Fork | Operation::Keep => {
                vm_was_ended && !point.starts_with("start") && point != "create.begun"
            }
        };
        match status {
            CapsuleStatus::Running if !unsaved => {}
            CapsuleStatus::Paused => platform.resume(self.id).await?,
            status => return wrong(status),
        }
        if operation == Operation::Shelve && status == CapsuleStatus::Paused && !unsaved {
            let written = platform.sh(self.id, "cat /root/mark").await?;
            if written.trim() != MARK {
                return Err(format!("its disk has {written:?}").into());
            }
        } else {
            let held = if unsaved { &self.last_good } else { &self.digest };
            compare(platform, self.id, held).await?;
        }
        // A capsule that was being made, or cloned, meanwhile: it runs as it must, or is gone.
        for other in self.made(platform).await?.into_iter().filter(|id| *id != self.id) {
            match (operation, outcome(platform, other).await?) {
                (Operation::Fork, CapsuleStatus::Running) => compare(platform, other, &self.digest).await?,
                (Operation::Create, CapsuleStatus::Running | CapsuleStatus::Error)
                | (Operation::Fork, CapsuleStatus::Error) => {}
                (_, status) => return wrong(status),
            }
        }
        Ok(())
    }

    /// Capsules of this trial.
    async fn made(&self, platform: &Platform) -> Result<Vec<CapsuleId>, Box<dyn Error>> {
        let all = platform.client.list().await?;
        Ok(all.iter().map(|capsule| capsule.id).filter(|id| !self.strangers.contains(id)).collect())
    }

    /// Destroys them, and gives up the snapshot a killed platform may have left: it does so itself after half an hour.
    async fn clean_up(&self, platform: &Platform) -> Verdict {
        for id in self.made(platform).await? {
            platform.destroy(id).await?;
        }
        if self.case.operation == Operation::Keep {
            let deleted = platform.client.delete_template(KEPT).await;
            // It may never have come to be.
            deleted.or_else(|error| if error.code() == Some(Code::NotFound) { Ok(()) } else { Err(error) })?;
        }
        let link = AgentLink::new(Endpoint::Unix(platform.dir.join("run/agent.sock")));
        let snapshots =
            async || Ok::<_, Box<dyn Error>>(link.rpc().get_host(<_>::default()).await?.into_owned().snapshots);
        let deadline = Instant::now() + SETTLE;
        while !self.case.victim.is_platform() && !snapshots().await?.is_empty() {
            until(deadline, "a snapshot is left").await?;
        }
        for snapshot_id in snapshots().await? {
            link.rpc().delete_snapshot(wire::DeleteSnapshotRequest { snapshot_id, ..Default::default() }).await?;
        }
        Ok(())
    }
}

/// Where a capsule is once news of its end, if it has ended, have come.
async fn outcome(platform: &Platform, id: CapsuleId) -> Result<CapsuleStatus, Box<dyn Error>> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let capsule = platform.client.settled(id, SETTLE).await?;
        if capsule.status != CapsuleStatus::Running || platform.sh(id, "true").await.is_ok() {
            return Ok(capsule.status);
        }
        until(deadline, "it is called running and does not answer").await?;
    }
}

async fn compare(platform: &Platform, id: CapsuleId, held: &str) -> Verdict {
    let found = sum(platform, id).await?;
    if found == held { Ok(()) } else { Err(format!("{id} does not hold what it must").into()) }
}

async fn ask(client: Client, operation: Operation, id: CapsuleId) {
    let _ = match operation {
        Operation::Create => client.create(&CreateCapsule::default()).await.map(drop),
        Operation::Pause => client.pause(id, false).await.map(drop),
        Operation::Shelve => client.pause(id, true).await.map(drop),
        Operation::Resume => client.resume(id, false).await.map(drop),
        Operation::Fork => client.fork(id, &ForkCapsule::default()).await.map(drop),
        Operation::Keep => {
            let wish = SaveTemplate { sandbox_id: id, name: Some(KEPT.to_owned()), memory: Some(false) };
            client.save_template(&wish, true).await.map(drop)
        }
        Operation::Destroy => client.destroy(id).await,
    };
}

fn kill(pid: u32) -> Verdict {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or("no pid")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

/// `proc_pid_stat(5)`, field 4.
fn parent(pid: u32) -> Result<u32, Box<dyn Error>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
    Ok(fields.split_ascii_whitespace().nth(1).ok_or("no parent")?.parse()?)
}

fn wrong(status: CapsuleStatus) -> Verdict {
    Err(format!("it is {status}").into())
}

async fn until(deadline: Instant, what: &str) -> Verdict {
    tokio::time::sleep(Duration::from_millis(10)).await;
    if Instant::now() < deadline { Ok(()) } else { Err(what.into()) }
}
