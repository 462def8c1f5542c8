//! The Firecracker driver: what it sends, and, where there is a Firecracker (`WRENN_FIRECRACKER` or in `PATH`) and a
//! `/dev/kvm`, what becomes of a guest's memory.
#![allow(clippy::missing_panics_doc, missing_docs)]

mod guest;
mod real;
mod requests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::spawn::{Process, Spawn, Stream};
use tempfile::TempDir;
use vmm::firecracker::Firecracker;
use vmm::{BootSource, Machine, MachineSpec, Memory, Since, Start, Status, Trouble, Vmm};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The emulated kernel mode of some clouds runs a guest at a hundredth of its speed.
const PATIENCE: Duration = Duration::from_mins(2);
const MEMORY_BYTES: u64 = 64 << 20;

/// The Firecracker to test with.
fn firecracker() -> Result<Option<Firecracker>> {
    real::firecracker("its requests are compared all the same")
}

/// A Firecracker with a machine in a directory of its own; killed when dropped.
struct Vm {
    process: Process,
    machine: Box<dyn Machine>,
    spec: MachineSpec,
    dir: TempDir,
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Vm {
    async fn start(firecracker: &Firecracker, memory: &Path, start: impl Fn(&Path) -> Start) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let disk = dir.path().join("disk.raw");
        File::create(&disk)?.set_len(1 << 20)?;
        let spec = MachineSpec {
            vcpus: 1,
            memory_bytes: MEMORY_BYTES,
            memory: Memory::File(memory.to_owned()),
            root_disk: disk,
            modules_disk: None,
            network: None,
            runtime_dir: dir.path().to_owned(),
            confinement: None,
        };
        let command = firecracker.command(&spec, &start(dir.path()))?;
        let process = Spawn::new(&command.program)
            .args(&command.args)
            .cwd(&command.cwd)
            .stdout(Stream::Fd(File::create(dir.path().join("console"))?.into()))
            .stderr(Stream::Inherit)
            .spawn()?;
        let machine = firecracker.connect(dir.path(), PATIENCE).await?;
        Ok(Self { process, machine, spec, dir })
    }

    async fn booted(firecracker: &Firecracker) -> Result<Self> {
        let source = |dir: &Path| BootSource {
            kernel: dir.join("guest"),
            initramfs: dir.join("initramfs"),
            cmdline: "console=ttyS0".to_owned(),
        };
        let vm = Self::start(firecracker, Path::new("/"), |dir| Start::Boot(source(dir))).await?;
        let source = source(vm.dir.path());
        guest::write(&source.kernel)?;
        fs::write(&source.initramfs, [0; 4096])?;
        assert_eq!(vm.machine.status().await?, Status::Waiting);
        vm.machine.boot(&vm.spec, &source).await?;
        Ok(vm)
    }

    async fn loaded(firecracker: &Firecracker, saved: &Saved) -> Result<Self> {
        let vm = Self::start(firecracker, &saved.memory, |_| Start::Load).await?;
        vm.machine.load(&vm.spec, &saved.state).await?;
        assert_eq!(vm.machine.status().await?, Status::Paused);
        vm.machine.resume().await?;
        Ok(vm)
    }

    /// Waits until it has said so many rounds; answers how many.
    async fn reaches(&self, rounds: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let console = fs::read(self.dir.path().join("console"))?;
            let said = guest::rounds_said(&String::from_utf8_lossy(&console))?;
            if said >= rounds {
                return Ok(said);
            }
            assert!(Instant::now() < deadline, "{said} rounds instead of {rounds}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops it and saves it with a clone of `base`, or of nothing.
    async fn saved(&self, base: Option<&Path>) -> Result<Saved> {
        self.saved_since(Since::Start, base).await
    }

    async fn saved_since(&self, since: Since, base: Option<&Path>) -> Result<Saved> {
        self.machine.pause().await?;
        let saved = Saved::beside(base)?;
        self.machine.save(&self.spec, &saved.state, &saved.memory, since).await?;
        Ok(saved)
    }
}

/// A saved machine.
struct Saved {
    state: PathBuf,
    memory: PathBuf,
    _dir: TempDir,
}

impl Saved {
    fn beside(base: Option<&Path>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (state, memory) = (dir.path().join("state"), dir.path().join("memory"));
        match base {
            Some(base) => drop(fs::copy(base, &memory)?),
            None => File::create(&memory)?.set_len(MEMORY_BYTES)?,
        }
        Ok(Self { state, memory, _dir: dir })
    }

    fn rounds(&self) -> Result<u64> {
        Ok(guest::rounds_in(&fs::read(&self.memory)?)?)
    }
}

#[tokio::test]
async fn a_saved_machine_is_whole_and_goes_on() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let vm = Vm::booted(&firecracker).await?;
    let said = vm.reaches(70).await?;
    let first = vm.saved(None).await?;
    let at_first = first.rounds()?;
    assert!(at_first >= said, "{at_first} rounds in memory, {said} on the console");

    // Its clone begins where it stopped, and so does a clone of the clone.
    let clone = Vm::loaded(&firecracker, &first).await?;
    clone.reaches(at_first + 30).await?;
    let second = clone.saved(Some(&first.memory)).await?;
    let at_second = second.rounds()?;
    assert!(at_second >= at_first + 30);
    let last = Vm::loaded(&firecracker, &second).await?;
    assert!(last.reaches(at_second + 10).await? >= at_second + 10);
    // What it wrote is nowhere but in its own memory.
    assert_eq!((first.rounds()?, second.rounds()?), (at_first, at_second));
    Ok(())
}

#[tokio::test]
async fn a_machine_that_goes_on_after_a_save_can_be_saved_again() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let vm = Vm::booted(&firecracker).await?;
    vm.reaches(10).await?;
    let base = vm.saved(None).await?;
    let clone = Vm::loaded(&firecracker, &base).await?;
    let before = base.rounds()?;
    clone.reaches(before + 5).await?;
    // As when the rest of a pause fails: what was written is thrown away, and the next save is of the same memory.
    drop(clone.saved(Some(&base.memory)).await?);
    clone.machine.resume().await?;
    clone.reaches(before + 10).await?;
    let again = clone.saved(Some(&base.memory)).await?;
    assert!(again.rounds()? >= before + 10);
    let state = tempfile::tempdir()?;
    let failed = clone.machine.save(&clone.spec, &state.path().join("no/state"), &again.memory, Since::Save).await;
    assert!(failed.is_err());
    clone.machine.resume().await?;
    clone.reaches(again.rounds()? + 5).await?;
    let mut last = clone.saved(Some(&base.memory)).await?;
    assert!(last.rounds()? >= again.rounds()? + 5);
    // From a save on the next ones need only what changed since, as long as each succeeds.
    for _ in 0..3 {
        clone.machine.resume().await?;
        let before = last.rounds()?;
        clone.reaches(before + 40).await?;
        last = clone.saved_since(Since::Save, Some(&last.memory)).await?;
        assert!(last.rounds()? >= before + 40);
    }
    let at_last = last.rounds()?;
    assert!(Vm::loaded(&firecracker, &last).await?.reaches(at_last + 10).await? >= at_last + 10);
    Ok(())
}

#[tokio::test]
async fn a_state_that_does_not_fit_is_refused_and_an_end_is_noticed() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let mut vm = Vm::booted(&firecracker).await?;
    vm.reaches(3).await?;
    let saved = vm.saved(None).await?;
    let mut state = fs::read(&saved.state)?;
    if let Some(byte) = state.last_mut() {
        *byte ^= 1;
    }
    fs::write(&saved.state, state)?;
    let refused = Vm::loaded(&firecracker, &saved).await.err().ok_or("a damaged state was loaded")?;
    assert!(refused.to_string().contains("CRC64"), "{refused}");

    let (trouble, killed) = tokio::join!(vm.machine.trouble(), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        vm.process.kill()
    });
    killed?;
    assert_eq!(trouble, Trouble::Gone);
    assert!(vm.machine.status().await.is_err());
    Ok(())
}
