//! Memory of this process served by a pager, as a machine's is.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use memory::PAGE_BYTES;
use memory::pager::{MemoryFile, Pager, PagerError, Region, Source, WorkingSet};
use proptest::prelude::*;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use sys::uffd::{Area, Uffd};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// What is in a page of the memory file: each word is another one, but every fifth page is empty.
fn word(page: usize, index: usize) -> u64 {
    if page % 5 == 3 { 0 } else { ((page * WORDS + index) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

fn page_bytes(page: usize) -> Vec<u8> {
    (0..WORDS).flat_map(|index| word(page, index).to_le_bytes()).collect()
}

/// An area of `pages` pages and whoever serves it. The halves of the file are in the area the other way round.
struct Machine {
    area: Arc<Area>,
    uffd: Arc<Uffd>,
    pager: Arc<Pager>,
    pages: usize,
    served: Option<JoinHandle<std::result::Result<(), PagerError>>>,
}

impl Machine {
    fn new(pages: usize, source: impl Source + 'static, pager: Pager) -> Result<Self> {
        let half = pages / 2;
        Self::with(pages, source, pager, |at| {
            let (low, high) = ((half * PAGE) as u64, ((pages - half) * PAGE) as u64);
            let first = Region { address: at, bytes: high, offset: low };
            let second = Region { address: at + high, bytes: low, offset: 0 };
            [first, second].into_iter().filter(|region| region.bytes > 0).collect()
        })
    }

    fn with(
        pages: usize,
        source: impl Source + 'static,
        pager: Pager,
        regions: impl Fn(u64) -> Vec<Region>,
    ) -> Result<Self> {
        let (area, uffd) = Area::new(pages * PAGE)?;
        let (area, uffd, pager) = (Arc::new(area), Arc::new(uffd), Arc::new(pager));
        let regions = regions(area.address());
        let source: Arc<dyn Source> = Arc::new(source);
        let served = std::thread::spawn({
            let (uffd, pager) = (uffd.clone(), pager.clone());
            move || pager.serve(&uffd, &regions, &source)
        });
        Ok(Self { area, uffd, pager, pages, served: Some(served) })
    }

    /// The page of the area that a page of the file is.
    fn place(&self, file_page: usize) -> usize {
        let half = self.pages / 2;
        if file_page < half { file_page + self.pages - half } else { file_page - half }
    }

    /// Compares pages of the file with the area's.
    fn check(&self, file_pages: impl IntoIterator<Item = usize>) -> Result {
        for page in file_pages {
            let at = self.place(page) * WORDS;
            if !self.area.load(at..at + WORDS).eq((0..WORDS).map(|index| word(page, index))) {
                return Err(format!("page {page} is not what the file has").into());
            }
        }
        Ok(())
    }

    fn is_zero(&self, file_page: usize) -> bool {
        let at = self.place(file_page) * WORDS;
        self.area.load(at..at + WORDS).eq([0; WORDS])
    }

    fn discard(&self, file_page: usize) -> io::Result<()> {
        let at = self.place(file_page) * PAGE;
        self.area.discard(at..at + PAGE)
    }

    /// Waits until these pages are there without touching them.
    fn wait_for(&self, file_pages: impl IntoIterator<Item = usize>) -> Result {
        let pagemap = File::open("/proc/self/pagemap")?;
        for page in file_pages {
            let at = (self.area.address() / PAGE_BYTES + self.place(page) as u64) * 8;
            let mut entry = [0; 8];
            while u64::from_le_bytes(entry) >> 63 == 0 {
                pagemap.read_exact_at(&mut entry, at)?;
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// How serving ended by itself.
    fn ended(&mut self) -> Result<std::result::Result<(), PagerError>> {
        Ok(self.served.take().ok_or("ended before")?.join().map_err(|_| "the pager panicked")?)
    }

    fn stop(mut self) -> Result {
        self.pager.stop();
        Ok(self.ended()??)
    }
}

/// The memory file: what a test may want of reading it, by the number of bytes that are read at once.
struct Tale<F>(F);

impl<F: Fn(u64, usize) -> io::Result<()> + Send + Sync> Source for Tale<F> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (self.0)(offset, buffer.len())?;
        let first = usize::try_from(offset / PAGE_BYTES).map_err(io::Error::other)?;
        for (page, bytes) in (first..).zip(buffer.chunks_mut(PAGE)) {
            bytes.copy_from_slice(&page_bytes(page));
        }
        Ok(())
    }
}

fn working_set(runs: &[(u64, u64)]) -> Result<WorkingSet> {
    Ok(serde_json::from_slice(&serde_json::to_vec(runs)?)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_is_the_files(
        pages in 1_usize..1400,
        step in prop::sample::select(vec![1_usize, 7, 11, 101]),
        runs in prop::collection::vec((0_u64..1500, 1_u64..90), 0..6),
        records in any::<bool>(),
        threads in 1_usize..6,
    ) {
        let check = || -> Result {
            let file = tempfile::NamedTempFile::new()?;
            file.as_file().set_len((pages * PAGE) as u64)?;
            // Some empty pages are holes, the others are written.
            for page in (0..pages).filter(|page| page % 10 != 3) {
                file.as_file().write_all_at(&page_bytes(page), (page * PAGE) as u64)?;
            }
            let source = MemoryFile::open(file.path())?;
            assert_eq!(source.bytes(), (pages * PAGE) as u64);
            let pager = if records { Pager::recording() } else { Pager::prefetching(working_set(&runs)?) };
            let machine = Machine::new(pages, source, pager?)?;
            std::thread::scope(|scope| {
                let order = |thread: usize| (0..pages).map(move |i| (i * step + thread * 37) % pages);
                let readers: Vec<_> = (0..threads).map(|t| scope.spawn({ let m = &machine; move || m.check(order(t)) })).collect();
                readers.into_iter().try_for_each(|reader| reader.join().map_err(|_| "a reader panicked")?)
            })?;
            machine.check(0..pages)?;
            machine.stop()
        };
        check().map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
}

#[test]
fn what_is_touched_is_recorded_and_the_rest_follows() -> Result {
    let machine = Machine::new(1000, Tale(|_, _| Ok(())), Pager::recording()?)?;
    let touched = [900, 901, 902, 3, 17, 16, 15, 903, 3, 900];
    machine.check(touched)?;
    let recorded = machine.pager.ready().ok_or("nothing was recorded")?;
    assert_eq!(recorded, working_set(&[(900, 3), (3, 1), (17, 1), (16, 1), (15, 1), (903, 1)])?);
    assert!(machine.pager.ready().is_none());
    machine.wait_for(0..1000)?;
    machine.check(0..1000)?;
    machine.stop()
}

#[test]
fn the_working_set_comes_first() -> Result {
    let order = Arc::new(Mutex::new(Vec::new()));
    let source = Tale({
        let order = order.clone();
        move |offset, bytes| {
            let first = offset / PAGE_BYTES;
            order.lock().unwrap_or_else(PoisonError::into_inner).push((first, (bytes / PAGE) as u64));
            Ok(())
        }
    });
    // Beyond the end and over the border of the regions, too.
    let set = working_set(&[(700, 2), (100, 1), (1998, 10), (999, 2), (5000, 1)])?;
    let machine = Machine::new(2000, source, Pager::prefetching(set)?)?;
    machine.wait_for(0..2000)?;
    let order = order.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(order.get(..5), Some(&[(700, 2), (100, 1), (1998, 2), (999, 1), (1000, 1)][..]));
    assert!(order.iter().all(|(_, pages)| *pages <= 512));
    machine.check(0..2000)?;
    machine.stop()
}

/// Whether reading ahead waits for the test.
fn gate() -> (impl Fn(usize) + Send + Sync, Receiver<()>, Sender<()>) {
    let ((arrive, arrived), (open, opened)) = (channel(), channel::<()>());
    let opened = Mutex::new(opened);
    let wait = move |bytes: usize| {
        if bytes > PAGE {
            let _ = arrive.send(());
            let _ = opened.lock().unwrap_or_else(PoisonError::into_inner).recv();
        }
    };
    (wait, arrived, open)
}

#[test]
fn a_slow_source_ahead_delays_no_fault() -> Result {
    let (wait, arrived, open) = gate();
    let source = Tale(move |_, bytes| {
        wait(bytes);
        Ok(())
    });
    let machine = Machine::new(600, source, Pager::prefetching(WorkingSet::default())?)?;
    arrived.recv()?;
    machine.check(0..600)?;
    drop(open);
    machine.stop()
}

#[test]
fn pages_given_back_never_return() -> Result {
    let (wait, arrived, open) = gate();
    let source = Tale(move |_, bytes| {
        wait(bytes);
        Ok(())
    });
    let machine = Machine::new(600, source, Pager::prefetching(WorkingSet::default())?)?;
    // While their bytes are being read, or before, or after they came.
    arrived.recv()?;
    machine.check([20, 450])?;
    let gone = [0, 5, 20, 299, 300, 450, 599];
    gone.iter().try_for_each(|page| machine.discard(*page))?;
    drop(open);
    machine.wait_for((0..600).filter(|page| !gone.contains(page)))?;
    machine.discard(333)?;
    for page in gone.into_iter().chain([333]) {
        assert!(machine.is_zero(page), "page {page}");
    }
    machine.check((0..600).filter(|page| !gone.contains(page) && *page != 333))?;
    // Once more, after they came back as zeros and were written.
    let at = machine.place(5) * WORDS;
    machine.area.word(at).ok_or("no word")?.store(1, Ordering::Relaxed);
    machine.discard(5)?;
    assert!(machine.is_zero(5));
    machine.stop()
}

#[test]
fn pages_given_back_while_others_come() -> Result {
    for round in 0..20_usize {
        let machine = Machine::new(1200, Tale(|_, _| Ok(())), Pager::prefetching(WorkingSet::default())?)?;
        let gone = |page: &usize| (page * 7 + round).is_multiple_of(6);
        std::thread::scope(|scope| {
            let balloon = scope.spawn(|| {
                (0..1200).rev().filter(gone).try_for_each(|page| {
                    machine.discard(page)?;
                    if machine.is_zero(page) { Ok(()) } else { Err(io::Error::other("an old page")) }
                })
            });
            let reader = scope.spawn(|| machine.check((0..1200).filter(|page| !gone(page))));
            balloon.join().map_err(|_| "panic")??;
            reader.join().map_err(|_| "panic")?
        })?;
        machine.wait_for((0..1200).filter(|page| !gone(page)))?;
        assert!((0..1200).filter(gone).all(|page| machine.is_zero(page)), "round {round}");
        machine.check((0..1200).filter(|page| !gone(page)))?;
        machine.stop()?;
    }
    Ok(())
}

#[test]
fn a_source_that_heals_in_time_is_not_noticed() -> Result {
    let failures = Mutex::new(HashMap::new());
    let source = Tale(move |offset, _| {
        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failed: &mut u32 = failures.entry(offset).or_default();
        *failed += 1;
        if *failed <= 3 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    });
    let machine = Machine::new(4, source, Pager::recording()?)?;
    machine.check(0..2)?;
    machine.stop()
}

/// One that fails where and how it is told to, for faults or ahead.
fn broken(fails: impl Fn(u64, usize) -> bool + Send + Sync) -> impl Source {
    Tale(move |offset, bytes| if fails(offset, bytes) { Err(io::Error::other("the store is on fire")) } else { Ok(()) })
}

#[test]
fn a_source_that_does_not_heal_ends_the_pager_with_its_reason() -> Result {
    let source = broken(|offset, bytes| offset == 40 * PAGE_BYTES || bytes > PAGE);
    let mut machine = Machine::new(64, source, Pager::prefetching(WorkingSet::default())?)?;
    // What was to be read ahead comes when it is asked for.
    machine.check((0..64).filter(|page| *page != 40))?;
    let error = std::thread::scope(|scope| {
        let lost = machine.area.clone();
        let at = machine.place(40) * WORDS;
        let reader = scope.spawn(move || lost.load(at..at + 1).next());
        let ended = machine.ended();
        // What a keeper does by ending the machine.
        let freed = machine.uffd.zero(machine.area.address() + (at * 8) as u64, PAGE_BYTES);
        freed.map_err(|error| error.to_string())?;
        assert_eq!(reader.join().map_err(|_| "panic")?, Some(0));
        ended
    })?;
    let text = error.err().ok_or("it ended in order")?.to_string();
    assert_eq!(text, "cannot read guest memory at offset 0x28000: the store is on fire");
    Ok(())
}

#[test]
fn a_fault_outside_of_all_regions_ends_the_pager() -> Result {
    let region = |at| vec![Region { address: at, bytes: PAGE_BYTES, offset: 0 }];
    let mut machine = Machine::with(2, Tale(|_, _| Ok(())), Pager::recording()?, region)?;
    let stray = machine.area.address() + PAGE_BYTES;
    std::thread::scope(|scope| {
        let area = machine.area.clone();
        let reader = scope.spawn(move || area.load(WORDS..WORDS + 1).next());
        let ended = machine.ended()?;
        assert!(matches!(ended, Err(PagerError::Stray(address)) if address == stray), "{ended:?}");
        machine.uffd.zero(stray, PAGE_BYTES).map_err(|error| error.to_string())?;
        assert_eq!(reader.join().map_err(|_| "panic")?, Some(0));
        Ok(())
    })
}

#[test]
fn holes_of_a_file_are_zeros_and_its_missing_end_is_not() -> Result {
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(1 << 20)?;
    file.as_file().write_all_at(&page_bytes(0), 64 << 10)?;
    let source = MemoryFile::open(file.path())?;
    let zeros = |offset: u64| source.zeros(offset);
    assert_eq!([0, 32 << 10, 64 << 10].map(zeros), [64 << 10, 32 << 10, 0]);
    assert_eq!(zeros(512 << 10), 512 << 10);
    file.as_file().set_len(256 << 10)?;
    assert_eq!(zeros(512 << 10), 0);
    assert!(source.read(512 << 10, &mut [0; PAGE]).is_err());
    Ok(())
}

/// Memory that is zero, and either known to be or not.
struct Empty {
    known: bool,
}

impl Source for Empty {
    fn read(&self, _: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }

    fn zeros(&self, _: u64) -> u64 {
        if self.known { u64::MAX } else { 0 }
    }
}

#[test]
fn zeros_take_no_memory() -> Result {
    for known in [true, false] {
        let machine = Machine::new(3000, Empty { known }, Pager::prefetching(WorkingSet::default())?)?;
        machine.wait_for(0..3000)?;
        assert!((0..3000).all(|page| machine.is_zero(page)));
        let (maps, start) = (fs::read_to_string("/proc/self/smaps")?, format!("{:x}-", machine.area.address()));
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
        let resident = lines.find(|line| line.starts_with("Rss:")).ok_or("no such map")?;
        assert_eq!(resident.split_ascii_whitespace().nth(1), Some("0"), "{resident}");
        machine.stop()?;
    }
    Ok(())
}

/// Makes memory as a VMM does, says where, and touches a page of it.
const OTHER_PROCESS: &str = r"
import ctypes, fcntl, mmap, os, signal, struct
fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
fcntl.ioctl(fd, 0xC018AA3F, struct.pack('QQQ', 0xAA, 8, 0))
memory = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(fd, 0xC020AA00, struct.pack('QQQQ', base, 4 << 20, 1, 0))
print(fd, base, flush=True)
memory[0]
print('got it', flush=True)
signal.pause()
";

#[test]
fn a_machine_that_ends_ends_its_pager_in_order() -> Result {
    let mut process = sys::spawn::Spawn::new("python3")
        .inherit_env()
        .args(["-c", OTHER_PROCESS])
        .stdout(sys::spawn::Stream::Pipe)
        .spawn()?;
    let mut said = BufReader::new(process.take_stdout().ok_or("no output")?).lines();
    let mut says = || -> Result<String> { Ok(said.next().ok_or("it ended")??) };
    let first = says()?;
    let (fd, address) = first.split_once(' ').ok_or("not two numbers")?;
    let fd = pidfd_getfd(process.pidfd()?, fd.parse()?, PidfdGetfdFlags::empty())?;
    let (uffd, address) = (Uffd::of(fd)?, address.parse()?);
    let (wait, arrived, open) = gate();
    let source: Arc<dyn Source> = Arc::new(Tale(move |_, bytes| {
        wait(bytes);
        Ok(())
    }));
    let pager = Pager::prefetching(WorkingSet::default())?;
    let served = std::thread::spawn(move || {
        let region = Region { address, bytes: 4 << 20, offset: 0 };
        pager.serve(&uffd, &[region], &source)
    });
    arrived.recv()?;
    assert_eq!(says()?, "got it");
    process.kill()?;
    process.wait()?;
    drop(open);
    Ok(served.join().map_err(|_| "the pager panicked")??)
}

#[test]
fn working_sets_of_a_file() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("working-set");
    assert!(WorkingSet::read(&path).is_err());
    fs::write(&path, "[[1,2],[7,1]]")?;
    let read = WorkingSet::read(&path)?;
    assert_eq!(read, working_set(&[(1, 2), (7, 1)])?);
    assert_eq!(read.encode()?, fs::read(&path)?);
    let runs: Vec<Range<u64>> = read.runs().iter().map(|run| run.first..run.first + run.pages).collect();
    assert_eq!(runs, [1..3, 7..8]);
    Ok(())
}
