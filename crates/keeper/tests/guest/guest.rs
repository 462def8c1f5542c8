//! Init of the test guest: writes and zeroes memory and disk for ever and checks that what it reads is what it wrote.
//!
//! It keeps a model (one version per page) beside the pages, so a page that came back older, newer, zeroed or
//! foreign after a restore is seen by the guest itself. It prints one line per finished step on the console:
//! `step N` or `CORRUPT …`, and needs no input.
//!
//! Compiled by the tests with `rustc -C target-feature=+crt-static`; not part of the workspace.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

const SYS_FINIT_MODULE: c_long = 313;
const PAGE: usize = 4096;
const PAGES: usize = 16 * 1024;
const DISK_PAGES: u64 = 256;
/// Pages changed per step: a quarter of them is zeroed, the rest written.
const CHANGES: usize = 400;

fn main() {
    let _ = fs::create_dir_all("/dev");
    let (device, dev) = (c"devtmpfs".as_ptr(), c"/dev".as_ptr());
    // SAFETY: NUL-terminated constants.
    unsafe { mount(device, dev, device, 0, std::ptr::null()) };
    let mut console = OpenOptions::new().write(true).open("/dev/ttyS0").expect("console");
    load_modules(&mut console);
    let disk = wait_for_disk();
    let _ = writeln!(console, "guest up");
    let mut world = World::new(disk);
    for step in 1_u64.. {
        world.change();
        match world.check() {
            Ok(()) => drop(writeln!(console, "step {step}")),
            Err(what) => drop(writeln!(console, "CORRUPT {what} in step {step}")),
        }
    }
}

fn load_modules(console: &mut File) {
    let mut files: Vec<_> = fs::read_dir("/modules").into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        let Ok(module) = File::open(&path) else { continue };
        let none = CString::default();
        // SAFETY: an open descriptor and an empty parameter string.
        let result = unsafe { syscall(SYS_FINIT_MODULE, module.as_raw_fd(), none.as_ptr(), 0) };
        if result < 0 {
            let _ = writeln!(console, "module {}: {}", path.display(), std::io::Error::last_os_error());
        }
    }
}

/// The root disk; the probe of a virtio device is asynchronous.
fn wait_for_disk() -> File {
    const O_DIRECT: i32 = 0o40_000;
    loop {
        use std::os::unix::fs::OpenOptionsExt;
        if let Ok(disk) = OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT).open("/dev/vda") {
            return disk;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// One page, aligned as direct I/O wants it.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u8; PAGE]);

struct World {
    pages: Vec<Page>,
    /// Version of each page's content; 0 = all zero.
    versions: Vec<u32>,
    disk: File,
    disk_versions: Vec<u32>,
    random: u64,
    next: u32,
}

impl World {
    fn new(disk: File) -> Self {
        Self {
            pages: vec![Page([0; PAGE]); PAGES],
            versions: vec![0; PAGES],
            disk,
            disk_versions: vec![0; DISK_PAGES as usize],
            random: 0x9e37_79b9_7f4a_7c15,
            next: 1,
        }
    }

    fn random(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as usize
    }

    fn change(&mut self) {
        for change in 0..CHANGES {
            let page = self.random() % PAGES;
            let version = if change % 4 == 0 { 0 } else { self.next };
            self.next += 1;
            fill(&mut self.pages[page], page, version);
            self.versions[page] = version;
        }
        for _ in 0..4 {
            let block = self.random() % DISK_PAGES as usize;
            let mut content = Page([0; PAGE]);
            fill(&mut content, block, self.next);
            self.disk.write_all_at(&content.0, (block * PAGE) as u64).expect("disk write");
            self.disk_versions[block] = self.next;
        }
    }

    fn check(&self) -> Result<(), String> {
        let mut expected = Page([0; PAGE]);
        for (page, (content, &version)) in self.pages.iter().zip(&self.versions).enumerate() {
            fill(&mut expected, page, version);
            if content.0 != expected.0 {
                return Err(format!("page {page} version {version}"));
            }
        }
        let mut content = Page([0; PAGE]);
        for (block, &version) in self.disk_versions.iter().enumerate().filter(|(_, version)| **version > 0) {
            self.disk.read_exact_at(&mut content.0, (block * PAGE) as u64).map_err(|e| format!("disk: {e}"))?;
            fill(&mut expected, block, version);
            if content.0 != expected.0 {
                return Err(format!("disk block {block} version {version}"));
            }
        }
        Ok(())
    }
}

/// Content of `page` in `version`: eight bytes repeated, so that checking costs little under emulation.
fn fill(page: &mut Page, number: usize, version: u32) {
    let word = if version == 0 { 0 } else { (number as u64) << 32 | u64::from(version) };
    for chunk in page.0.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}
