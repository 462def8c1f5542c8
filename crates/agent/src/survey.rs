//! What a host would offer an agent, found out without one: plain facts for `wrenn doctor`. Nothing here needs a running
//! agent, and nothing changes the host; only [`vmm`] remembers what it tried.

use crate::options::{Layout, VmmOptions};
use crate::record::{Place, Records};
use crate::tier::Vmms;
use memory::Generation;
use model::CapsuleId;
use network::{InstanceId, Resolvers, find_uplinks};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
pub use vmm::Tier;
use vmm::firecracker::FindError;
use vmm::{ProgramError, Vmm};

/// The VMMs of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machines {
    /// Name and version of the Firecracker.
    pub firecracker: Result<String, NoFirecracker>,
    /// The same of the QEMU, or why there is none.
    pub qemu: Result<String, String>,
    /// What capsules run on. None: that is open until a kernel was booted with KVM.
    pub tier: Option<Tier>,
}

/// Why there is no Firecracker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFirecracker {
    /// It is optional.
    #[error("there is no Firecracker")]
    Missing,
    /// There is one that cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl From<&FindError> for NoFirecracker {
    fn from(error: &FindError) -> Self {
        match error {
            FindError::Program(ProgramError::Run { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::Missing
            }
            error => Self::Unusable(error.to_string()),
        }
    }
}

/// The VMMs. With `try_with`, they are tried with that kernel and the answer remembered; it may take ten seconds for each.
pub async fn vmm(dir: &Path, options: &VmmOptions, try_with: Option<&Path>) -> Machines {
    let memory = Layout(dir).tier();
    let vmms = Vmms::find(options);
    let chosen = match try_with {
        Some(kernel) => vmms.choose(kernel, &memory).await.map(Some),
        None => vmms.foresee(&memory),
    };
    Machines {
        firecracker: vmms.firecracker.map(|found| found.title()).map_err(|error| NoFirecracker::from(&*error)),
        qemu: vmms.qemu.map(|found| found.title()).map_err(|error| error.to_string()),
        tier: chosen.ok().flatten().map(|vmm| vmm.tier()),
    }
}

/// The guests' kernel, where [`vmm`] could learn something from it: it has been made, and a VMM that may be chosen has not been tried
/// with it since the host booted. `source` is where guests' packages come from.
pub fn kernel_to_try(dir: &Path, options: &VmmOptions, source: &image::Source) -> Option<PathBuf> {
    let layout = Layout(dir);
    let foreseen = Vmms::find(options).foresee(&layout.tier());
    let kernel = matches!(foreseen, Ok(None)).then(|| image::find_kernel(&artifacts(&layout), source))?;
    kernel.ok().flatten().map(|kernel| kernel.elf)
}

/// Paused capsules that cannot be resumed as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unloadable {
    /// Saved by another kind of VMM, processor or guest kernel.
    pub foreign: BTreeSet<CapsuleId>,
    /// What was saved is not whole.
    pub damaged: BTreeSet<CapsuleId>,
}

/// Paused capsules whose memory this host cannot load.
/// None are known of before the kernel has been made, while it is open which VMM it will be, or while the pool is not mounted. Blocks.
pub fn unloadable(dir: &Path, options: &VmmOptions, source: &image::Source) -> Unloadable {
    let layout = Layout(dir);
    let Ok(Some(kernel)) = image::find_kernel(&artifacts(&layout), source) else { return Unloadable::default() };
    let Ok(Some(vmm)) = Vmms::find(options).foresee(&layout.tier()) else { return Unloadable::default() };
    let here = vmm.compatibility(&kernel.key).to_string();
    unloadable_in(&layout.pool(), &here).unwrap_or_default()
}

fn unloadable_in(pool: &Path, here: &str) -> io::Result<Unloadable> {
    let [capsules, generations] = ["capsules", "generations"].map(|name| pool.join(name));
    let mut unloadable = Unloadable::default();
    if !capsules.is_dir() || !generations.is_dir() {
        return Ok(unloadable);
    }
    for record in Records::open(capsules)?.list()?.records {
        let Place::Paused { generation } = record.place else { continue };
        // Not through a `Shelf`: opening one removes the drafts of an agent that runs.
        match Generation::open(&generations.join(generation.to_string())) {
            Err(_) => drop(unloadable.damaged.insert(record.id)),
            Ok(saved) if saved.has_memory() && saved.manifest().compatibility != here => {
                unloadable.foreign.insert(record.id);
            }
            Ok(_) => {}
        }
    }
    Ok(unloadable)
}

fn artifacts(layout: &Layout<'_>) -> PathBuf {
    layout.pool().join("artifacts")
}

/// A chain of another firewall that drops what guests send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Family, table and chain.
    pub chain: String,
    /// A shell command, for root, that lets guests through there. Once it has been run the chain is no obstacle.
    pub command: String,
}

/// Other firewalls in the way of guests. Of the calling thread's network namespace, as all that follows.
pub async fn firewalls(dir: &Path) -> Result<Vec<Obstacle>, String> {
    let instance = Layout(dir).known_instance().map_err(|error| error.to_string())?;
    let findings = network::host_firewalls(instance.as_ref(), dir).await.map_err(|error| told(&error))?;
    let obstacle = |finding: network::Finding| Obstacle {
        chain: format!("{} {}", finding.table, finding.chain),
        command: finding.command,
    };
    Ok(findings.into_iter().map(obstacle).collect())
}

/// Makes a network for a guest and removes it, unseen by the host.
pub async fn rehearse_network() -> Result<(), String> {
    network::rehearse().await.map_err(|error| told(&error))
}

/// An interface that leads out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub interface: String,
    /// Whether it forwards IPv4; if not, an agent switches it on.
    pub forwards: bool,
    /// Whether that can be switched.
    pub switchable: bool,
    /// The file of the setting.
    pub setting: PathBuf,
}

/// The interfaces that lead out.
pub fn uplinks() -> io::Result<Vec<Uplink>> {
    let uplink = |uplink: network::Uplink| Uplink {
        setting: uplink.setting(),
        interface: uplink.interface,
        forwards: uplink.forwards,
        switchable: uplink.switchable,
    };
    Ok(find_uplinks()?.into_iter().map(uplink).collect())
}

/// Routes of others (`DESTINATION dev INTERFACE`) that overlap the addresses of guests' networks.
pub fn collisions(dir: &Path) -> io::Result<Vec<String>> {
    // An instance to be made begins its search elsewhere, but finds something exactly when this one does.
    let anyone = || "new".parse::<InstanceId>().map_err(io::Error::other);
    let instance = Layout(dir).known_instance()?.map_or_else(anyone, Ok)?;
    network::collisions(&instance, dir)
}

/// Each name server of the host, and why it gives no answers.
pub async fn resolvers() -> Vec<(String, Option<String>)> {
    let answers = network::try_resolvers(Resolvers::Host).await.into_iter();
    answers.map(|(address, answer)| (address.to_string(), answer.err().map(|error| error.to_string()))).collect()
}

/// Flows one guest may have, all of which count on the host's table.
pub const MAX_FLOWS: u32 = network::MAX_FLOWS;

/// An error with its causes.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use memory::{Manifest, StateFile};
    use sha2::{Digest as _, Sha256};
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn generation(generations: &Path, compatibility: &str) -> Uuid {
        let (id, state) = (Uuid::now_v7(), b"state");
        let dir = generations.join(id.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::File::create(dir.join("memory")).unwrap().set_len(4096).unwrap();
        std::fs::write(dir.join("state"), state).unwrap();
        let manifest = Manifest {
            format: memory::FORMAT,
            id,
            parent: None,
            created_unix_ms: 1,
            memory_bytes: 4096,
            compatibility: compatibility.to_owned(),
            labels: BTreeMap::new(),
            state: Some(StateFile { bytes: 5, sha256: hex::encode(Sha256::digest(state)) }),
            disk_bytes: None,
            fragments: 0,
            extents: Vec::new(),
        };
        std::fs::write(dir.join("manifest.json"), manifest.encode().unwrap()).unwrap();
        id
    }

    #[test]
    fn capsules_saved_by_another_class_are_found() {
        let pool = tempfile::tempdir().unwrap();
        assert_eq!(unloadable_in(pool.path(), "here").unwrap(), Unloadable::default());
        let (generations, draft) = (pool.path().join("generations"), pool.path().join("generations/.draft-x"));
        std::fs::create_dir_all(&draft).unwrap();
        let records = Records::open(pool.path().join("capsules")).unwrap();
        let [ours, theirs, damaged, running] = std::array::from_fn(|_| CapsuleId::random());
        for (id, compatibility) in [(ours, "here"), (theirs, "elsewhere")] {
            let generation = generation(&generations, compatibility);
            records.draft(&Record { id, ..Record::sample(Place::Paused { generation }) }).unwrap().commit().unwrap();
        }
        let generation = Uuid::nil();
        records
            .draft(&Record { id: damaged, ..Record::sample(Place::Paused { generation }) })
            .unwrap()
            .commit()
            .unwrap();
        let place = Place::Running { vm: Uuid::nil(), slot: 1, base: None, resumed: false, booted: false };
        records.draft(&Record { id: running, ..Record::sample(place) }).unwrap().commit().unwrap();
        let expected = Unloadable { foreign: BTreeSet::from([theirs]), damaged: BTreeSet::from([damaged]) };
        assert_eq!(unloadable_in(pool.path(), "here").unwrap(), expected);
        assert!(draft.exists(), "it belongs to an agent that may run");
    }
}
