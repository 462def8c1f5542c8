//! Which VMM this host really has. The answer is remembered per boot of the host and version of QEMU: finding out that
//! a `/dev/kvm` does not work takes until a time limit.

use crate::options::VmmChoice;
use serde::{Deserialize, Serialize};
use std::path::Path;
use vmm::Vmm;
use vmm::qemu::{Accelerator, ProbeError, Qemu};

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
    let found = Qemu::find(None, Accelerator::Tcg)?;
    let version = format!("qemu {}.{}", found.version().0, found.version().1);
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = std::fs::read(memory).ok().and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    let known = known.filter(|known| known.boot_id == boot_id && known.qemu_version == version);
    let qemu = match known {
        Some(known) if known.kvm => Qemu::find(None, Accelerator::Kvm)?,
        Some(_) => found,
        None => {
            let qemu = vmm::qemu::probe(None, kernel).await?;
            let kvm = qemu.tier() == vmm::Tier::QemuKvm;
            remember(memory, &Remembered { boot_id, qemu_version: version.clone(), kvm });
            qemu
        }
    };
    Ok((Box::new(qemu), version))
}

fn remember(memory: &Path, what: &Remembered) {
    let written =
        serde_json::to_vec(what).map_err(std::io::Error::from).and_then(|bytes| std::fs::write(memory, bytes));
    if let Err(error) = written {
        tracing::warn!(%error, "the tier is not remembered; the next start tries again");
    }
}
