//! What is mounted where, read from `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The device or name mounted on `directory`; of several mounts the topmost.
pub(crate) fn source_at(directory: &Path) -> io::Result<Option<PathBuf>> {
    let directory = match directory.canonicalize() {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .rfind(|mount| mount.point == directory)
        .map(|mount| mount.source))
}

struct Mount {
    point: PathBuf,
    source: PathBuf,
}

/// `id parent major:minor root POINT options [optional…] - type SOURCE super-options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let source = fields.skip_while(|field| *field != b"-").nth(2)?;
    Some(Mount { point, source: unescape(source) })
}

/// Blanks, tabs, newlines and backslashes come as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes).into()
}

/// The file behind a loop device; `None` for other devices.
pub(crate) fn backing_file(device: &Path) -> Option<PathBuf> {
    let name = device.strip_prefix("/dev").ok()?;
    let text = std::fs::read(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(text)))
}

/// The files of all loop devices.
pub(crate) fn backing_files() -> impl Iterator<Item = PathBuf> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices.filter_map(|entry| backing_file(&Path::new("/dev").join(entry.file_name())))
}

/// Whether a loop device really does direct I/O on its file.
pub(crate) fn direct_io(device: &Path) -> bool {
    let Ok(name) = device.strip_prefix("/dev") else { return false };
    std::fs::read(Path::new("/sys/block").join(name).join("loop/dio")).is_ok_and(|flag| flag.starts_with(b"1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields() {
        let cases = [
            ("36 35 98:0 /m /mnt/a rw,noatime shared:1 master:2 - ext4 /dev/root rw", "/mnt/a", "/dev/root"),
            ("36 35 7:3 / /a\\040b\\134 rw - xfs /dev/loop3 rw", "/a b\\", "/dev/loop3"),
        ];
        for (line, point, source) in cases {
            let mount = parse(line.as_bytes()).map(|m| (m.point, m.source));
            assert_eq!(mount, Some((point.into(), source.into())), "{line}");
        }
        assert!(parse(b"").is_none());
        assert!(parse(b"36 35 98:0 / /mnt rw - xfs").is_none());
    }
}
