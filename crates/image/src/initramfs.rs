//! The initramfs: init, boot modules and a console, as an uncompressed newc archive.
//!
//! Uncompressed, because the kernel copies it faster than it would unpack it: it is a few megabytes, handed over by
//! the VMM from the page cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use cpio::newc::{self, Builder, ModeFileType};

use crate::part::{Manifest, Part, Store, digest};
use crate::{Error, Progress, Step, files, kernel};

/// File name inside the part.
pub const FILE: &str = "initramfs";
/// The init binary, as it is in the archive.
pub const DAEMON: &str = "envd";
/// The fact of that name: a digest of it.
const DAEMON_KEY: &str = "daemon";
/// Changes when the archive's layout, or what lies beside it, does.
const LAYOUT: &str = "initramfs 2";

/// The initramfs of a kernel part and an init binary.
pub fn build(store: &Store, kernel: &Part, envd: &Path, progress: &dyn Progress) -> Result<Part, Error> {
    let init = files::read(envd)?;
    let key = digest([LAYOUT.as_bytes(), kernel.identity.as_bytes(), &init]);
    store.part(Step::Initramfs, ("initramfs", &key), progress, |tmp| {
        let path = tmp.join(FILE);
        let out = File::create(&path).map_err(Error::io("create", &path))?;
        let mut modules = Vec::new();
        for module in files::list(&kernel.path(kernel::BOOT_MODULES))? {
            modules.push((files::name(&module).to_owned(), files::read(&module)?));
        }
        write(&mut io::BufWriter::new(out), &init, &modules).map_err(Error::io("write", &path))?;
        let daemon = tmp.join(DAEMON);
        std::fs::write(&daemon, &init).map_err(Error::io("write", &daemon))?;
        Ok(Manifest { identity: key.clone(), facts: BTreeMap::from([(DAEMON_KEY.to_owned(), digest([&init]))]) })
    })
}

/// Digest of the init binary alone.
pub fn daemon_key(part: &Part) -> String {
    part.facts.get(DAEMON_KEY).cloned().unwrap_or_default()
}

/// Writes the archive: `/init`, `/dev/console`, and `modules` (file name, content) under `/modules`.
pub fn write(out: &mut impl Write, init: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<()> {
    let mut archive = Archive { out, last_inode: 0 };
    archive.entry("dev", ModeFileType::Directory, 0o755, &[])?;
    // The kernel opens this for init's first three descriptors before anything can mount devtmpfs.
    archive.entry("dev/console", ModeFileType::Char, 0o600, &[])?;
    archive.entry("init", ModeFileType::Regular, 0o755, init)?;
    archive.entry("modules", ModeFileType::Directory, 0o755, &[])?;
    for (name, content) in modules {
        archive.entry(&format!("modules/{name}"), ModeFileType::Regular, 0o644, content)?;
    }
    newc::trailer(archive.out)?.flush()
}

struct Archive<'a, W> {
    out: &'a mut W,
    last_inode: u32,
}

impl<W: Write> Archive<'_, W> {
    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32, content: &[u8]) -> io::Result<()> {
        self.last_inode += 1;
        let links = if matches!(kind, ModeFileType::Directory) { 2 } else { 1 };
        // /dev/console is character device 5:1; for all others the kernel ignores the numbers.
        let entry = Builder::new(name).ino(self.last_inode).nlink(links).mode(mode).set_mode_file_type(kind);
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut writer = entry.rdev_major(5).rdev_minor(1).write(&mut *self.out, size);
        writer.write_all(content)?;
        writer.finish().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::NewcReader;

    #[test]
    fn lists_what_the_kernel_expects_in_order() {
        let mut bytes = Vec::new();
        let modules = [("00-virtio.ko".to_owned(), b"abc".to_vec()), ("01-ext4.ko".to_owned(), b"d".to_vec())];
        write(&mut bytes, b"init", &modules).unwrap();

        let mut listing = Vec::new();
        let mut input = &bytes[..];
        loop {
            let reader = NewcReader::new(input).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            listing.push(format!("{:o} {} {}", entry.mode(), entry.file_size(), entry.name()));
            input = reader.to_writer(io::sink()).unwrap();
        }
        assert_eq!(
            listing,
            [
                "40755 0 dev",
                "20600 0 dev/console",
                "100755 4 init",
                "40755 0 modules",
                "100644 3 modules/00-virtio.ko",
                "100644 1 modules/01-ext4.ko",
            ]
        );
    }
}
