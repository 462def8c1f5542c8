//! Pages of a process brought by another one (userfaultfd(2), ioctl_userfaultfd(2)).

use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

// <linux/userfaultfd.h>
const IOC: u8 = 0xAA;
const UFFDIO_API: libc::c_ulong = nix::request_code_readwrite!(IOC, 0x3F, size_of::<Api>());
const UFFDIO_REGISTER: libc::c_ulong = nix::request_code_readwrite!(IOC, 0x00, size_of::<Register>());
const UFFDIO_WAKE: libc::c_ulong = nix::request_code_read!(IOC, 0x02, size_of::<Span>());
const UFFDIO_COPY: libc::c_ulong = nix::request_code_readwrite!(IOC, 0x03, size_of::<Copy>());
const UFFDIO_ZEROPAGE: libc::c_ulong = nix::request_code_readwrite!(IOC, 0x04, size_of::<ZeroPage>());
const API: u64 = 0xAA;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;

/// `struct uffd_msg`.
const MESSAGE_BYTES: usize = 32;
/// Messages taken by one read.
const MESSAGES: usize = 64;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct ZeroPage {
    range: Span,
    mode: u64,
    zeropage: i64,
}

/// What a userfaultfd tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for the page with this address.
    Fault(u64),
    /// These addresses are about to lose their pages, or their mapping: from the moment this is read.
    Remove {
        /// First address.
        start: u64,
        /// The address after the last.
        end: u64,
    },
    /// Another one of ioctl_userfaultfd(2), by its number.
    Other(u8),
}

/// Why pages were not put in place.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The first page is there already. Threads that wait for it were not woken.
    #[error("the page is there already")]
    Exists,
    /// The address space is changing, or a later page is there already: the first `done` bytes are in place. Where none is,
    /// events have to be read before the next try.
    #[error("interrupted after {done} bytes")]
    Again {
        /// Bytes in place.
        done: u64,
    },
    /// The process has ended.
    #[error("the process has ended")]
    Gone,
    /// Anything else.
    #[error(transparent)]
    Io(io::Error),
}

/// A userfaultfd, of any process. Addresses are those of that process.
#[derive(Debug)]
pub struct Uffd(OwnedFd);

impl Uffd {
    /// Takes a descriptor that another process made and handed over. It becomes non-blocking, for that process too: poll(2)
    /// reports nothing but an error otherwise. `InvalidInput` when it is something else.
    pub fn of(descriptor: OwnedFd) -> io::Result<Self> {
        let kind = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
        if kind.as_os_str() != "anon_inode:[userfaultfd]" {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
        Ok(Self(descriptor))
    }

    /// Appends the events that are waiting; none is no error.
    pub fn read(&self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut buffer = [0; MESSAGE_BYTES * MESSAGES];
        let count = match rustix::io::read(&self.0, &mut buffer) {
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (messages, _) = buffer.get(..count).unwrap_or_default().as_chunks::<MESSAGE_BYTES>();
        events.extend(messages.iter().map(event));
        Ok(())
    }

    /// Puts `pages`, whole pages, at the address `to`, and wakes who waits for them.
    pub fn copy(&self, to: u64, pages: &[u8]) -> Result<(), FillError> {
        let (src, len) = (pages.as_ptr().addr() as u64, pages.len() as u64);
        let mut request = Copy { dst: to, src, len, mode: 0, copy: 0 };
        // SAFETY: UFFDIO_COPY reads and writes one `uffdio_copy` and reads `pages`, which both outlive the call. What it
        // writes to are pages that do not exist, of a range somebody registered for this ([`Area`], or another process).
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, &raw mut request) };
        filled(result, request.copy)
    }

    /// Puts pages of zeros at `bytes` bytes from the address `to` on, and wakes who waits for them. They take no memory.
    pub fn zero(&self, to: u64, bytes: u64) -> Result<(), FillError> {
        let mut request = ZeroPage { range: Span { start: to, len: bytes }, mode: 0, zeropage: 0 };
        // SAFETY: UFFDIO_ZEROPAGE reads and writes one `uffdio_zeropage`, which outlives the call; for its target see `copy`.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut request) };
        filled(result, request.zeropage)
    }

    /// Wakes who waits for any of these pages.
    pub fn wake(&self, start: u64, bytes: u64) -> io::Result<()> {
        let mut span = Span { start, len: bytes };
        // SAFETY: UFFDIO_WAKE reads one `uffdio_range`, which outlives the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WAKE, &raw mut span) })
    }

    /// One of this process's own, which also tells of removed pages.
    fn create() -> io::Result<Self> {
        // SAFETY: takes flags and returns a descriptor.
        let result = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let descriptor = i32::try_from(result).map_err(io::Error::other)?;
        check(descriptor)?;
        // SAFETY: the call succeeded, so this is a new descriptor nobody else owns.
        let uffd = Self(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let mut api = Api { api: API, features: FEATURE_EVENT_REMOVE, ioctls: 0 };
        // SAFETY: UFFDIO_API reads and writes one `uffdio_api`, which outlives the call.
        check(unsafe { libc::ioctl(uffd.0.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
        Ok(uffd)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `done` is a number of bytes or, negative, an error.
fn filled(result: i32, done: i64) -> Result<(), FillError> {
    let Err(error) = check(result) else { return Ok(()) };
    match error.raw_os_error() {
        Some(libc::EEXIST) => Err(FillError::Exists),
        Some(libc::EAGAIN) => Err(FillError::Again { done: u64::try_from(done).unwrap_or(0) }),
        Some(libc::ESRCH) => Err(FillError::Gone),
        _ => Err(FillError::Io(error)),
    }
}

/// `event`, seven reserved bytes, then three words: flags and address of a fault, or the ends of a range.
fn event(message: &[u8; MESSAGE_BYTES]) -> Event {
    let (words, _) = message.as_chunks::<8>();
    let word = |index: usize| words.get(index).map_or(0, |word| u64::from_ne_bytes(*word));
    match message[0] {
        EVENT_PAGEFAULT => Event::Fault(word(2)),
        EVENT_REMOVE | EVENT_UNMAP => Event::Remove { start: word(1), end: word(2) },
        other => Event::Other(other),
    }
}

/// Memory of this process whose pages come through a [`Uffd`]: what a VMM's guest memory is, without a VMM.
///
/// Whoever touches a page waits until somebody brings it, so that it must be somebody else.
#[derive(Debug)]
pub struct Area {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: it is only reached through atomics, and unmapped by its only owner.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// `bytes`, whole pages, none of them there yet.
    ///
    /// The Uffd outlives the area without harm: its calls then fail with `ENOENT`, as long as nothing else registered by the
    /// same descriptor took the place.
    pub fn new(bytes: usize) -> io::Result<(Self, Uffd)> {
        let uffd = Uffd::create()?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, away from all others.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let area = Self { start, bytes };
        let range = Span { start: area.address(), len: bytes as u64 };
        let mut register = Register { range, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER reads and writes one `uffdio_register`, which outlives the call, and changes only how
        // pages come to the new mapping.
        check(unsafe { libc::ioctl(uffd.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) })?;
        Ok((area, uffd))
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// Number of 8-byte words.
    pub fn words(&self) -> usize {
        self.bytes / size_of::<u64>()
    }

    /// The word with this number; none outside. Its page is waited for.
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: within the mapping, aligned, and valid as long as `self`: no bit pattern is wrong for an atomic integer.
        (index < self.words()).then(|| unsafe { self.start.add(index).as_ref() })
    }

    /// What is in these words, which are waited for.
    pub fn load(&self, words: Range<usize>) -> impl Iterator<Item = u64> {
        words.map_while(|index| Some(self.word(index)?.load(Ordering::Relaxed)))
    }

    /// Gives pages back (`MADV_DONTNEED`), as a balloon does; returns once the Uffd's events were read.
    pub fn discard(&self, bytes: Range<usize>) -> io::Result<()> {
        if bytes.end > self.bytes || bytes.start > bytes.end {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self.start.as_ptr().wrapping_byte_add(bytes.start);
        // SAFETY: within the mapping, which holds atomic integers only: they become others.
        check(unsafe { libc::madvise(start.cast(), bytes.len(), libc::MADV_DONTNEED) })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; every reference into it has ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn numbers_are_the_kernels() {
        let numbers = [UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WAKE, UFFDIO_COPY, UFFDIO_ZEROPAGE];
        assert_eq!(numbers, [0xC018_AA3F, 0xC020_AA00, 0x8010_AA02, 0xC028_AA03, 0xC020_AA04]);
    }

    #[test]
    fn pages_are_brought_once() -> io::Result<()> {
        let (area, uffd) = Area::new(4 * PAGE)?;
        let page = vec![7; PAGE];
        let at = area.address();
        assert!(matches!(uffd.copy(at + PAGE as u64, &page), Ok(())));
        assert!(matches!(uffd.copy(at + PAGE as u64, &page), Err(FillError::Exists)));
        let both = [page.clone(), page.clone()].concat();
        assert!(matches!(uffd.copy(at, &both), Err(FillError::Again { done: 4096 })));
        assert!(matches!(uffd.zero(at + 2 * PAGE as u64, 2 * PAGE as u64), Ok(())));
        assert!(matches!(uffd.copy(at + 1, &page), Err(FillError::Io(_))), "not a page");
        assert!(matches!(uffd.zero(at + 4 * PAGE as u64, PAGE as u64), Err(FillError::Io(_))), "outside");
        uffd.wake(at, PAGE as u64)?;
        let words: Vec<u64> = area.load(0..area.words() + 1).collect();
        assert!(words.len() == 2048 && words.iter().zip(0..).all(|(word, i)| (*word == 0) == (i >= 1024)));
        assert!(area.discard(0..5 * PAGE).is_err());
        Ok(())
    }

    #[test]
    fn faults_and_removals_are_told() -> io::Result<()> {
        let (area, uffd) = Area::new(4 * PAGE)?;
        let at = area.address();
        let next = || -> io::Result<Event> {
            let mut events = Vec::new();
            while events.is_empty() {
                uffd.read(&mut events)?;
                std::thread::yield_now();
            }
            assert_eq!(events.len(), 1);
            Ok(events[0])
        };
        std::thread::scope(|scope| {
            let touch = scope.spawn(|| area.load(512..513).next());
            assert_eq!(next()?, Event::Fault(at + PAGE as u64));
            assert!(uffd.zero(at + PAGE as u64, PAGE as u64).is_ok());
            assert_eq!(touch.join().ok().flatten(), Some(0));
            let discard = scope.spawn(|| area.discard(PAGE..3 * PAGE));
            assert_eq!(next()?, Event::Remove { start: at + PAGE as u64, end: at + 3 * PAGE as u64 });
            assert!(discard.join().is_ok_and(|done| done.is_ok()));
            Ok(())
        })
    }

    #[test]
    fn a_descriptor_is_looked_at() -> io::Result<()> {
        assert!(Uffd::of(std::fs::File::open("/dev/null")?.into()).is_err());
        let (_area, uffd) = Area::new(PAGE)?;
        Uffd::of(uffd.0.try_clone()?)?;
        Ok(())
    }
}
