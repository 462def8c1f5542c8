//! Which saved states a VMM can load.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How strongly, and with what, guests are kept apart; weakest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// QEMU without hardware virtualisation; what a VM runs on of which that was not written down.
    #[default]
    QemuTcg,
    /// QEMU with KVM.
    QemuKvm,
    /// Firecracker with KVM.
    Firecracker,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QemuTcg => "qemu-tcg",
            Self::QemuKvm => "qemu-kvm",
            Self::Firecracker => "firecracker",
        })
    }
}

/// Everything a device state depends on. Two states are interchangeable exactly when these are equal, so it is kept
/// and compared as the text [`fmt::Display`] gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Compatibility {
    /// The VMM, and whether it emulates: their CPU states differ.
    pub tier: Tier,
    /// Snapshot format and our own arrangement of devices.
    pub format: String,
    /// Versioned machine type.
    pub machine_type: String,
    /// Named CPU model, and what the host makes of it.
    pub cpu_model: String,
    /// The guest kernel.
    pub kernel: String,
}

impl fmt::Display for Compatibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tier, format, machine_type, cpu_model, kernel } = self;
        write!(f, "{}/{tier}/{format}/{machine_type}/{cpu_model}/{kernel}", std::env::consts::ARCH)
    }
}
