//! How an agent is set up, and where its files are.

use hostlink::Callback;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which VMM to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VmmChoice {
    /// The strongest that really boots the guest kernel here.
    #[default]
    Auto,
    /// Firecracker or nothing.
    Firecracker,
    /// QEMU, with KVM where that works.
    Qemu,
}

impl FromStr for VmmChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Firecracker),
            "qemu" => Ok(Self::Qemu),
            other => Err(format!("WRENN_VMM is `{other}`; use `auto`, `firecracker` or `qemu`")),
        }
    }
}

/// Which VMM to use, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmmOptions {
    /// Which.
    pub choice: VmmChoice,
    /// The Firecracker, if it is not in `PATH`.
    pub firecracker: Option<PathBuf>,
}

/// Options of an agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data directory, `$WRENN_DIR`.
    pub dir: PathBuf,
    /// The program that serves as keeper: it is run as `PROGRAM keeper`.
    pub program: PathBuf,
    /// The static guest daemon.
    pub envd: PathBuf,
    /// Where the kernel and the packages of the root file system come from.
    pub source: image::Source,
    /// Which VMM to use.
    pub vmm: VmmOptions,
    /// VMs kept ready per class in use; `None` = by tier: 1 under emulation, 0 otherwise.
    pub ready_vms: Option<usize>,
    /// Where to report ends nobody asked for.
    pub callback: Option<Callback>,
}

/// Paths under a data directory.
#[derive(Debug, Clone)]
pub struct Layout<'a>(pub &'a Path);

impl Layout<'_> {
    /// The agent's RPC socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("run/agent.sock")
    }

    /// Undelivered events.
    pub fn events(&self) -> PathBuf {
        self.0.join("events")
    }

    /// There while the host is being emptied or stays empty.
    pub fn draining(&self) -> PathBuf {
        self.0.join("draining")
    }

    /// Remembered tier of this host.
    pub fn tier(&self) -> PathBuf {
        self.0.join("tier.json")
    }

    /// The pool's directory.
    pub fn pool(&self) -> PathBuf {
        self.0.join("pool")
    }

    /// The id that keeps two instances on one host apart, made at the first start.
    pub fn instance(&self) -> io::Result<network::InstanceId> {
        const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        if let Some(instance) = self.known_instance()? {
            return Ok(instance);
        }
        let bytes: [u8; 5] = rand::random();
        let id: String = bytes.iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect();
        crate::durable::replace(self.0.join("instance"), id.as_bytes())?;
        id.parse().map_err(io::Error::other)
    }

    /// That id, if there has been a start.
    pub fn known_instance(&self) -> io::Result<Option<network::InstanceId>> {
        let path = self.0.join("instance");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
        text.trim().parse().map(Some).map_err(damaged)
    }
}

/// Control group of an instance's VMMs.
pub fn groups(instance: &network::InstanceId) -> String {
    format!("wrenn-{instance}")
}

/// Directory of the sockets of an instance's VMs: in memory, and short.
pub fn runtime_dir(instance: &network::InstanceId) -> PathBuf {
    Path::new("/run/wrenn").join(instance.to_string())
}
