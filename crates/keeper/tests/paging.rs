//! VMMs whose memory a keeper brings page by page: a small program in a VMM's place and, where there is a Firecracker
//! (`WRENN_FIRECRACKER` or in `PATH`) and a `/dev/kvm`, a guest that finds out if a byte of it is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod fc;

use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fc::{MEMORY_BYTES, PATIENCE, Result, Vm, base, firecracker, keeper_spec, program};
use keeper::{Cause, End, Launcher, PagerSpec};
use memory::pager::{MemoryFile, Pager, PagerError, Region, Source};
use tokio::io::Interest;
use tokio::net::UnixListener;
use vmm::{Memory, Start, Status};

/// Does what Firecracker does with a pager: its argument is the message and the descriptors, in Python. As in `ioctl_userfaultfd(2)`.
const STAND_IN: &str = r"
import array, ctypes, fcntl, json, mmap, os, socket, struct, sys, time
size = 8 << 20
fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
fcntl.ioctl(fd, 0xC018AA3F, struct.pack('QQQ', 0xAA, 8, 0))
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(fd, 0xC020AA00, struct.pack('QQQQ', base, size, 1, 0))
while not os.path.exists('go'):
    time.sleep(0.01)
pager = socket.socket(socket.AF_UNIX)
pager.connect('pager.sock')
region = {'base_host_virt_addr': base, 'size': size, 'offset': 0, 'page_size': 4096, 'page_size_kib': 4096}
message, fds = eval(sys.argv[1])
pager.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])
sum(memory[at] for at in range(0, size, 4096))
print('same' if memory[:] == open('memory', 'rb').read() else 'different')
";

#[tokio::test]
async fn a_keeper_brings_the_memory_or_ends_the_vmm_with_the_reason() -> Result {
    let whole: Vec<u8> =
        (0_u32..8 << 20).map(|at| if at >> 19 == 3 { 0 } else { (at >> 8 ^ at).to_le_bytes()[0] }).collect();
    let same = (End::Code(0), Cause::Finished, "same\n");
    let lost = |why| (End::Signal(9), Cause::PagesLost, why);
    for (message, bytes_left, (end, cause, said)) in [
        ("([region], [fd])", whole.len(), same),
        ("([region], [fd])", 5 << 20, lost("cannot read guest memory at offset 0x500000: failed to fill whole buffer")),
        ("([dict(region, offset=4096)], [fd])", whole.len(), lost("is not within the memory file")),
        ("([region], [])", whole.len(), lost("without exactly one userfaultfd")),
        ("([region], [0])", whole.len(), lost("without exactly one userfaultfd")),
        ("({}, [fd])", whole.len(), lost("is not understood")),
    ] {
        let dir = tempfile::tempdir()?;
        let memory = dir.path().join("memory");
        fs::write(&memory, &whole)?;
        let args = ["-c", STAND_IN, message].map(str::to_owned).into();
        let command = vmm::Command {
            tier: vmm::Tier::default(),
            program: "python3".into(),
            args,
            cwd: dir.path().to_owned(),
            jail: None,
        };
        let pager = PagerSpec { memory: memory.clone(), working_set: None };
        let keeper = Launcher::new(program()).launch(&keeper_spec(dir.path(), command, Some(pager))).await?;
        File::options().write(true).open(&memory)?.set_len(bytes_left as u64)?;
        fs::write(dir.path().join("go"), [])?;
        let exit = tokio::time::timeout(PATIENCE, keeper.wait_exit()).await??;
        assert_eq!((exit.end, exit.cause), (end, cause), "{message}: {exit:?}");
        let tail = if cause == Cause::PagesLost { exit.errors_tail } else { exit.console_tail };
        assert!(tail.contains(said), "{message}: {tail}");
    }
    Ok(())
}

#[tokio::test]
async fn a_keeper_without_its_memory_file_does_not_start() -> Result {
    let dir = tempfile::tempdir()?;
    let command = vmm::Command {
        tier: vmm::Tier::default(),
        program: "/bin/true".into(),
        args: Vec::new(),
        cwd: dir.path().to_owned(),
        jail: None,
    };
    let pager = PagerSpec { memory: dir.path().join("missing"), working_set: None };
    let error =
        Launcher::new(program()).launch(&keeper_spec(dir.path(), command, Some(pager))).await.err().ok_or("it did")?;
    assert!(error.to_string().contains("cannot offer guest memory"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_machine_goes_on_with_pages_brought_to_it() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let base = base(&firecracker).await?;
    let rounds = base.rounds()?;
    let dir = tempfile::tempdir()?;
    // The counter and its pages, another machine's, and none that can be read.
    for (name, working_set) in [("first", "[[1024,66],[256,1]]"), ("other", "[[9999999,5]]"), ("bad", "[[")] {
        let path = dir.path().join(name);
        fs::write(&path, working_set)?;
        let mut vm = Vm::paged(&firecracker, &base.memory, Some(path)).await?;
        vm.machine.load(&vm.spec, &base.state).await?;
        assert_eq!(vm.machine.status().await?, Status::Paused);
        vm.machine.resume().await?;
        vm.reaches(rounds + 70).await?;
        // What it wrote is over what was brought, and what it was brought is whole.
        let saved = vm.saved(vm.dir.path(), Some(&base.memory)).await?;
        assert!(saved.rounds()? >= rounds + 70);
        let exit = vm.keeper.kill().await?;
        assert_eq!((exit.end, exit.cause), (End::Signal(9), Cause::Requested));
        let log = fs::read_to_string(vm.dir.path().join("keeper.log"))?;
        assert_eq!(log.contains("working set"), name == "bad", "{log}");
    }
    assert_eq!(base.rounds()?, rounds);
    Ok(())
}

#[tokio::test]
async fn a_machine_whose_pages_are_lost_ends_with_the_reason() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let base = base(&firecracker).await?;
    let dir = tempfile::tempdir()?;
    let memory = dir.path().join("memory");
    fs::copy(&base.memory, &memory)?;
    let vm = Vm::paged(&firecracker, &memory, None).await?;
    // Nothing is left of it but its name.
    File::options().write(true).open(&memory)?.set_len(0)?;
    let run = async {
        vm.machine.load(&vm.spec, &base.state).await?;
        vm.machine.resume().await
    };
    let (_, exit) = tokio::time::timeout(PATIENCE, async { tokio::join!(run, vm.keeper.wait_exit()) }).await?;
    let exit = exit?;
    assert_eq!((exit.end, exit.cause), (End::Signal(9), Cause::PagesLost));
    let said = exit.errors_tail.lines().last().unwrap_or_default();
    assert!(said.starts_with("cannot read guest memory at offset 0x"), "{said}");
    assert!(said.ends_with("failed to fill whole buffer"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_machine_ends_with_its_pager() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let base = base(&firecracker).await?;
    let vm = Vm::paged(&firecracker, &base.memory, None).await?;
    vm.machine.load(&vm.spec, &base.state).await?;
    vm.machine.resume().await?;
    let pid = |pid: u32| rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no pid");
    let running = vm.keeper.running();
    let pidfd = rustix::process::pidfd_open(pid(running.vmm_pid)?, rustix::process::PidfdFlags::NONBLOCK)?;
    rustix::process::kill_process(pid(running.keeper_pid)?, rustix::process::Signal::KILL)?;
    assert_eq!(vm.keeper.wait_exit().await?.cause, Cause::KeeperLost);
    let end = sys::readiness::watch(pidfd, Interest::READABLE)?;
    let _ended = tokio::time::timeout(PATIENCE, end.readable()).await??;
    Ok(())
}

/// A memory file that is slow and fails now and then, and cannot be read ahead while a test holds the other end.
struct Troubled {
    file: MemoryFile,
    reads: AtomicU64,
    ahead: Mutex<Receiver<()>>,
}

impl Source for Troubled {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.len() > 4096 {
            let _ = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).recv();
        }
        std::thread::sleep(Duration::from_millis(10));
        if self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(8) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.file.read(offset, buffer)
    }
}

#[tokio::test]
async fn a_slow_source_that_heals_slows_a_machine_and_nothing_else() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let base = base(&firecracker).await?;
    let mut vm = Vm::start(&firecracker, Memory::Pager("test.sock".into()), None, &Start::Load).await?;
    let listener = UnixListener::bind(vm.dir.path().join("test.sock"))?;
    let pager = Arc::new(Pager::recording()?);
    let (hold, ahead) = channel();
    let source = Troubled { file: MemoryFile::open(&base.memory)?, reads: AtomicU64::new(0), ahead: Mutex::new(ahead) };
    let served = tokio::spawn(serve(listener, pager.clone(), source));
    vm.machine.load(&vm.spec, &base.state).await?;
    vm.machine.resume().await?;
    let rounds = base.rounds()?;
    vm.reaches(rounds + 5).await?;
    let touched = pager.ready().ok_or("nothing was recorded")?;
    let listed: Vec<u64> = touched.runs().iter().flat_map(|run| run.first..run.first + run.pages).collect();
    // The program and its counter.
    assert!(listed.contains(&0x100) && listed.contains(&0x400), "{listed:x?}");
    vm.reaches(rounds + 70).await?;
    // The machine goes before the rest came: nothing to complain about.
    vm.keeper.kill().await?;
    drop(hold);
    Ok(tokio::time::timeout(PATIENCE, served).await????)
}

type Served = std::result::Result<(), PagerError>;

async fn serve(listener: UnixListener, pager: Arc<Pager>, source: Troubled) -> Result<Served> {
    let stream = listener.accept().await?.0.into_std()?;
    stream.set_nonblocking(false)?;
    let serve = tokio::task::spawn_blocking(move || -> Result<Served> {
        let (uffd, regions) = vmm::firecracker::uffd::receive(&stream, MEMORY_BYTES, PATIENCE)?;
        let region = |region: &vmm::firecracker::uffd::Region| Region {
            address: region.address,
            bytes: region.bytes,
            offset: region.offset,
        };
        let regions: Vec<Region> = regions.iter().map(region).collect();
        let source: Arc<dyn Source> = Arc::new(source);
        Ok(pager.serve(&uffd, &regions, &source))
    });
    serve.await?
}
