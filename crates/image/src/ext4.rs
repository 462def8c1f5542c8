//! ext4 images made from directories by `mke2fs -d`, as sparse files.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::{Error, files, tool};

/// A root disk: `size_mb` MiB in total, writable.
///
/// The journal is small because every capsule's writes to it take space of its own in the pool.
pub fn writable(dir: &Path, image: &Path, size_mb: u64) -> Result<(), Error> {
    let size = format!("{size_mb}M");
    let options = ["-J", "size=16", "-m", "1"];
    // The file is new, hence zero: saying so keeps the guest's ext4lazyinit from writing inode tables at first mount.
    // mke2fs before 1.47 does not know the option.
    make(dir, image, &size, &options, "assume_storage_prezeroed=1")
        .or_else(|_| make(dir, image, &size, &options, "lazy_itable_init=1"))
}

/// A disk that is only ever mounted read-only: no journal, as few inodes and blocks as hold the directory.
pub fn read_only(dir: &Path, image: &Path) -> Result<(), Error> {
    let Usage { bytes, inodes } = usage(dir)?;
    let size = format!("{}K", bytes * 21 / 20 / 1024 + inodes / 4 + 2048);
    let inodes = (inodes + 32).to_string();
    make(dir, image, &size, &["-O", "^has_journal,^resize_inode", "-m", "0", "-N", &inodes], "lazy_itable_init=0")
}

fn make(dir: &Path, image: &Path, size: &str, options: &[&str], extended: &str) -> Result<(), Error> {
    let mut command = tool::MKE2FS.command();
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", &format!("nodiscard,root_owner=0:0,{extended}")]);
    command.args(options).arg("-d").args([dir, image]).arg(size);
    tool::MKE2FS.run(&mut command)
}

struct Usage {
    /// Content, each file rounded up to blocks of 4 KiB.
    bytes: u64,
    inodes: u64,
}

fn usage(dir: &Path) -> Result<Usage, Error> {
    let mut total = Usage { bytes: 4096, inodes: 1 };
    for path in files::list(dir)? {
        let metadata = path.symlink_metadata().map_err(Error::io("inspect", &path))?;
        if metadata.is_dir() {
            let below = usage(&path)?;
            total.bytes += below.bytes;
            total.inodes += below.inodes;
        } else {
            total.bytes += metadata.size().div_ceil(4096) * 4096;
            total.inodes += 1;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn images_have_the_size_asked_for_and_stay_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/file"), vec![7; 3 << 20]).unwrap();

        let image = dir.path().join("root.img");
        writable(&tree, &image, 512).unwrap();
        let metadata = fs::metadata(&image).unwrap();
        assert_eq!(metadata.len(), 512 << 20);
        assert!(metadata.blocks() * 512 < 32 << 20, "{} blocks", metadata.blocks());

        let image = dir.path().join("modules.img");
        read_only(&tree, &image).unwrap();
        assert!(fs::metadata(&image).unwrap().len() < 8 << 20);
    }
}
