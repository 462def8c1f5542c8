//! A real Firecracker (`WRENN_FIRECRACKER` or in `PATH`) under a keeper, with a guest that finds out if a byte of its memory
//! is wrong.
#![allow(dead_code, reason = "every test takes what it needs")]

#[path = "../../../vmm/tests/firecracker/guest.rs"]
mod guest;
#[path = "../../../vmm/tests/firecracker/real.rs"]
mod real;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keeper::{Keeper, KeeperSpec, Launcher, PAGER, PagerSpec};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use vmm::firecracker::Firecracker;
use vmm::{BootSource, Confinement, Machine, MachineSpec, Memory, Since, Start, User, Vmm};

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The emulated kernel mode of some clouds runs a guest at a hundredth of its speed.
pub const PATIENCE: Duration = Duration::from_mins(2);
pub const MEMORY_BYTES: u64 = 64 << 20;

/// The Firecracker to test with.
pub fn firecracker() -> Result<Option<Firecracker>> {
    real::firecracker("a program in its place is brought its memory all the same")
}

/// A Firecracker under a keeper.
pub struct Vm {
    pub keeper: Keeper,
    pub machine: Box<dyn Machine>,
    pub spec: MachineSpec,
    console: BufReader<UnixStream>,
    pub dir: TempDir,
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.keeper.request_end();
    }
}

impl Vm {
    /// With all rights of the test's.
    pub async fn start(
        firecracker: &Firecracker,
        memory: Memory,
        pager: Option<PagerSpec>,
        start: &Start,
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let spec = spec(dir.path(), dir.path(), memory, None)?;
        let command = firecracker.command(&spec, start)?;
        let keeper_spec = keeper_spec(dir.path(), command, pager);
        Self::launch(firecracker, dir, spec, &keeper_spec).await
    }

    /// As this user, in a jail.
    pub async fn jailed(firecracker: &Firecracker, user: User, memory: Memory, start: &Start) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let [root, keeper, vmm] = ["root", "keeper", "vmm"].map(|name| dir.path().join(name));
        for dir in [&root, &keeper, &vmm] {
            fs::create_dir(dir)?;
        }
        let spec = spec(dir.path(), &vmm, memory, Some(Confinement { user, root }))?;
        let command = firecracker.command(&spec, start)?;
        Self::launch(firecracker, dir, spec, &keeper_spec(&keeper, command, None)).await
    }

    async fn launch(firecracker: &Firecracker, dir: TempDir, spec: MachineSpec, keeper: &KeeperSpec) -> Result<Self> {
        let keeper = Launcher::new(program()).launch(keeper).await?;
        let console = keeper::console(keeper.dir()).await?.output;
        let machine = tokio::select! {
            machine = firecracker.connect(&spec.runtime_dir, PATIENCE) => machine?,
            exit = keeper.wait_exit() => return Err(format!("it ended: {exit:?}").into()),
        };
        Ok(Self { keeper, machine, spec, console, dir })
    }

    /// One whose memory the keeper brings from `memory`.
    pub async fn paged(firecracker: &Firecracker, memory: &Path, working_set: Option<PathBuf>) -> Result<Self> {
        let pager = PagerSpec { memory: memory.to_owned(), working_set };
        Self::start(firecracker, Memory::Pager(PAGER.into()), Some(pager), &Start::Load).await
    }

    /// Waits until it has said so many rounds; answers how many.
    pub async fn reaches(&mut self, rounds: u64) -> Result<u64> {
        let reach = async {
            let mut said = 0;
            while said < rounds {
                let mut line = String::new();
                if self.console.read_line(&mut line).await? == 0 {
                    return Err(format!("its console ended after {said} rounds").into());
                }
                said = said.max(guest::rounds_said(&line)?);
            }
            Ok(said)
        };
        tokio::time::timeout(PATIENCE, reach).await?
    }

    pub async fn saved(&self, dir: &Path, base: Option<&Path>) -> Result<Saved> {
        self.machine.pause().await?;
        let saved = Saved { state: dir.join("state"), memory: dir.join("memory") };
        match base {
            Some(base) => drop(fs::copy(base, &saved.memory)?),
            None => File::create(&saved.memory)?.set_len(MEMORY_BYTES)?,
        }
        self.machine.save(&self.spec, &saved.state, &saved.memory, Since::Start).await?;
        Ok(saved)
    }
}

#[derive(Debug, Clone)]
pub struct Saved {
    pub state: PathBuf,
    pub memory: PathBuf,
}

impl Saved {
    pub fn rounds(&self) -> Result<u64> {
        Ok(guest::rounds_in(&fs::read(&self.memory)?)?)
    }
}

fn spec(dir: &Path, runtime_dir: &Path, memory: Memory, confinement: Option<Confinement>) -> Result<MachineSpec> {
    let root_disk = dir.join("disk.raw");
    File::create(&root_disk)?.set_len(1 << 20)?;
    Ok(MachineSpec {
        vcpus: 1,
        memory_bytes: MEMORY_BYTES,
        memory,
        root_disk,
        modules_disk: None,
        network: None,
        runtime_dir: runtime_dir.to_owned(),
        confinement,
    })
}

/// A guest that counts, to be booted.
pub fn source(dir: &Path) -> Result<BootSource> {
    let (kernel, initramfs) = (dir.join("guest"), dir.join("initramfs"));
    guest::write(&kernel)?;
    fs::write(&initramfs, [0; 4096])?;
    Ok(BootSource { kernel, initramfs, cmdline: "console=ttyS0".to_owned() })
}

/// A machine that has run for a while, saved; the same for all tests.
pub async fn base(firecracker: &Firecracker) -> Result<&'static Saved> {
    static BASE: OnceCell<(TempDir, Saved)> = OnceCell::const_new();
    let make = async || -> Result<_> {
        let dir = tempfile::tempdir()?;
        let source = source(dir.path())?;
        let start = Start::Boot(source.clone());
        let mut vm = Vm::start(firecracker, Memory::File("/".into()), None, &start).await?;
        vm.machine.boot(&vm.spec, &source).await?;
        vm.reaches(70).await?;
        let saved = vm.saved(dir.path(), None).await?;
        vm.keeper.kill().await?;
        Ok((dir, saved))
    };
    Ok(&BASE.get_or_try_init(make).await?.1)
}

pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_wrenn-keeper"))
}

pub fn keeper_spec(dir: &Path, command: vmm::Command, pager: Option<PagerSpec>) -> KeeperSpec {
    KeeperSpec { dir: dir.to_owned(), command, network_namespace: None, cgroup: None, oom_score_adj: 0, pager }
}
