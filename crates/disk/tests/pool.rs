//! Pools on the real kernel: loop devices, XFS, mounts. Needs root and `mkfs.xfs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, missing_docs)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use disk::{AdmitError, Cloned, CloseError, Kind, OpenError, PlainReason, Pool, PoolOptions};

const MIB: u64 = 1 << 20;

/// A directory of its own; whatever the test left mounted goes with it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self) -> Pool {
        Pool::open(self.path(), &PoolOptions { size_limit_bytes: Some(600 * MIB) }).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = Pool::purge(self.path()) {
            eprintln!("left behind: {error}");
        }
    }
}

fn device(pool: &Pool) -> PathBuf {
    match pool.kind() {
        Kind::Loop { device, .. } => device.clone(),
        other => panic!("not a pool file: {other:?}"),
    }
}

fn attached(image: &Path) -> bool {
    fs::read_dir("/sys/block").unwrap().any(|entry| {
        let backing = entry.unwrap().path().join("loop/backing_file");
        fs::read_to_string(backing).is_ok_and(|file| Path::new(file.trim_end()) == image)
    })
}

#[test]
fn pool_file_shares_extents_and_survives_restarts() {
    let home = Home::new();
    let pool = home.open();
    let base = pool.path().join("base");
    fs::write(&base, vec![7_u8; 8 * 1024 * 1024]).unwrap();
    // XFS allocates when it writes back, and more than it keeps.
    File::open(&base).unwrap().sync_all().unwrap();

    let before = pool.free_bytes().unwrap();
    let clone = pool.path().join("clone");
    assert_eq!(pool.clone_file(&base, &clone).unwrap(), Cloned::Shared);
    assert!(before.saturating_sub(pool.free_bytes().unwrap()) < MIB, "a clone took space");
    assert!(Pool::usage_bytes(&clone).unwrap() >= 8 * MIB);

    // Writing to one leaves the other alone.
    let mut file = File::options().write(true).open(&clone).unwrap();
    file.write_all(b"changed").unwrap();
    assert_eq!(&fs::read(&base).unwrap()[..7], [7; 7]);

    // Again while mounted, and again after an unmount (as after a reboot).
    let first = device(&pool);
    assert_eq!(device(&home.open()), first);
    drop(file);
    pool.close().unwrap();
    assert!(!attached(&home.path().join("pool.xfs")), "the loop device stayed");
    let pool = home.open();
    assert_eq!(&fs::read(pool.path().join("clone")).unwrap()[..7], b"changed");

    pool.close().unwrap();
    Pool::purge(home.path()).unwrap();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    Pool::purge(home.path()).unwrap();
}

#[test]
fn nobody_else_on_the_host_reads_a_pool() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let pool = home.open();
    let image = home.path().join("pool.xfs");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(pool.path()), mode(&image)), (0o700, 0o600));
    // One made by an earlier version.
    fs::set_permissions(&image, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(pool.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let again = home.open();
    assert_eq!((mode(again.path()), mode(&image)), (0o700, 0o600));
    pool.close().unwrap();
}

#[test]
fn a_pool_in_use_is_not_closed() {
    let home = Home::new();
    let pool = home.open();
    let held = File::create(pool.path().join("held")).unwrap();
    assert!(matches!(pool.clone().close(), Err(CloseError::Busy { .. })));
    assert!(matches!(Pool::purge(home.path()), Err(CloseError::Busy { .. })));
    drop(held);
    pool.close().unwrap();
}

#[test]
fn a_copy_of_a_pool_is_one_of_its_own_and_another_name_is_not() {
    let (home, copied, linked) = (Home::new(), Home::new(), Home::new());
    let pool = home.open();
    fs::write(pool.path().join("file"), "first").unwrap();
    pool.close().unwrap();
    fs::copy(home.path().join("pool.xfs"), copied.path().join("pool.xfs")).unwrap();
    fs::hard_link(home.path().join("pool.xfs"), linked.path().join("pool.xfs")).unwrap();

    let pool = home.open();
    let copy = copied.open();
    fs::write(copy.path().join("file"), "second").unwrap();
    assert_eq!(fs::read_to_string(pool.path().join("file")).unwrap(), "first");
    let error = Pool::open(linked.path(), &PoolOptions::default()).unwrap_err();
    assert!(matches!(&error, OpenError::Mount { source, .. } if source.kind() == ErrorKind::ResourceBusy), "{error}");
    pool.close().unwrap();
    assert_eq!(fs::read_to_string(linked.open().path().join("file")).unwrap(), "first");
}

#[test]
fn a_file_system_that_shares_extents_is_used_as_it_is() {
    let home = Home::new();
    let outer = home.open();
    let inner_home = outer.path().join("nested");
    fs::create_dir(&inner_home).unwrap();
    let inner = Pool::open(&inner_home, &PoolOptions::default()).unwrap();
    assert_eq!(*inner.kind(), Kind::Reflink);
    assert!(!inner_home.join("pool.xfs").exists());
}

#[test]
fn plain_pools_say_why() {
    let home = Home::new();
    let small = Pool::open(home.path(), &PoolOptions { size_limit_bytes: Some(MIB) }).unwrap();
    assert!(matches!(small.kind(), Kind::Plain { why: PlainReason::NoPoolFile(_) }), "{:?}", small.kind());
    let file = small.path().join("file");
    fs::write(&file, b"data").unwrap();
    assert_eq!(small.clone_file(&file, &small.path().join("copy")).unwrap(), Cloned::Copied);

    // Files that are there already are not hidden below a mount, whatever is possible now.
    let again = home.open();
    assert_eq!(*again.kind(), Kind::Plain { why: PlainReason::HoldsFiles });
    assert_eq!(fs::read(file).unwrap(), b"data");
}

#[test]
fn a_damaged_pool_file_is_an_error_and_not_an_empty_pool() {
    let home = Home::new();
    home.open().close().unwrap();
    let mut image = File::options().write(true).open(home.path().join("pool.xfs")).unwrap();
    image.write_all(&[0; 4096]).unwrap();
    drop(image);
    assert!(Pool::open(home.path(), &PoolOptions::default()).is_err());
    assert!(!attached(&home.path().join("pool.xfs")));
}

#[test]
fn two_starts_at_once_make_one_pool() {
    let home = Home::new();
    let devices: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| device(&home.open()))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
}

#[test]
fn space_is_promised_once() {
    let home = Home::new();
    let pool = home.open();
    let free = pool.free_bytes().unwrap();
    let size = pool.size_bytes().unwrap();
    assert!((free..=600 * MIB).contains(&size), "{size}");
    let mut half = pool.admit(free / 2 + 1).unwrap();
    assert!(size.abs_diff(pool.size_bytes().unwrap()) < MIB, "a promise is not the pool's loss");
    match pool.clone().admit(free / 2 + 1) {
        Err(AdmitError::NoSpace { needed_bytes, free_bytes }) => {
            assert_eq!(needed_bytes, free / 2 + 1);
            assert!(free_bytes < needed_bytes);
        }
        other => panic!("{other:?}"),
    }
    // What is taken for a moment competes with its like alone.
    let short = pool.admit_short(free / 2 + 1).unwrap();
    assert!(matches!(pool.admit_short(free / 2 + 1), Err(AdmitError::NoSpace { .. })));
    drop(short);
    half.consume(MIB);
    assert_eq!(half.remaining_bytes(), free / 2 + 1 - MIB);
    drop(half);
    pool.admit(free / 2 + 1).unwrap();
}

/// A file of so many bytes, none of them written.
fn allocate(path: &Path, bytes: u64) {
    let file = File::create(path).unwrap();
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
}

/// A file system of 1 GiB, mounted as long as this lives.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(place: &'a Path) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", place, "tmpfs", flags, Some(c"size=1g")).unwrap();
        Self(place)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn what_a_pool_file_has_still_to_get_is_not_unused() {
    let home = Home::new();
    let disk = SmallDisk::mount(home.path());
    let pool = home.open();
    assert!(matches!(pool.kind(), Kind::Loop { .. }));

    allocate(&home.path().join("others"), 700 * MIB);
    let before = pool.unused_bytes().unwrap();
    assert!(before <= 324 * MIB, "{before}");
    allocate(&pool.path().join("ours"), 200 * MIB);
    let after = pool.unused_bytes().unwrap();
    // The file got its log and some more when it was made.
    assert!(after + 150 * MIB <= before, "{before} and then {after}");

    Pool::purge(home.path()).unwrap();
    drop(disk);
}

#[test]
fn deleted_files_give_their_space_back_to_the_host() {
    let home = Home::new();
    let pool = home.open();
    let image = home.path().join("pool.xfs");
    let file = pool.path().join("file");
    let mut writer = File::create(&file).unwrap();
    for _ in 0..64 {
        writer.write_all(&vec![1; 1024 * 1024]).unwrap();
    }
    writer.sync_all().unwrap();
    drop(writer);
    let full = Pool::usage_bytes(&image).unwrap();
    fs::remove_file(file).unwrap();
    // The unmount flushes the discards of the deletion.
    pool.close().unwrap();
    assert!(Pool::usage_bytes(&image).unwrap() + 60 * MIB <= full);
}

#[test]
fn copies_keep_holes_and_content() {
    let directory = tempfile::tempdir().unwrap();
    // A shape per case: (offset, length) of each piece of data, and the file's length.
    let shapes: [(&[(u64, usize)], u64); 5] = [
        (&[], 0),
        (&[], 8 * MIB),
        (&[(0, 10)], 10),
        (&[(4 * MIB, 4096)], 16 * MIB),
        (&[(0, 1), (3 * MIB + 17, 70_000), (9 * MIB, 4096)], 9 * MIB + 4096),
    ];
    for (number, (pieces, length)) in shapes.iter().enumerate() {
        let source = directory.path().join(format!("source-{number}"));
        let target = directory.path().join(format!("target-{number}"));
        let mut file = File::create(&source).unwrap();
        for (offset, piece) in *pieces {
            file.seek(SeekFrom::Start(*offset)).unwrap();
            file.write_all(&vec![0xA5; *piece]).unwrap();
        }
        file.set_len(*length).unwrap();
        disk::clone_file(&source, &target).unwrap();
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        File::open(&source).unwrap().read_to_end(&mut expected).unwrap();
        File::open(&target).unwrap().read_to_end(&mut found).unwrap();
        assert!(expected == found, "case {number}");
        assert!(Pool::usage_bytes(&target).unwrap() <= Pool::usage_bytes(&source).unwrap() + 8192, "case {number}");
    }
    let source = directory.path().join("source-2");
    assert!(disk::clone_file(&source, &directory.path().join("target-2")).is_err(), "a target was overwritten");
    assert!(disk::clone_file(&directory.path().join("none"), &directory.path().join("new")).is_err());
    assert!(!directory.path().join("new").exists());
}
