//! Generations made from a real process: this test itself maps a memory file through a child and reads it back.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use memory::{Base, DiskDraft, Draft, Generation, OpenError, SaveError, Seal, Shelf};

const BYTES: u64 = 8 << 20;

/// Python maps a file privately and changes pages as it is told: a VMM as far as `memory` is concerned. A page without a
/// value is given back, as by a balloon.
const PROGRAM: &str = r"
import mmap, sys
memory = open(sys.argv[1], 'r+b')
flags = mmap.MAP_SHARED if sys.argv[2] == 'shared' else mmap.MAP_PRIVATE
pages = mmap.mmap(memory.fileno(), 0, flags)
for line in sys.stdin:
    for spec in line.split():
        page, value = spec.split('=')
        start = int(page) * 4096
        if value:
            pages[start:start + 4096] = bytes([int(value)]) * 4096
        else:
            pages.madvise(mmap.MADV_DONTNEED, start, 4096)
    sys.stdout.write('x'); sys.stdout.flush()
";

struct Vmm {
    process: sys::spawn::Process,
    orders: io::PipeWriter,
    done: io::PipeReader,
}

impl Vmm {
    fn start(memory: &Path, kind: &str, writes: &[(u64, u8)]) -> Result<Self, Box<dyn Error>> {
        let mut process = sys::spawn::Spawn::new("python3")
            .inherit_env()
            .args(["-c", PROGRAM])
            .arg(memory)
            .arg(kind)
            .stdin(sys::spawn::Stream::Pipe)
            .stdout(sys::spawn::Stream::Pipe)
            .spawn()?;
        let (orders, done) = (process.take_stdin().ok_or("no pipe")?, process.take_stdout().ok_or("no pipe")?);
        let mut vmm = Self { process, orders, done };
        vmm.change(writes.iter().map(|(page, value)| (*page, Some(*value))))?;
        Ok(vmm)
    }

    /// Gives pages a value, or gives them back.
    fn change(&mut self, changes: impl IntoIterator<Item = (u64, Option<u8>)>) -> Result<(), Box<dyn Error>> {
        let spec = |(page, value): (u64, Option<u8>)| {
            format!("{page}={} ", value.map(|value| value.to_string()).unwrap_or_default())
        };
        let line: String = changes.into_iter().map(spec).collect();
        writeln!(self.orders, "{line}")?;
        Ok(self.done.read_exact(&mut [0])?)
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn save(shelf: &Shelf, base: &Base, pid: u32) -> Result<Generation, Box<dyn Error>> {
    let draft = Draft::begin(shelf.dir(), base)?;
    fs::write(draft.state_path(), b"device state")?;
    let (generation, report) = draft.copy_dirty(pid)?.commit(Seal::default())?;
    assert!(report.dirty_pages <= report.written_pages);
    Ok(generation)
}

fn page(generation: &Generation, page: u64) -> Result<u8, Box<dyn Error>> {
    let mut bytes = [0; 4096];
    fs::File::open(generation.memory_path())?.read_exact_at(&mut bytes, page * 4096)?;
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    Ok(bytes[0])
}

#[test]
fn each_generation_is_its_parent_with_the_dirty_pages_over_it() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shelf = Shelf::open(&dir.path().join("shelf"))?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let vmm = Vmm::start(&zero.memory_path(), "private", &[(0, 1), (1, 2), (2, 0), (700, 3), (2047, 4)])?;
    let first = save(&shelf, &zero, vmm.pid())?;
    let written: Vec<_> = first.manifest().extents.iter().map(|extent| (extent.first, extent.pages)).collect();
    assert_eq!(written, [(0, 3), (700, 1), (2047, 1)]);

    // Zeroed and rewritten pages replace the parent's, others stay.
    let base = Base::Generation(Arc::new(first.clone()));
    let vmm = Vmm::start(&first.memory_path(), "private", &[(1, 0), (700, 9), (5, 5)])?;
    let second = save(&shelf, &base, vmm.pid())?;
    for (number, value) in [(0, 1), (1, 0), (2, 0), (5, 5), (700, 9), (2047, 4), (3, 0)] {
        assert_eq!(page(&second, number)?, value, "page {number}");
    }
    assert_eq!(page(&first, 700)?, 3);
    assert_eq!(second.manifest().parent, Some(first.id()));
    assert_eq!(Generation::open(second.dir())?, second);
    second.verify()?;
    assert_eq!(shelf.list()?, [first.id(), second.id()]);
    Ok(())
}

/// Changes of a VM's few pages, before and after a part of the save was done ahead.
fn changes() -> impl Strategy<Value = Vec<(u64, Option<u8>)>> {
    proptest::collection::vec((0_u64..40, any::<Option<u8>>()), 0..20)
}

#[test]
fn what_was_placed_ahead_is_as_it_was_at_the_save() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shelf = Shelf::open(&dir.path().join("shelf"))?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let booted = Vmm::start(&zero.memory_path(), "private", &[(1, 1), (3, 3), (30, 7), (39, 9)])?;
    let first = Arc::new(save(&shelf, &zero, booted.pid())?);
    let base = Base::Generation(Arc::clone(&first));
    proptest!(ProptestConfig::with_cases(24), |(before in changes(), after in changes())| {
        let saved = || -> Result<(), Box<dyn Error>> {
            let mut expected: BTreeMap<u64, u8> = (0..40).map(|number| Ok((number, page(&first, number)?))).collect::<Result<_, Box<dyn Error>>>()?;
            let restored = expected.clone();
            for (number, value) in before.iter().chain(&after) {
                expected.insert(*number, value.unwrap_or(restored[number]));
            }
            let mut vmm = Vmm::start(&first.memory_path(), "private", &[])?;
            vmm.change(before)?;
            let mut draft = Draft::begin(shelf.dir(), &base)?;
            draft.place_dirty(vmm.pid())?;
            vmm.change(after)?;
            fs::write(draft.state_path(), b"device state")?;
            let (generation, _) = draft.copy_dirty(vmm.pid())?.commit(Seal::default())?;
            for (number, value) in expected {
                assert_eq!(page(&generation, number)?, value, "page {number}");
            }
            generation.verify()?;
            Ok(shelf.remove(generation.id())?)
        };
        saved().map_err(|error| TestCaseError::fail(error.to_string()))?;
    });
    Ok(())
}

#[test]
fn maps_that_say_nothing_about_dirt_are_refused() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let vmm = Vmm::start(&zero.memory_path(), "shared", &[(0, 1)])?;
    let shared = Draft::begin(dir.path(), &zero)?.copy_dirty(vmm.pid());
    assert!(matches!(shared, Err(SaveError::Mapping(memory::MappingError::Shared(_)))));
    let unmapped = Draft::begin(dir.path(), &zero)?.copy_dirty(std::process::id());
    assert!(matches!(unmapped, Err(SaveError::Mapping(memory::MappingError::Incomplete(_)))));
    // Failed drafts leave nothing.
    assert_eq!(fs::read_dir(dir.path())?.count(), 1);
    Ok(())
}

#[test]
fn damage_is_noticed() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shelf = Shelf::open(&dir.path().join("shelf"))?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let vmm = Vmm::start(&zero.memory_path(), "private", &[(3, 7)])?;
    let generation = save(&shelf, &zero, vmm.pid())?;

    let memory = fs::OpenOptions::new().write(true).open(generation.memory_path())?;
    memory.write_all_at(b"x", 3 * 4096 + 17)?;
    assert!(matches!(generation.verify(), Err(OpenError::Damaged { .. })));
    memory.set_len(BYTES - 4096)?;
    assert!(matches!(Generation::open(generation.dir()), Err(OpenError::Damaged { .. })));
    memory.set_len(BYTES)?;
    assert!(Generation::open(generation.dir()).is_ok());
    fs::write(generation.state_path(), b"device st4te")?;
    assert!(matches!(Generation::open(generation.dir()), Err(OpenError::Damaged { .. })));
    fs::remove_file(generation.state_path())?;
    assert!(matches!(Generation::open(generation.dir()), Err(OpenError::Read { .. })));
    Ok(())
}

#[test]
fn a_generation_outlives_its_removal_while_it_is_used() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shelf = Shelf::open(&dir.path().join("shelf"))?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let vmm = Vmm::start(&zero.memory_path(), "private", &[(3, 7)])?;
    let (first, second) = (save(&shelf, &zero, vmm.pid())?, save(&shelf, &zero, vmm.pid())?);
    let (one, two) = (shelf.pin(first.id()).ok_or("gone")?, shelf.pin(first.id()).ok_or("gone")?);
    assert_eq!(shelf.collect(&[])?, [first.id(), second.id()]);
    assert_eq!(shelf.list()?, [first.id()]);
    assert!(shelf.pin(first.id()).is_none(), "condemned");
    drop(one);
    assert_eq!(shelf.list()?, [first.id()]);
    drop(two);
    assert!(shelf.list()?.is_empty());
    shelf.remove(first.id())?;
    // One that is used beyond the end of the process.
    let third = save(&shelf, &zero, vmm.pid())?.id();
    let pin = shelf.pin(third).ok_or("gone")?;
    shelf.remove(third)?;
    pin.outlive();
    assert_eq!(shelf.list()?, [third]);
    assert_eq!(Shelf::open(shelf.dir())?.collect(&[])?, [third]);
    assert!(shelf.list()?.is_empty());
    Ok(())
}

#[test]
fn a_crash_leaves_only_what_the_next_start_sweeps() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let shelf = Shelf::open(&dir.path().join("shelf"))?;
    std::mem::forget(Draft::begin(shelf.dir(), &zero)?);
    assert!(shelf.list()?.is_empty());
    assert_eq!(fs::read_dir(shelf.dir())?.count(), 1);
    let _next = Shelf::open(shelf.dir())?;
    while fs::read_dir(shelf.dir())?.count() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn a_duplicate_is_a_generation_of_its_own_and_a_disk_alone_is_one_too() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shelf = Shelf::open(&dir.path().join("shelf"))?;
    let zero = Base::create_zero(&dir.path().join("zero"), BYTES)?;
    let vmm = Vmm::start(&zero.memory_path(), "private", &[(3, 7)])?;
    let first = save(&shelf, &zero, vmm.pid())?;
    let second = first.duplicate(shelf.dir(), Seal::default())?;
    shelf.remove(first.id())?;
    assert_eq!((page(&second, 3)?, second.has_memory()), (7, true));
    assert_eq!(Generation::open(second.dir())?, second);
    second.verify()?;

    let disk = dir.path().join("disk");
    fs::write(&disk, b"a file system")?;
    let third = DiskDraft::begin(shelf.dir(), &disk)?.commit(Seal::default())?;
    let fourth = Generation::open(third.dir())?.duplicate(shelf.dir(), Seal::default())?;
    fs::write(&disk, b"changed")?;
    for generation in [third, fourth] {
        let opened = Generation::open(generation.dir())?;
        opened.verify()?;
        assert!(!opened.has_memory());
        assert_eq!(fs::read(opened.disk_path().ok_or("no disk")?)?, b"a file system");
    }
    assert_eq!(shelf.list()?.len(), 3);
    Ok(())
}
