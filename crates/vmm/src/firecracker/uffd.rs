//! What Firecracker says to the server of its guest memory (`docs/snapshotting/handling-page-faults-on-snapshot-resume.md`).
//!
//! While it loads a state, it connects and sends one message: a JSON array of the regions of guest memory, with the
//! userfaultfd they are registered with. It never says anything else, and does not hang up.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde::Deserialize;
use sys::uffd::Uffd;

use crate::limits::HANDSHAKE_BYTES;

/// The only size of pages this driver makes machines with.
const PAGE_BYTES: u64 = 4096;
/// Descriptors there is room for: more than the one there may be.
const DESCRIPTORS: usize = 4;

/// A part of guest memory; all numbers are multiples of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins in Firecracker's process.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// Where it begins in the memory file.
    pub offset: u64,
}

/// Why a machine's memory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It hung up, or took too long.
    #[error("the message about guest memory cannot be received: {0}")]
    Receive(#[from] io::Error),
    /// Longer than it ever is.
    #[error("the message about guest memory is longer than {HANDSHAKE_BYTES} bytes")]
    TooLong,
    /// Not the expected JSON.
    #[error("the message about guest memory is not understood: {0}")]
    Syntax(#[from] serde_json::Error),
    /// None, several, or of something else.
    #[error("the message about guest memory comes without exactly one userfaultfd")]
    Descriptor,
    /// There are none.
    #[error("the machine has no guest memory")]
    Empty,
    /// One that cannot be.
    #[error("the region of {bytes:#x} bytes at offset {offset:#x} of guest memory {what}")]
    Region {
        /// Its length.
        bytes: u64,
        /// Where it begins in the memory file.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// `GuestRegionUffdMapping`.
#[derive(Deserialize)]
struct Mapping {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
    /// Since 1.11.
    page_size: Option<u64>,
    /// The same, in bytes despite its name; to go with 2.0.
    page_size_kib: Option<u64>,
}

/// Receives the message from a Firecracker that has connected, within `limit`, on a stream in blocking mode. The regions lie within a memory file of
/// `memory_bytes`, and do not overlap, neither there nor in the process. Blocks.
pub fn receive(stream: &UnixStream, memory_bytes: u64, limit: Duration) -> Result<(Uffd, Vec<Region>), HandshakeError> {
    let deadline = Instant::now() + limit;
    let (mut message, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left))?;
        receive_some(stream, &mut message, &mut descriptors)?;
        match serde_json::from_slice::<Vec<Mapping>>(&message) {
            Ok(mappings) => return Ok((userfaultfd(descriptors)?, regions(&mappings, memory_bytes)?)),
            Err(error) if !error.is_eof() => return Err(error.into()),
            Err(_) if message.len() >= HANDSHAKE_BYTES => return Err(HandshakeError::TooLong),
            Err(_) => {}
        }
    }
}

fn receive_some(
    stream: &UnixStream,
    message: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(), HandshakeError> {
    let mut buffer = [0; 4096];
    let room = buffer.len().min(HANDSHAKE_BYTES - message.len());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(buffer.get_mut(..room).unwrap_or_default())];
    let received = match recvmsg(stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
        received => received.map_err(io::Error::from)?,
    };
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        return Err(HandshakeError::Descriptor);
    }
    if received.bytes == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    message.extend_from_slice(buffer.get(..received.bytes).unwrap_or_default());
    Ok(())
}

fn userfaultfd(mut descriptors: Vec<OwnedFd>) -> Result<Uffd, HandshakeError> {
    let descriptor = descriptors.pop().ok_or(HandshakeError::Descriptor)?;
    Uffd::of(descriptor).map_err(|_| HandshakeError::Descriptor)
}

fn regions(mappings: &[Mapping], memory_bytes: u64) -> Result<Vec<Region>, HandshakeError> {
    let mut regions: Vec<Region> = Vec::with_capacity(mappings.len());
    for mapping in mappings {
        let (address, bytes, offset) = (mapping.base_host_virt_addr, mapping.size, mapping.offset);
        let wrong = |what| Err(HandshakeError::Region { bytes, offset, what });
        if mapping.page_size.or(mapping.page_size_kib) != Some(PAGE_BYTES) {
            return wrong("has pages of another size than 4 KiB");
        }
        if bytes == 0 || !(address | bytes | offset).is_multiple_of(PAGE_BYTES) {
            return wrong("is not made of whole pages");
        }
        if address.checked_add(bytes).is_none() || offset.checked_add(bytes).is_none_or(|end| end > memory_bytes) {
            return wrong("is not within the memory file");
        }
        let apart = |one: u64, other: u64, other_bytes: u64| one + bytes <= other || other + other_bytes <= one;
        let clear =
            |other: &Region| apart(address, other.address, other.bytes) && apart(offset, other.offset, other.bytes);
        if !regions.iter().all(clear) {
            return wrong("overlaps another one");
        }
        regions.push(Region { address, bytes, offset });
    }
    if regions.is_empty() { Err(HandshakeError::Empty) } else { Ok(regions) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSlice, Write as _};
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use sys::uffd::Area;

    use super::*;

    const MEMORY_BYTES: u64 = 4 << 30;
    const LIMIT: Duration = Duration::from_secs(10);

    /// As Firecracker 1.16 sends it for 4 GiB.
    const MESSAGE: &str = r#"[{"base_host_virt_addr":139855838367744,"size":3221225472,"offset":0,"page_size":4096,"page_size_kib":4096},{"base_host_virt_addr":139851543400448,"size":1073741824,"offset":3221225472,"page_size":4096,"page_size_kib":4096}]"#;

    fn send(to: &UnixStream, bytes: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        assert_eq!(sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())?, bytes.len());
        Ok(())
    }

    #[test]
    fn a_message_is_received_whole_or_in_parts() -> Result<(), Box<dyn std::error::Error>> {
        let (_area, uffd) = Area::new(4096)?;
        for first in [MESSAGE.len(), 1, 100] {
            let (ours, mut theirs) = UnixStream::pair()?;
            let (first, rest) = MESSAGE.as_bytes().split_at(first);
            send(&theirs, first, &[uffd.as_fd()])?;
            theirs.write_all(rest)?;
            let (_, regions) = receive(&ours, MEMORY_BYTES, LIMIT)?;
            let (low, high) = (3 << 30, 1 << 30);
            let expected = [(139_855_838_367_744, low, 0), (139_851_543_400_448, high, low)];
            assert_eq!(regions, expected.map(|(address, bytes, offset)| Region { address, bytes, offset }));
        }
        Ok(())
    }

    #[test]
    fn descriptors_must_be_one_userfaultfd() -> Result<(), Box<dyn std::error::Error>> {
        let (_area, uffd) = Area::new(4096)?;
        let null = File::open("/dev/null")?;
        let (uffd, null) = (uffd.as_fd(), null.as_fd());
        for descriptors in [&[][..], &[null], &[uffd, uffd], &[uffd, null], &[uffd; 8]] {
            let (ours, theirs) = UnixStream::pair()?;
            send(&theirs, MESSAGE.as_bytes(), descriptors)?;
            let refused = receive(&ours, MEMORY_BYTES, LIMIT);
            assert!(matches!(refused, Err(HandshakeError::Descriptor)), "{refused:?}");
        }
        Ok(())
    }

    #[test]
    fn whoever_says_something_else_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        let (_area, uffd) = Area::new(4096)?;
        let long = format!("[{}", " ".repeat(HANDSHAKE_BYTES));
        for (bytes, expected) in
            [("", "unexpected end"), ("[{", "unexpected end"), ("{}", "not understood"), (long.as_str(), "longer than")]
        {
            let (ours, mut theirs) = UnixStream::pair()?;
            let talk = std::thread::spawn({
                let (bytes, uffd) = (bytes.to_owned(), uffd.as_fd().try_clone_to_owned()?);
                move || {
                    let (first, rest) = bytes.split_at(bytes.len().min(1));
                    let _ = send(&theirs, first.as_bytes(), &[uffd.as_fd()]);
                    let _ = theirs.write_all(rest.as_bytes());
                }
            });
            let error = receive(&ours, MEMORY_BYTES, LIMIT).err().ok_or("it was taken")?.to_string();
            assert!(error.contains(expected), "{error}");
            drop(ours);
            talk.join().map_err(|_| "panic")?;
        }
        let (ours, _silent) = UnixStream::pair()?;
        assert!(matches!(receive(&ours, MEMORY_BYTES, Duration::from_millis(1)), Err(HandshakeError::Receive(_))));
        Ok(())
    }

    #[test]
    fn regions_must_be_possible() {
        let judge = |text: &str| {
            let mappings: Vec<Mapping> = serde_json::from_str(text).map_err(|error| error.to_string())?;
            regions(&mappings, 1 << 20).map_err(|error| error.to_string())
        };
        let region = |address: u64, size: u64, offset: u64| {
            format!(r#"{{"base_host_virt_addr":{address},"size":{size},"offset":{offset},"page_size_kib":4096}}"#)
        };
        let one = region(1 << 30, 1 << 19, 0);
        assert_eq!(judge(&format!("[{one}]")).map(|regions| regions.len()), Ok(1));
        for (text, expected) in [
            ("[]".to_owned(), "no guest memory"),
            (format!("[{}]", one.replace("4096", "2097152")), "another size"),
            (format!("[{}]", one.replace("page_size_kib", "page_size_mib")), "another size"),
            (format!("[{}]", region(1 << 30, 0, 0)), "whole pages"),
            (format!("[{}]", region(1, 4096, 0)), "whole pages"),
            (format!("[{}]", region(4096, 4095, 0)), "whole pages"),
            (format!("[{}]", region(4096, 4096, 1)), "whole pages"),
            (format!("[{}]", region(4096, 1 << 20, 4096)), "within"),
            (format!("[{}]", region(4096, u64::MAX - 4095, 4096)), "within"),
            (format!("[{}]", region(u64::MAX - 4095, 4096, 0)), "within"),
            (format!("[{one},{}]", region((1 << 30) + (1 << 18), 4096, 1 << 19)), "overlaps"),
            (format!("[{one},{}]", region(1 << 20, 8192, (1 << 19) - 4096)), "overlaps"),
            (format!("[{one},{one}]"), "overlaps"),
            (format!("[{}]", one.replace(':', ":-")), "invalid value"),
        ] {
            let error = judge(&text).err().unwrap_or_default();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
