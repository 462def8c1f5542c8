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
    Firecracker(Arc<firecracker::FindError>),
    /// The one every host can have.
    #[error("{0}; install it with `apt-get install qemu-system-x86`")]
    Qemu(Arc<qemu::FindError>),
    /// Asked for, and of no use here.
    #[error("the guests' kernel does not boot with {0}; WRENN_VMM=auto takes what works")]
    DoesNotBoot(String),
}

/// The VMMs of a host.
pub struct Vmms {
    /// Why there is no Firecracker.
    pub firecracker: Result<Firecracker, Arc<firecracker::FindError>>,
    /// Why there is no QEMU.
    pub qemu: Result<Qemu, Arc<qemu::FindError>>,
    choice: VmmChoice,
    /// Whether the Firecracker was named.
    named: bool,
}

impl Vmms {
    /// Looks for them. Blocks for some 100 ms.
    pub fn find(options: &VmmOptions) -> Self {
        Self {
            firecracker: Firecracker::find(options.firecracker.as_deref()).map_err(Arc::new),
            qemu: Qemu::find(None, Accelerator::Tcg).map_err(Arc::new),
            choice: options.choice,
            named: options.firecracker.is_some(),
        }
    }

    /// All of them, with every accelerator.
    pub fn all(&self) -> Vec<Arc<dyn Vmm>> {
        self.firecracker().into_iter().chain(self.qemu()).collect()
    }

    /// The VMM to use. `kernel` is the guests', an ELF; `memory` the file where trials are remembered.
    pub async fn choose(&self, kernel: &Path, memory: &Path) -> Result<Arc<dyn Vmm>, NoVmm> {
        let mut last = String::new();
        for vmm in self.candidates()? {
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

    /// The VMM that would be chosen; none if that is open until one is tried.
    pub fn foresee(&self, memory: &Path) -> Result<Option<Arc<dyn Vmm>>, NoVmm> {
        let mut last = String::new();
        for vmm in self.candidates()? {
            match recall(&*vmm, memory) {
                Some(true) => return Ok(Some(vmm)),
                Some(false) => last = vmm.title(),
                None => return Ok(None),
            }
        }
        Err(NoVmm::DoesNotBoot(last))
    }

    /// Those that may be chosen, strongest first.
    fn candidates(&self) -> Result<Vec<Arc<dyn Vmm>>, NoVmm> {
        match (self.choice, &self.firecracker, &self.qemu) {
            (VmmChoice::Firecracker, Err(error), _) => Err(NoVmm::Firecracker(error.clone())),
            // One that was named is meant.
            (VmmChoice::Auto, Err(error), _) if self.named => Err(NoVmm::Firecracker(error.clone())),
            // A Firecracker that works does without.
            (VmmChoice::Qemu, _, Err(error)) | (VmmChoice::Auto, Err(_), Err(error)) => Err(NoVmm::Qemu(error.clone())),
            (VmmChoice::Firecracker, Ok(_), _) => Ok(self.firecracker().into_iter().collect()),
            (VmmChoice::Qemu, _, Ok(_)) => Ok(self.qemu()),
            (VmmChoice::Auto, ..) => Ok(self.all()),
        }
    }

    fn firecracker(&self) -> Option<Arc<dyn Vmm>> {
        self.firecracker.as_ref().ok().map(|found| Arc::new(found.clone()) as Arc<dyn Vmm>)
    }

    fn qemu(&self) -> Vec<Arc<dyn Vmm>> {
        let with = |accelerator| self.qemu.as_ref().map(|qemu| Arc::new(qemu.with(accelerator)) as Arc<dyn Vmm>);
        [Accelerator::Kvm, Accelerator::Tcg].into_iter().filter_map(|accelerator| with(accelerator).ok()).collect()
    }
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
        let vmms = Vmms::find(&options);
        let foreseen = || vmms.foresee(&memory).unwrap().map(|vmm| vmm.tier());
        let device = Path::new(KVM).exists();
        let untried = if device { None } else { Some(Tier::QemuTcg) };
        assert_eq!(foreseen(), untried);
        let chosen = vmms.choose(&kernel, &memory).await.unwrap();
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
            let vmms = Vmms::find(&options);
            let chosen = vmms.choose(&kernel, &memory).await;
            if let Err(error) = &chosen {
                assert_eq!(
                    error.to_string(),
                    "the guests' kernel does not boot with firecracker 1.16.1; WRENN_VMM=auto takes what works"
                );
            }
            assert_eq!(chosen.map(|vmm| vmm.tier()).map_err(drop), expected, "{boots} {choice:?}");
            // Afterwards nothing has to be tried.
            let foreseen = vmms.foresee(&memory).map(|vmm| vmm.map(|vmm| vmm.tier()));
            assert_eq!(foreseen.map_err(drop), expected.map(Some), "{boots} {choice:?}");
        }
        for choice in [VmmChoice::Firecracker, VmmChoice::Auto] {
            let missing = VmmOptions { choice, firecracker: Some("/no/such".into()) };
            let error = Vmms::find(&missing).choose(Path::new("/"), Path::new("/")).await.unwrap_err();
            assert!(error.to_string().contains("WRENN_FIRECRACKER"), "{error}");
        }
    }
}
