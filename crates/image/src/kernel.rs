//! The guest kernel, from Debian's cloud kernel package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bootstrap::{self, KERNEL_PACKAGE};
use crate::part::{self, Manifest, Part, Store, digest};
use crate::{Error, Options, Progress, Source, Step, bzimage, ext4, files, modules, sources, tool};

/// Files of the part.
pub const BZIMAGE: &str = "bzImage";
pub const ELF: &str = "vmlinux";
pub const MODULES_DISK: &str = "modules.img";
/// Directory of the modules that go into the initramfs.
pub const BOOT_MODULES: &str = "boot-modules";

const RELEASE: &str = "kernel_release";
/// Changes when the part's layout or the choice of modules does.
const LAYOUT: &str = "kernel 1";

const KIND: &str = "kernel";

/// Depends on the package source, not on what that serves today.
fn key(source: &Source) -> Result<String, Error> {
    Ok(digest([LAYOUT.as_bytes(), KERNEL_PACKAGE.as_bytes(), &sources::key(source)?]))
}

/// The kernel part, if it is there.
pub fn find(dir: &Path, source: &Source) -> Result<Option<Part>, Error> {
    part::find(dir, (KIND, &key(source)?))
}

/// The kernel part.
pub fn build(store: &Store, options: &Options, progress: &dyn Progress) -> Result<Part, Error> {
    store.part(Step::Kernel, (KIND, &key(&options.source)?), progress, |tmp| {
        tool::require_root()?;
        let say = |fraction, doing| progress.advanced(Step::Kernel, fraction, doing);
        say(0.05, "downloading");
        let work = tmp.join("work");
        files::create_dir(&work)?;
        let package = bootstrap::download_kernel(options, &work)?;
        say(0.5, "unpacking");
        let tree = work.join("tree");
        tool::DPKG_DEB.run(tool::DPKG_DEB.command().arg("--extract").args([&package, &tree]))?;
        let modules_dir = modules_dir(&tree)?;
        let release = files::name(&modules_dir).to_owned();
        say(0.7, "extracting the ELF image");
        let image_path = tree.join("boot").join(format!("vmlinuz-{release}"));
        let image = files::read(&image_path)?;
        files::write(&tmp.join(ELF), bzimage::extract_elf(&image_path, &image)?)?;
        files::rename(&image_path, &tmp.join(BZIMAGE))?;
        say(0.8, "indexing modules");
        index_modules(&modules_dir, &release)?;
        modules::collect(&modules_dir, &release, &tmp.join(BOOT_MODULES))?;
        files::sync_dir(&tmp.join(BOOT_MODULES))?;
        say(0.9, "writing the modules disk");
        ext4::read_only(&modules_dir, &tmp.join(MODULES_DISK))?;
        files::remove_tree(&work)?;
        let identity = digest([LAYOUT.as_bytes(), release.as_bytes(), &image]);
        Ok(Manifest { identity, facts: BTreeMap::from([(RELEASE.to_owned(), release)]) })
    })
}

/// `uname -r` of the part's kernel.
pub fn release(part: &Part) -> Result<String, Error> {
    part.facts.get(RELEASE).cloned().ok_or_else(|| Error::KernelImage {
        path: part.path(BZIMAGE),
        reason: "its manifest names no release; remove the directory and try again".into(),
    })
}

/// The one `lib/modules/<release>` of an unpacked package (under `usr/` in packages of merged-usr releases).
fn modules_dir(tree: &Path) -> Result<PathBuf, Error> {
    let bases = ["lib/modules", "usr/lib/modules"].map(|base| tree.join(base));
    let base = bases.iter().find(|base| base.is_dir()).ok_or(Error::NoKernelPackage { package: KERNEL_PACKAGE })?;
    files::list(base)?.pop().ok_or(Error::NoKernelPackage { package: KERNEL_PACKAGE })
}

/// Writes `modules.dep` and the binary indexes that the guest's `modprobe` reads; the package makes them only when
/// it is installed.
fn index_modules(modules_dir: &Path, release: &str) -> Result<(), Error> {
    // depmod -b BASE looks at BASE/lib/modules/RELEASE.
    let base = modules_dir.ancestors().nth(3).unwrap_or(modules_dir);
    tool::DEPMOD.run(tool::DEPMOD.command().arg("-b").arg(base).arg(release))
}
