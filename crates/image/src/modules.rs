//! Which kernel modules the initramfs carries, and in which order they can be inserted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::{Error, files};

/// What a guest needs before its root disk is mounted; dependencies follow from `modules.dep`.
///
/// PCI is QEMU's transport, MMIO Firecracker's. The network card is here so that no file of the root disk is needed
/// to reach the guest.
const WANTED: &[&str] = &["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "ext4"];

/// Loaded when the kernel has it. ext4 checksums its metadata with crc32c, several times faster in hardware; the other two are
/// for devices of Firecracker: its entropy, and the balloon by which free pages go back to the host.
const WELCOME: &[&str] = &["crc32c_intel", "virtio_rng", "virtio_balloon"];

/// Unpacked modules are at most this large.
const MAX_MODULE_BYTES: u64 = 64 << 20;

/// One kernel's modules, as `depmod` describes them. Names are spelled with underscores, as the kernel prints them.
#[derive(Debug, Default)]
pub struct Index {
    files: BTreeMap<String, String>,
    dependencies: BTreeMap<String, Vec<String>>,
    built_in: BTreeSet<String>,
}

impl Index {
    /// Reads `modules.dep` and `modules.builtin` of a `/lib/modules/<release>` directory.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        Ok(Self::parse(&files::read_text(&dir.join("modules.dep"))?, &files::read_text(&dir.join("modules.builtin"))?))
    }

    /// `dep` has lines `path: path path…`, `builtin` one path per line.
    fn parse(dep: &str, builtin: &str) -> Self {
        let mut index = Self { built_in: builtin.lines().map(module_name).collect(), ..Self::default() };
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let name = module_name(path);
            index.dependencies.insert(name.clone(), needs.split_whitespace().map(module_name).collect());
            index.files.insert(name, path.to_owned());
        }
        index
    }

    /// Names and paths (below the modules directory) for a boot, each after everything it depends on.
    pub fn boot_order(&self, release: &str) -> Result<Vec<(String, String)>, Error> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in WELCOME.iter().filter(|name| self.files.contains_key(**name)) {
            self.visit(name, release, &mut seen, &mut order)?;
        }
        for name in WANTED {
            self.visit(name, release, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Depth first: dependencies, then the module itself; `seen` also ends a cycle.
    fn visit(
        &self,
        name: &str,
        release: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<(String, String)>,
    ) -> Result<(), Error> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            return Err(Error::MissingModule { release: release.to_owned(), module: name.to_owned() });
        };
        // depmod lists the direct dependency first and its dependencies behind it.
        for dependency in self.dependencies.get(name).into_iter().flatten().rev() {
            self.visit(dependency, release, seen, order)?;
        }
        order.push((name.to_owned(), path.clone()));
        Ok(())
    }
}

/// Copies the boot modules of `modules_dir` to `out` as `NN-name.ko`, unpacked, in insertion order.
pub fn collect(modules_dir: &Path, release: &str, out: &Path) -> Result<(), Error> {
    files::create_dir(out)?;
    for (position, (name, path)) in Index::read(modules_dir)?.boot_order(release)?.iter().enumerate() {
        let bytes = unpack(&modules_dir.join(path))?;
        files::write(&out.join(format!("{position:02}-{name}.ko")), bytes)?;
    }
    Ok(())
}

/// Some kernel packages ship `.ko.zst`; inserting those needs a helper the initramfs has not.
fn unpack(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = files::read(path)?;
    if path.extension().is_none_or(|extension| extension != "zst") {
        return Ok(bytes);
    }
    let mut module = Vec::new();
    zstd::Decoder::new(&bytes[..])
        .and_then(|decoder| decoder.take(MAX_MODULE_BYTES).read_to_end(&mut module))
        .map_err(Error::io("unpack", path))?;
    Ok(module)
}

/// `kernel/arch/x86/crypto/crc32c-intel.ko.zst` → `crc32c_intel`.
fn module_name(path: &str) -> String {
    let file = PathBuf::from(path);
    let file = files::name(&file);
    file.split_once(".ko").map_or(file, |(stem, _)| stem).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci_modern_dev.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_modern_dev.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_mmio.ko.zst: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/core/failover.ko:
kernel/drivers/net/virtio-net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/arch/x86/crypto/crc32c-intel.ko:
";

    #[test]
    fn every_module_comes_after_its_dependencies() {
        let index = Index::parse(DEP, "kernel/fs/ext4/ext4.ko\n");
        let order: Vec<String> = index.boot_order("r").unwrap().into_iter().map(|(name, _)| name).collect();
        for (name, needs) in &index.dependencies {
            let position = |name| order.iter().position(|other| other == name);
            for need in needs {
                assert!(position(need) < position(name), "{need} must precede {name} in {order:?}");
            }
        }
        assert_eq!(order.len(), index.files.len(), "each module once, the built-in ext4 not at all: {order:?}");
    }

    #[test]
    fn names_the_missing_module() {
        let error = Index::parse(DEP, "").boot_order("6.1").unwrap_err();
        assert!(matches!(error, Error::MissingModule { module, .. } if module == "ext4"));
    }

    #[test]
    fn module_names_are_the_kernels() {
        assert_eq!(module_name("kernel/a/crc32c-intel.ko.zst"), "crc32c_intel");
        assert_eq!(module_name("kernel/a/virtio.ko"), "virtio");
    }
}
