//! Real machines for the tests: test guest, memory, disk, keeper and VMM put together as the agent does.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keeper::{Keeper, KeeperSpec, Launcher};
use memory::{Base, Draft, Generation, SaveReport, Seal};
use sys::spawn::Spawn;
use tokio::io::AsyncBufReadExt;
use vmm::qemu::{Accelerator, Qemu};
use vmm::{BootSource, Confinement, Machine, MachineSpec, Memory, Since, Start, User, Vmm};

pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

pub const MEMORY_BYTES: u64 = 256 << 20;

/// One guest step, or a boot, on a loaded machine without hardware virtualisation.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The directory with bzImage, initramfs, rootfs.img and modules.img.
fn artifacts() -> Result<PathBuf> {
    let dir = std::env::var_os("WRENN_TEST_ARTIFACTS")
        .ok_or("WRENN_TEST_ARTIFACTS is not set: run the tests with `cargo xtask test`")?;
    let dir = PathBuf::from(dir);
    for file in ["bzImage", "initramfs", "modules.img"] {
        if !dir.join(file).is_file() {
            return Err(format!("{} has no {file}: run `cargo xtask test`, which makes it", dir.display()).into());
        }
    }
    Ok(dir)
}

/// The initramfs with the test guest's init added: the kernel unpacks archives that follow one another.
fn initramfs(artifacts: &Path) -> Result<&'static Path> {
    static MADE: OnceLock<std::result::Result<(tempfile::TempDir, PathBuf), String>> = OnceLock::new();
    let made = MADE.get_or_init(|| make_initramfs(artifacts).map_err(|error| error.to_string()));
    Ok(&made.as_ref().map_err(String::as_str)?.1)
}

fn make_initramfs(artifacts: &Path) -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let (guest, archive) = (dir.path().join("guest"), dir.path().join("initramfs"));
    let source = Path::new("tests/guest/guest.rs");
    let output = Spawn::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .inherit_env()
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .args([guest.as_path(), source])
        .output()?;
    if !output.exit.success() {
        return Err(format!("the test guest does not compile: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let mut bytes = fs::read(artifacts.join("initramfs"))?;
    // Each archive begins on a multiple of four bytes (buffer-format.rst).
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let entry = cpio::newc::Builder::new("guest").mode(0o100_755);
    let content = fs::File::open(&guest)?;
    bytes.extend(cpio::write_cpio([(entry, content)].into_iter(), Vec::new())?);
    fs::write(&archive, bytes)?;
    Ok((dir, archive))
}

/// User and group of the VMMs.
pub const UID: u32 = 0x7ABC_DEF0;

/// A host: one VMM, one pool directory.
pub struct Host {
    pub vmm: Arc<dyn Vmm>,
    pub pool: tempfile::TempDir,
    artifacts: PathBuf,
}

/// A machine that runs, or is ready to.
pub struct Guest {
    machine: Option<Box<dyn Machine>>,
    pub keeper: Keeper,
    pub base: Base,
    pub spec: MachineSpec,
    console: tokio::io::BufReader<tokio::net::UnixStream>,
}

impl Host {
    pub fn new() -> Result<Self> {
        let program = std::env::var_os("WRENN_TEST_QEMU").map(PathBuf::from);
        let vmm = Arc::new(Qemu::find(program.as_deref(), Accelerator::Tcg)?);
        Ok(Self { vmm, pool: tempfile::tempdir()?, artifacts: artifacts()? })
    }

    /// First template boot: kernel, memory of zeros, an empty disk.
    pub async fn boot(&self, name: &str) -> Result<Guest> {
        self.boot_with_disk(name, &self.pool.path().join(format!("{name}.img"))).await
    }

    /// The same with the disk, made here, at a certain place.
    pub async fn boot_with_disk(&self, name: &str, disk: &Path) -> Result<Guest> {
        let dir = self.machine_dir(name)?;
        fs::File::create(disk)?.set_len(4 << 20)?;
        let base = Base::create_zero(&dir.join("memory"), MEMORY_BYTES)?;
        let source = BootSource {
            kernel: self.artifacts.join("bzImage"),
            initramfs: initramfs(&self.artifacts)?.to_owned(),
            cmdline: format!("console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/guest {}", self.vmm.cmdline()),
        };
        let guest = self.start(base, dir, disk.to_owned(), &Start::Boot(source.clone())).await?;
        guest.machine().boot(&guest.spec, &source).await?;
        Ok(guest)
    }

    /// A machine from a generation, loaded and stopped.
    pub async fn restore(&self, name: &str, generation: &Arc<Generation>) -> Result<Guest> {
        let dir = self.machine_dir(name)?;
        let disk = dir.join("disk.img");
        disk::clone_file(&generation.disk_path().ok_or("no disk")?, &disk)?;
        let guest = self.start(Base::Generation(generation.clone()), dir, disk, &Start::Load).await?;
        guest.machine().load(&guest.spec, &generation.state_path()).await?;
        Ok(guest)
    }

    fn machine_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.pool.path().join(name);
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    async fn start(&self, base: Base, dir: PathBuf, root_disk: PathBuf, start: &Start) -> Result<Guest> {
        let spec = MachineSpec {
            vcpus: 1,
            memory_bytes: base.memory_bytes(),
            memory: Memory::File(base.memory_path()),
            root_disk,
            modules_disk: Some(self.artifacts.join("modules.img")),
            network: None,
            runtime_dir: dir.clone(),
            confinement: Some(confinement(&dir)?),
        };
        let command = self.vmm.command(&spec, start)?;
        let keeper = Launcher::new(keeper_program()).launch(&keeper_spec(dir.clone(), command)).await?;
        let console = keeper::console(&dir).await?.output;
        let machine = tokio::select! {
            machine = self.vmm.connect(&dir, vmm::limits::CONNECT) => machine?,
            exit = keeper.wait_exit() => return Err(format!("the VMM ended: {exit:?}").into()),
        };
        Ok(Guest { machine: Some(machine), keeper, base, spec, console })
    }

    /// Pause or snapshot: what differs becomes a new generation. The machine stays stopped.
    pub async fn save(&self, guest: &Guest) -> Result<(Arc<Generation>, SaveReport)> {
        let draft = Draft::begin(self.pool.path(), &guest.base)?;
        guest.machine().pause().await?;
        let (state, memory) = (draft.state_path(), draft.memory_path());
        guest.machine().save(&guest.spec, &state, &memory, Since::Start).await?;
        let dirty = self.vmm.dirty();
        disk::clone_file(&guest.spec.root_disk, &draft.disk_path())?;
        let pid = guest.keeper.vmm_pid();
        let seal = Seal { compatibility: self.vmm.compatibility("test").to_string(), ..Seal::default() };
        let saved = tokio::task::spawn_blocking(move || {
            let filled = match dirty {
                vmm::Dirty::InProcess => draft.copy_dirty(pid)?,
                vmm::Dirty::Written => draft.written_by_vmm()?,
            };
            filled.commit(seal)
        });
        let (generation, report) = saved.await??;
        Ok((Arc::new(Generation::open(generation.dir())?), report))
    }
}

/// A test that fails must not leave a machine behind: they outlive who started them.
impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.keeper.request_end();
    }
}

impl Guest {
    pub fn machine(&self) -> &dyn Machine {
        self.machine.as_deref().unwrap_or_else(|| unreachable!("taken only while reconnecting"))
    }

    /// What a restarted agent does: it knows the directory, and finds both processes through it.
    pub async fn reattach(&mut self, host: &Host) -> Result {
        // QEMU talks to one client at a time.
        self.machine = None;
        self.keeper = keeper::attach(&self.spec.runtime_dir)?.ok_or("the keeper is gone")?;
        self.machine = Some(host.vmm.connect(&self.spec.runtime_dir, vmm::limits::CONNECT).await?);
        Ok(())
    }

    /// Waits until the guest has finished one more step, and fails if it found its memory or disk changed.
    pub async fn next_step(&mut self) -> Result<u64> {
        let step = tokio::time::timeout(PATIENCE, self.read_step()).await.map_err(|_| "the guest makes no steps")??;
        step.ok_or_else(|| "the console ended".into())
    }

    /// Ends the machine and says which step was the last; the guest may have gone on until it was stopped.
    pub async fn end(mut self, mut last_step: u64) -> Result<u64> {
        self.keeper.kill().await?;
        while let Some(step) = self.read_step().await? {
            last_step = step;
        }
        Ok(last_step)
    }

    async fn read_step(&mut self) -> Result<Option<u64>> {
        let mut line = String::new();
        while self.console.read_line(&mut line).await? > 0 {
            match line.trim().split_once(' ') {
                // A line cut by a pause has its other half on the next machine's console; then a step is missed.
                Some(("step", number)) if line.ends_with('\n') => return Ok(Some(number.parse()?)),
                Some(("CORRUPT", what)) => return Err(format!("the guest found {what}").into()),
                _ => line.clear(),
            }
        }
        Ok(None)
    }
}

fn keeper_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_wrenn-keeper"))
}

fn keeper_spec(dir: PathBuf, command: vmm::Command) -> KeeperSpec {
    KeeperSpec { dir, command, network_namespace: None, cgroup: None, oom_score_adj: 0, pager: None }
}

/// As a platform runs its VMMs: as nobody, and in an empty directory.
fn confinement(dir: &Path) -> Result<Confinement> {
    let root = dir.join("empty");
    fs::create_dir(&root)?;
    Ok(Confinement { user: User { uid: UID, gid: UID }, root })
}
