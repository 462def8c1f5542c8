//! A machine as its user describes it, and the command that becomes of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Tier, limits};

/// One machine. Everything a saved state depends on must be the same when it is loaded again: sizes, and which of the
/// optional devices exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Guest memory, a whole number of MiB; the length of `memory`.
    pub memory_bytes: u64,
    /// Guest memory to begin with.
    pub memory: Memory,
    /// Root disk, raw and writable: `/dev/vda`.
    pub root_disk: PathBuf,
    /// Kernel modules, raw and read-only: `/dev/vdb`.
    pub modules_disk: Option<PathBuf>,
    /// Network card.
    pub network: Option<Nic>,
    /// Directory of the VMM's sockets, private to this machine; the VMM's own where it is confined and needs one.
    pub runtime_dir: PathBuf,
    /// What is left to the VMM once a guest runs; all its starter has, otherwise.
    pub confinement: Option<Confinement>,
}

/// The rights of a VMM, in case its guest breaks out into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Nobody else's user.
    pub user: User,
    /// An empty directory: the root of what it sees of the file system. QEMU enters it once it has opened its files; Firecracker, which
    /// opens files as long as it runs, finds those it may open in there (see [`Jail`]).
    pub root: PathBuf,
}

/// A user and group, by number: they need no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id, the only one.
    pub gid: u32,
}

/// Where guest memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// A file, mapped privately and never written.
    File(PathBuf),
    /// Whoever listens on this socket, which is named relative to the machine's directory, brings each page when it is touched.
    /// For machines that load a state; Firecracker only.
    Pager(PathBuf),
}

/// A network card on a TAP device that exists in the network namespace the VMM runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Name of the TAP device.
    pub tap: String,
    /// Address the guest sees.
    pub mac: Mac,
}

/// An Ethernet address, `02:fc:00:00:00:05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

impl FromStr for Mac {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| SpecError::Mac(text.to_owned()))
    }
}

impl TryFrom<String> for Mac {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// What a machine begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A kernel.
    Boot(BootSource),
    /// A saved device state, given later with [`crate::Machine::load`].
    Load,
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSource {
    /// Kernel image in the form the VMM wants: an ELF; QEMU also takes a bzImage, more slowly.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initramfs: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
}

/// A VMM process to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// What it runs machines on.
    #[serde(default)]
    pub tier: Tier,
    /// Program, looked up in `PATH` when it has no slash.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Directory it runs in: sockets are named relative to it, since a socket's path has 107 bytes (unix(7)).
    pub cwd: PathBuf,
    /// What it is shut up in; it has all its starter has, otherwise.
    pub jail: Option<Jail>,
}

/// All that a VMM sees of the file system, each thing at the path it has outside, and whom it runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// Nobody else's user.
    pub user: User,
    /// An empty directory, to become its root.
    pub root: PathBuf,
    /// Files and directories that are to be the user's.
    pub own: Vec<PathBuf>,
    /// What it may only read or execute.
    pub read: Vec<PathBuf>,
    /// Devices.
    pub devices: Vec<PathBuf>,
}

/// Why there can be no such machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// None, or more than anyone wants.
    #[error("a machine has 1 to {max} virtual CPUs, not {0}", max = limits::VCPUS)]
    Vcpus(u32),
    /// Not a whole number of MiB.
    #[error("guest memory must be a whole number of MiB, not {0} bytes")]
    Memory(u64),
    /// VMMs take paths as text.
    #[error("path {0:?} is not UTF-8")]
    Path(PathBuf),
    /// Not the name of a network device.
    #[error("{0:?} is not the name of a network device")]
    Tap(String),
    /// QEMU.
    #[error("QEMU takes guest memory from a file only")]
    Pager,
    /// Not six bytes.
    #[error("{0:?} is not an Ethernet address")]
    Mac(String),
    /// Too long for the boot protocol, or not one line.
    #[error("the kernel command line is longer than {max} bytes or not one line", max = limits::CMDLINE_BYTES)]
    Cmdline,
}

impl MachineSpec {
    /// Checks what every VMM would refuse, and what could be taken for something else in its arguments.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        if !(1..=limits::VCPUS).contains(&self.vcpus) {
            return Err(SpecError::Vcpus(self.vcpus));
        }
        if self.memory_bytes == 0 || !self.memory_bytes.is_multiple_of(1 << 20) {
            return Err(SpecError::Memory(self.memory_bytes));
        }
        // IFNAMSIZ is 16 with the terminator; the kernel forbids '/' and white space (dev_valid_name).
        let valid = |name: &str| {
            !name.is_empty()
                && name.len() < 16
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match &self.network {
            Some(nic) if !valid(&nic.tap) => Err(SpecError::Tap(nic.tap.clone())),
            _ => Ok(()),
        }
    }
}

impl BootSource {
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let one_line = !self.cmdline.bytes().any(|byte| byte.is_ascii_control());
        (one_line && self.cmdline.len() <= limits::CMDLINE_BYTES).then_some(()).ok_or(SpecError::Cmdline)
    }
}

pub(crate) fn text(path: &Path) -> Result<&str, SpecError> {
    path.to_str().ok_or_else(|| SpecError::Path(path.to_owned()))
}
