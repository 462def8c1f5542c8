//! Which VMM this host really has: the strongest that boots the guests' kernel. What was tried is remembered per boot of the host and
//! version of the VMM: finding out that a `/dev/kvm` does not work takes until a time limit.

use crate::options::{VmmChoice, VmmOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use vmm::firecracker::{self, Firecracker};
use vmm::qemu::{self, Accelerator, Qemu};
use vmm::{Tier, Vmm};

/// The device that promises nothing.
pub const KVM: &str = "/dev/kvm";

/// Why there is no VMM.
#[derive(Debug, thiserror::Error)]
pub enum NoVmm {
    /// Asked for, and missing or too old.
    #[error("{0}; install a release of it as `firecracker` in PATH, or name it in WRENN_FIRECRACKER")]
    Firecracker(#[from] firecracker::FindError),
    /// The one every host can have.
    #[error("{0}; install it with `apt-get install qemu-system-x86`")]
    Qemu(#[from] qemu::FindError),
    /// Asked for, and of no use here.
    #[error("the guests' kernel does not boot with {0}; WRENN_VMM=auto takes what works")]
    DoesNotBoot(String),
}

/// The VMMs of a host.
pub struct Vmms {
    /// Why there is no Firecracker.
    pub firecracker: Result<Firecracker, firecracker::FindError>,
    /// Why there is no QEMU.
    pub qemu: Result<Qemu, qemu::FindError>,
}

impl Vmms {
    /// Looks for them. Blocks for some 100 ms.
    pub fn find(options: &VmmOptions) -> Self {
        Self {
            firecracker: Firecracker::find(options.firecracker.as_deref()),
            qemu: Qemu::find(None, Accelerator::Tcg),
        }
    }

    /// All of them, with every accelerator.
    pub fn all(self) -> Vec<Arc<dyn Vmm>> {
        let firecracker = self.firecracker.ok().map(|found| Arc::new(found) as Arc<dyn Vmm>);
        let accelerators = [Accelerator::Kvm, Accelerator::Tcg];
        let qemu = self.qemu.ok().map(|qemu| accelerators.map(|with| Arc::new(qemu.with(with)) as Arc<dyn Vmm>));
        firecracker.into_iter().chain(qemu.into_iter().flatten()).collect()
    }

    /// Those that may be chosen, strongest first.
    fn candidates(self, options: &VmmOptions) -> Result<Vec<Arc<dyn Vmm>>, NoVmm> {
        let choice = options.choice;
        let mut candidates: Vec<Arc<dyn Vmm>> = Vec::new();
        match (choice, self.firecracker) {
            (VmmChoice::Auto | VmmChoice::Firecracker, Ok(firecracker)) => candidates.push(Arc::new(firecracker)),
            (VmmChoice::Firecracker, Err(error)) => return Err(error.into()),
            // One that was named is meant.
            (VmmChoice::Auto, Err(error)) if options.firecracker.is_some() => return Err(error.into()),
            (VmmChoice::Auto, Err(error)) => tracing::debug!(%error, "no Firecracker"),
            (VmmChoice::Qemu, _) => {}
        }
        match (choice, self.qemu) {
            (VmmChoice::Firecracker, _) => {}
            (_, Ok(qemu)) => {
                candidates.push(Arc::new(qemu.with(Accelerator::Kvm)));
                candidates.push(Arc::new(qemu));
            }
            // A Firecracker that works does without.
            (_, Err(error)) if candidates.is_empty() => return Err(error.into()),
            (_, Err(error)) => tracing::debug!(%error, "no QEMU"),
        }
        Ok(candidates)
    }
}

/// The VMM to use. `kernel` is the guests', an ELF; `memory` the file where trials are remembered.
pub async fn choose(options: &VmmOptions, kernel: &Path, memory: &Path) -> Result<Arc<dyn Vmm>, NoVmm> {
    let mut last = String::new();
    for vmm in Vmms::find(options).candidates(options)? {
        let boots = match recall(&*vmm, memory) {
            Some(boots) => boots,
            None => attempt(&*vmm, kernel, memory).await,
        };
        if boots {
            note(vmm.tier(), memory);
            return Ok(vmm);
        }
        last = vmm.title();
    }
    Err(NoVmm::DoesNotBoot(last))
}

/// Says so when this host had a stronger one before: what was paused on that can only boot from its disk now.
fn note(tier: Tier, memory: &Path) {
    let mut trials = Trials::read(memory);
    if let Some(before) = trials.last.filter(|before| *before > tier) {
        tracing::warn!(%before, now = %tier, "capsules are isolated less than before on this host; `wrenn doctor` says why");
    }
    if trials.last != Some(tier) {
        trials.last = Some(tier);
        trials.write(memory);
    }
}

/// The VMM that would be chosen; none if that is open until one is tried.
pub fn foresee(options: &VmmOptions, memory: &Path) -> Result<Option<Arc<dyn Vmm>>, NoVmm> {
    let mut last = String::new();
    for vmm in Vmms::find(options).candidates(options)? {
        match recall(&*vmm, memory) {
            Some(true) => return Ok(Some(vmm)),
            Some(false) => last = vmm.title(),
            None => return Ok(None),
        }
    }
    Err(NoVmm::DoesNotBoot(last))
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Trials {
    boot_id: String,
    /// Whether a guest boots, by tier and version.
    boots: BTreeMap<String, bool>,
    /// What capsules ran on last, also before that boot.
    #[serde(default)]
    last: Option<Tier>,
}

impl Trials {
    /// Those since the host booted.
    fn read(memory: &Path) -> Self {
        let trials = std::fs::read(memory).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let trials = trials.unwrap_or_default();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if trials.boot_id == boot_id { trials } else { Self { boot_id, boots: BTreeMap::new(), ..trials } }
    }

    fn write(&self, memory: &Path) {
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::from);
        if let Err(error) = bytes.and_then(|bytes| std::fs::write(memory, bytes)) {
            tracing::warn!(%error, "the tier is not remembered; the next start tries again");
        }
    }
}

fn key(vmm: &dyn Vmm) -> String {
    format!("{} ({})", vmm.tier(), vmm.title())
}

/// Whether it boots, as far as that is known without a trial.
fn recall(vmm: &dyn Vmm, memory: &Path) -> Option<bool> {
    match vmm.tier() {
        Tier::QemuTcg => Some(true),
        // Asked anew each time: its module may be loaded any time, and the answer takes no time.
        _ if !Path::new(KVM).exists() => Some(false),
        _ => Trials::read(memory).boots.get(&key(vmm)).copied(),
    }
}

/// Tries it and remembers the answer, if there is one.
async fn attempt(vmm: &dyn Vmm, kernel: &Path, memory: &Path) -> bool {
    match vmm.boots(kernel).await {
        Ok(boots) => {
            let mut trials = Trials::read(memory);
            trials.boots.insert(key(vmm), boots);
            trials.write(memory);
            boots
        }
        Err(error) => {
            tracing::warn!(vmm = %vmm.title(), %error, "it could not be tried, and is not used; the next start tries again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that says it is a Firecracker, and boots a kernel or not.
    fn firecracker(dir: &Path, boots: bool) -> std::path::PathBuf {
        let program = dir.join("firecracker");
        let says = if boots { "Unable to mount root fs" } else { "nothing" };
        let script = format!(
            "#!/bin/sh\ncase $1 in --version) echo Firecracker v1.16.1 ;; --snapshot-version) echo v5.0.0 ;; *) cat; echo {says} ;; esac\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[tokio::test]
    async fn what_was_tried_is_remembered_for_this_boot_and_version() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, memory) = (dir.path().join("kernel"), dir.path().join("trials.json"));
        std::fs::write(&kernel, "nothing that boots").unwrap();
        let options = VmmOptions { choice: VmmChoice::Qemu, firecracker: None };
        let foreseen = || foresee(&options, &memory).unwrap().map(|vmm| vmm.tier());
        let device = Path::new(KVM).exists();
        let untried = if device { None } else { Some(Tier::QemuTcg) };
        assert_eq!(foreseen(), untried);
        let chosen = choose(&options, &kernel, &memory).await.unwrap();
        assert_eq!(chosen.tier(), Tier::QemuTcg);
        assert_eq!(foreseen(), Some(Tier::QemuTcg));

        let other_boot = Trials { boot_id: "another".to_owned(), ..Trials::read(&memory) };
        std::fs::write(&memory, serde_json::to_vec(&other_boot).unwrap()).unwrap();
        assert_eq!(foreseen(), untried);
        std::fs::write(&memory, "{").unwrap();
        assert_eq!(foreseen(), untried);
    }

    #[tokio::test]
    async fn the_strongest_that_boots_is_chosen() {
        let device = Path::new(KVM).exists();
        for (boots, choice, expected) in [
            (true, VmmChoice::Auto, Ok(if device { Tier::Firecracker } else { Tier::QemuTcg })),
            (true, VmmChoice::Qemu, Ok(Tier::QemuTcg)),
            (true, VmmChoice::Firecracker, if device { Ok(Tier::Firecracker) } else { Err(()) }),
            (false, VmmChoice::Auto, Ok(Tier::QemuTcg)),
            (false, VmmChoice::Firecracker, Err(())),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (kernel, memory) = (dir.path().join("kernel"), dir.path().join("trials.json"));
            std::fs::write(&kernel, "nothing that boots").unwrap();
            let options = VmmOptions { choice, firecracker: Some(firecracker(dir.path(), boots)) };
            let chosen = choose(&options, &kernel, &memory).await;
            if let Err(error) = &chosen {
                assert_eq!(
                    error.to_string(),
                    "the guests' kernel does not boot with firecracker 1.16.1; WRENN_VMM=auto takes what works"
                );
            }
            assert_eq!(chosen.map(|vmm| vmm.tier()).map_err(drop), expected, "{boots} {choice:?}");
            // Afterwards nothing has to be tried.
            let foreseen = foresee(&options, &memory).map(|vmm| vmm.map(|vmm| vmm.tier()));
            assert_eq!(foreseen.map_err(drop), expected.map(Some), "{boots} {choice:?}");
        }
        for choice in [VmmChoice::Firecracker, VmmChoice::Auto] {
            let missing = VmmOptions { choice, firecracker: Some("/no/such".into()) };
            let error = choose(&missing, Path::new("/"), Path::new("/")).await.unwrap_err();
            assert!(error.to_string().contains("WRENN_FIRECRACKER"), "{error}");
        }
    }
}
