//! Where a process has mapped a memory file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::dirty::PAGE_BYTES;
use crate::limits::MAPS_BYTES;

/// One contiguous part of a memory file in a process's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it begins in the process.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// Where it begins in the file.
    pub file_offset: u64,
}

/// A whole memory file mapped privately by a process; the parts are in file order without gap or overlap.
///
/// A VMM maps the part above the PCI hole elsewhere, and the kernel splits maps whose flags differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping(Vec<Segment>);

/// Why a process's map of a memory file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The process is gone, or is not ours to look at.
    #[error("cannot read the memory maps of process {pid}: {source}")]
    Maps {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The memory file is gone or unreadable.
    #[error("cannot examine memory file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writes of the guest reach the file: it is not immutable, and its pages say nothing about what changed.
    #[error("process {0} maps the memory file shared")]
    Shared(u32),
    /// Not every page of the file is mapped exactly once.
    #[error("process {0} does not map the memory file completely")]
    Incomplete(u32),
}

impl Mapping {
    /// Finds where process `pid` maps the `bytes` long file at `path`.
    pub fn find(pid: u32, path: &Path, bytes: u64) -> Result<Self, MappingError> {
        let file = fs::metadata(path).map_err(|source| MappingError::File { path: path.to_owned(), source })?;
        let maps = |source| MappingError::Maps { pid, source };
        let reader = BufReader::new(File::open(format!("/proc/{pid}/maps")).map_err(maps)?.take(MAPS_BYTES));
        let mut segments = Vec::new();
        for line in reader.split(b'\n') {
            let Some(entry) = Entry::parse(&line.map_err(maps)?) else { continue };
            if entry.inode != file.ino() || !entry.is_of(pid, &file) {
                continue;
            }
            if !entry.private {
                return Err(MappingError::Shared(pid));
            }
            segments.push(entry.segment());
        }
        Self::of(segments, bytes).ok_or(MappingError::Incomplete(pid))
    }

    fn of(mut segments: Vec<Segment>, bytes: u64) -> Option<Self> {
        segments.sort_by_key(|segment| segment.file_offset);
        let mut end = 0;
        for segment in &segments {
            if segment.file_offset != end || !(segment.address | segment.bytes).is_multiple_of(PAGE_BYTES) {
                return None;
            }
            end += segment.bytes;
        }
        (end == bytes && !segments.is_empty()).then_some(Self(segments))
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Address in the process of the byte at `offset` of the file, and how many bytes follow it without a break.
    pub(crate) fn locate(&self, offset: u64) -> Option<(u64, u64)> {
        let after = self.0.partition_point(|segment| segment.file_offset <= offset);
        let segment = self.0.get(after.checked_sub(1)?)?;
        let within = offset - segment.file_offset;
        (within < segment.bytes).then(|| (segment.address + within, segment.bytes - within))
    }
}

/// A line of `/proc/PID/maps`: `start-end perms offset dev inode path`.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    start: u64,
    end: u64,
    private: bool,
    file_offset: u64,
    inode: u64,
}

impl Entry {
    /// `None` for lines that are not of that form, such as one cut by the size limit.
    fn parse(line: &[u8]) -> Option<Self> {
        let head = &line[..line.len().min(128)];
        let mut fields = head.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).map(std::str::from_utf8);
        let mut field = || fields.next()?.ok();
        let (start, end) = field()?.split_once('-')?;
        let permissions = field()?;
        let file_offset = hexadecimal(field()?)?;
        let _device = field()?;
        let inode = field()?.parse().ok()?;
        let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
        let private = permissions.as_bytes().get(3)? == &b'p';
        (start < end).then_some(Self { start, end, private, file_offset, inode })
    }

    /// Inode numbers are unique per file system only, and the device in the line is not the one `stat` reports on
    /// btrfs; the link in `map_files` leads to the very inode.
    fn is_of(&self, pid: u32, file: &fs::Metadata) -> bool {
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end);
        fs::metadata(link).is_ok_and(|mapped| mapped.dev() == file.dev() && mapped.ino() == file.ino())
    }

    fn segment(&self) -> Segment {
        Segment { address: self.start, bytes: self.end - self.start, file_offset: self.file_offset }
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_maps() {
        let parsed = Entry::parse(
            b"7f3747fff000-7f3767fff000 rw-p 00001000 07:00 133                        /pool/mem0 (deleted)",
        );
        let expected =
            Entry { start: 0x7f37_47ff_f000, end: 0x7f37_67ff_f000, private: true, file_offset: 0x1000, inode: 133 };
        assert_eq!(parsed, Some(expected));
        for bad in [
            "",
            "7f37",
            "2000-1000 rw-p 0 07:00 1 x",
            "1000-2000 rw 0 07:00 1",
            "1000-2000 rw-p 0 07:00",
            "zz-1 rw-p 0 0 1",
        ] {
            assert_eq!(Entry::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn parts_must_cover_the_file() {
        let segment = |address, bytes, file_offset| Segment { address, bytes, file_offset };
        let (low, high) = (segment(0x10_0000, 0x3000, 0), segment(0x90_0000, 0x1000, 0x3000));
        let mapping = Mapping::of(vec![high, low], 0x4000).unwrap_or(Mapping(Vec::new()));
        assert_eq!(mapping.locate(0x2fff), Some((0x10_2fff, 1)));
        assert_eq!(mapping.locate(0x3000), Some((0x90_0000, 0x1000)));
        assert_eq!(mapping.locate(0x4000), None);
        assert_eq!(Mapping::of(vec![low], 0x4000), None);
        assert_eq!(Mapping::of(vec![high], 0x1000), None);
        assert_eq!(Mapping::of(vec![low, low, high], 0x4000), None);
        assert_eq!(Mapping::of(Vec::new(), 0), None);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::parse(&line);
        }
    }
}
