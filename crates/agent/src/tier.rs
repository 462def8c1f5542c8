//! Which VMM this host really has. The answer is remembered per boot of the host and version of QEMU: finding out that
//! a `/dev/kvm` does not work takes until a time limit.

use crate::options::VmmChoice;
use serde::{Deserialize, Serialize};
use std::path::Path;
use vmm::Vmm;
use vmm::qemu::{Accelerator, ProbeError, Qemu};

/// The device that promises nothing.
pub const KVM: &str = "/dev/kvm";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    qemu_version: String,
    kvm: bool,
}

/// The VMM to use, and its version. `kernel` is a bzImage to try KVM with.
pub async fn choose(choice: VmmChoice, kernel: &Path, memory: &Path) -> Result<(Box<dyn Vmm>, String), ProbeError> {
    // Both mean QEMU until there is another driver.
    let (VmmChoice::Auto | VmmChoice::Qemu) = choice;
    let known = recall(memory)?;
    let qemu = if known.kvm.is_none() { probe(kernel, memory).await? } else { known.qemu };
    let version = version(&qemu);
    Ok((Box::new(qemu), version))
}

/// The QEMU of this host, and whether a guest boots with KVM; none: nobody has tried since the host has booted.
pub struct Known {
    pub qemu: Qemu,
    pub kvm: Option<bool>,
}

impl Known {
    /// After a trial.
    pub fn tried(qemu: Qemu) -> Self {
        let kvm = Some(qemu.tier() == vmm::Tier::QemuKvm);
        Self { qemu, kvm }
    }
}

/// What is remembered.
pub fn recall(memory: &Path) -> Result<Known, ProbeError> {
    let emulated = Qemu::find(None, Accelerator::Tcg)?;
    let known = std::fs::read(memory).ok().and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    let known = known.filter(|known| known.boot_id == boot_id() && known.qemu_version == version(&emulated));
    let kvm = known.map(|known| known.kvm);
    let qemu = if kvm == Some(true) { Qemu::find(None, Accelerator::Kvm)? } else { emulated };
    Ok(Known { qemu, kvm })
}

/// Tries KVM and remembers the answer, which may take ten seconds.
pub async fn probe(kernel: &Path, memory: &Path) -> Result<Qemu, ProbeError> {
    let qemu = vmm::qemu::probe(None, kernel).await?;
    // A host without the device has to be asked again: its module may be loaded any time, and the answer takes no time.
    if Path::new(KVM).exists() {
        let kvm = qemu.tier() == vmm::Tier::QemuKvm;
        remember(memory, &Remembered { boot_id: boot_id(), qemu_version: version(&qemu), kvm });
    }
    Ok(qemu)
}

/// For people.
pub fn version(qemu: &Qemu) -> String {
    format!("qemu {}.{}", qemu.version().0, qemu.version().1)
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn remember(memory: &Path, what: &Remembered) {
    let written =
        serde_json::to_vec(what).map_err(std::io::Error::from).and_then(|bytes| std::fs::write(memory, bytes));
    if let Err(error) = written {
        tracing::warn!(%error, "the tier is not remembered; the next start tries again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_tried_is_remembered_for_this_boot_and_version() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, memory) = (dir.path().join("kernel"), dir.path().join("tier.json"));
        std::fs::write(&kernel, "nothing that boots").unwrap();
        let recalled = || recall(&memory).unwrap().kvm;
        assert_eq!(recalled(), None);

        let qemu = probe(&kernel, &memory).await.unwrap();
        assert_eq!(qemu.tier(), vmm::Tier::QemuTcg);
        // A device that comes later is asked.
        assert_eq!(recalled(), Path::new(KVM).exists().then_some(false));

        let truth = Remembered { boot_id: boot_id(), qemu_version: version(&qemu), kvm: true };
        remember(&memory, &truth);
        let known = recall(&memory).unwrap();
        assert_eq!((known.kvm, known.qemu.tier()), (Some(true), vmm::Tier::QemuKvm));
        remember(&memory, &Remembered { boot_id: "another".to_owned(), ..truth });
        assert_eq!(recalled(), None);
        std::fs::write(&memory, "{").unwrap();
        assert_eq!(recalled(), None);
    }
}
