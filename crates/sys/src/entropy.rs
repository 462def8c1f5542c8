//! Feeding the kernel's random number generator (random(4)).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes one call credits at most.
const MAX_BYTES: usize = 512;

/// `_IOW('R', 0x03, int[2])`
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// `struct rand_pool_info` with room for its flexible array.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    size_bytes: libc::c_int,
    bytes: [u8; MAX_BYTES],
}

/// Mixes `seed` into the pool, credits every bit of it (512 bytes at most), and makes the generator use it at
/// once. Without the last step two clones of one memory image give equal numbers for up to a minute.
///
/// Needs `CAP_SYS_ADMIN`.
pub fn reseed(seed: &[u8]) -> io::Result<()> {
    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    let size = seed.len().min(MAX_BYTES);
    let mut info =
        PoolInfo { entropy_bits: (size * 8) as libc::c_int, size_bytes: size as libc::c_int, bytes: [0; MAX_BYTES] };
    info.bytes[..size].copy_from_slice(&seed[..size]);
    // SAFETY: the kernel reads the two integers and `size_bytes` bytes after them, all inside `info`.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
