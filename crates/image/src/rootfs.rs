//! Root file systems: the `minimal` template's, and any given tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::part::{Manifest, Part, Store, digest};
use crate::{Error, Options, Progress, Step, bootstrap, ext4, files, sources, tool};

/// File of the part.
pub const DISK: &str = "rootfs.img";
/// Changes when the recipe of the `minimal` root does.
const LAYOUT: &str = "rootfs 1";

/// A root file system to be put on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootTree {
    /// A directory with final owners and modes.
    Directory(PathBuf),
    /// A tar archive, also compressed with what the `tar` of this host knows; leading `/` and `..` are refused by it.
    Tar(PathBuf),
}

/// The `minimal` template's root disk.
pub fn minimal(store: &Store, options: &Options, progress: &dyn Progress) -> Result<Part, Error> {
    let size = options.root_disk_mb.to_string();
    let recipe = bootstrap::recipe();
    let key = digest([LAYOUT.as_bytes(), recipe.as_bytes(), size.as_bytes(), &sources::key(&options.source)?]);
    store.part(Step::RootDisk, ("rootfs", &key), progress, |tmp| {
        tool::require_root()?;
        let work = tmp.join("work");
        files::create_dir(&work)?;
        let tree = work.join("tree");
        bootstrap::minimal_root(options, &work, &tree, |fraction, doing| {
            progress.advanced(Step::RootDisk, fraction * 0.9, doing);
        })?;
        progress.advanced(Step::RootDisk, 0.9, "writing the disk");
        let packages = files::read(&tree.join("var/lib/dpkg/status"))?;
        ext4::writable(&tree, &tmp.join(DISK), options.root_disk_mb)?;
        progress.advanced(Step::RootDisk, 0.98, "cleaning up");
        files::remove_tree(&work)?;
        Ok(Manifest {
            identity: digest([LAYOUT.as_bytes(), recipe.as_bytes(), size.as_bytes(), &packages]),
            facts: BTreeMap::new(),
        })
    })
}

/// Writes an ext4 disk of `size_mb` MiB with the given content to `image`, which must not exist. Needs root.
/// A tar archive is unpacked next to `image` first.
pub fn build_disk(tree: &RootTree, image: &Path, size_mb: u64) -> Result<(), Error> {
    tool::require_root()?;
    match tree {
        RootTree::Directory(dir) => ext4::writable(dir, image, size_mb),
        RootTree::Tar(archive) => {
            let unpacked = image.with_extension("unpacked");
            files::create_dir(&unpacked)?;
            let result = unpack(archive, &unpacked).and_then(|()| ext4::writable(&unpacked, image, size_mb));
            files::remove_tree(&unpacked)?;
            result
        }
    }
}

fn unpack(archive: &Path, dir: &Path) -> Result<(), Error> {
    let mut command = tool::TAR.command();
    command.args(["--extract", "--numeric-owner", "--same-permissions", "--same-owner", "--xattrs"]);
    tool::TAR.run(command.arg("--directory").arg(dir).arg("--file").arg(archive))
}
