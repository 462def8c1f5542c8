//! QEMU's command line.

use std::path::Path;

use serde_json::json;

use super::{Accelerator, MACHINE_TYPE, Qemu, SOCKET, Version};
use crate::spec::text;
use crate::{BootSource, Confinement, MachineSpec, Memory, SpecError, Start};

/// Places on the PCI bus are part of the saved state, so they do not depend on which devices exist.
const NIC_SLOT: &str = "0x3";
const ROOT_SLOT: &str = "0x4";
const MODULES_SLOT: &str = "0x5";

/// From here on `-chroot` is deprecated, and gone with 9.0 (QEMU's `docs/about/removed-features.rst`).
const CHROOT_BY_RUN_WITH: Version = Version(8, 1);

/// From here on `-runas` is deprecated (QEMU's `docs/about/deprecated.rst`).
const USER_BY_RUN_WITH: Version = Version(9, 1);

/// Translated code kept per machine, MiB. QEMU's own default is an eighth of the host's memory, for each.
const TRANSLATION_CACHE_MIB: u32 = 128;

/// QEMU's name of the root disk.
pub(super) const ROOT_NODE: &str = "root";

/// Arguments for a machine that waits, stopped, with its control socket in the current directory and its console on
/// standard output.
pub(super) fn arguments(qemu: &Qemu, spec: &MachineSpec, start: &Start) -> Result<Vec<String>, SpecError> {
    spec.check()?;
    let mut args = Vec::with_capacity(64);
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    // Nothing QEMU would make up by itself, and no system call it does not need. `elevateprivileges=deny` would keep it from
    // giving up its rights; once it has, those calls fail by themselves.
    let elevate = if spec.confinement.is_some() { "allow" } else { "deny" };
    add("-sandbox", format!("on,obsolete=deny,elevateprivileges={elevate},spawn=deny,resourcecontrol=deny"));
    add("-machine", machine());
    add("-accel", accelerator(qemu.accelerator));
    add("-cpu", qemu.cpu.model.to_owned());
    add("-smp", format!("cpus={0},maxcpus={0}", spec.vcpus));
    add("-m", format!("{}M", spec.memory_bytes >> 20));
    add("-object", memory(qemu, spec)?);
    // The state is saved without the section that names the machine type.
    add("-global", "migration.send-configuration=off".to_owned());
    add("-chardev", "stdio,id=console,signal=off".to_owned());
    add("-serial", "chardev:console".to_owned());
    add("-chardev", format!("socket,id=control,path={SOCKET},server=on,wait=off"));
    add("-mon", "chardev=control,mode=control".to_owned());
    add("-blockdev", disk(ROOT_NODE, &spec.root_disk, false)?);
    add("-device", format!("virtio-blk-pci,drive={ROOT_NODE},addr={ROOT_SLOT},num-queues=1,disable-legacy=on"));
    if let Some(path) = &spec.modules_disk {
        add("-blockdev", disk("modules", path, true)?);
        add("-device", format!("virtio-blk-pci,drive=modules,addr={MODULES_SLOT},num-queues=1,disable-legacy=on"));
    }
    if let Some(nic) = &spec.network {
        add("-netdev", format!("tap,id=net,ifname={},script=no,downscript=no", nic.tap));
        // No option ROM: nobody boots from the network, and it costs a file read at every start.
        add("-device", format!("virtio-net-pci,netdev=net,mac={},addr={NIC_SLOT},romfile=,disable-legacy=on", nic.mac));
    }
    if let Some(confinement) = &spec.confinement {
        confine(qemu.version, confinement, &mut add)?;
    }
    match start {
        Start::Load => add("-incoming", "defer".to_owned()),
        Start::Boot(source) => boot(source, &mut add)?,
    }
    // A guest that resets or powers off ends its VMM.
    let flags = ["-no-user-config", "-nodefaults", "-no-reboot", "-S"].map(str::to_owned);
    args.extend(flags);
    args.extend(["-display".to_owned(), "none".to_owned()]);
    Ok(args)
}

/// QEMU does so when its files are open, and before it listens to anybody (`os_setup_post`).
fn confine(version: Version, to: &Confinement, add: &mut impl FnMut(&str, String)) -> Result<(), SpecError> {
    let (root, user) = (text(&to.root)?, format!("{}:{}", to.user.uid, to.user.gid));
    if version >= CHROOT_BY_RUN_WITH {
        // A comma in the path would end the option.
        add("-run-with", format!("chroot={}", root.replace(',', ",,")));
    } else {
        add("-chroot", root.to_owned());
    }
    if version >= USER_BY_RUN_WITH {
        add("-run-with", format!("user={user}"));
    } else {
        add("-runas", user);
    }
    Ok(())
}

fn boot(source: &BootSource, add: &mut impl FnMut(&str, String)) -> Result<(), SpecError> {
    source.check()?;
    add("-kernel", text(&source.kernel)?.to_owned());
    add("-initrd", text(&source.initramfs)?.to_owned());
    add("-append", source.cmdline.clone());
    Ok(())
}

fn machine() -> String {
    // Pages are not offered to KSM: equal pages of different guests must not become visible by timing.
    let options = "memory-backend=ram,mem-merge=off,dump-guest-core=off,suppress-vmdesc=on,usb=off,vmport=off,smbus=off,smm=off,hpet=off";
    format!("{MACHINE_TYPE},{options}")
}

fn accelerator(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"),
    }
}

/// `share=off` is `MAP_PRIVATE`. Before 8.2 a read-only file could back read-only guest memory only, so those
/// open it for writing, and never write.
fn memory(qemu: &Qemu, spec: &MachineSpec) -> Result<String, SpecError> {
    let Memory::File(file) = &spec.memory else { return Err(SpecError::Pager) };
    let mut object = json!({
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": spec.memory_bytes,
        "mem-path": text(file)?,
        "share": false,
    });
    if qemu.version >= Version(8, 2)
        && let Some(fields) = object.as_object_mut()
    {
        fields.insert("readonly".to_owned(), true.into());
        fields.insert("rom".to_owned(), "off".into());
    }
    Ok(object.to_string())
}

/// JSON, because a comma in a path would end an option in QEMU's own syntax.
fn disk(node: &str, path: &Path, read_only: bool) -> Result<String, SpecError> {
    let file = json!({ "driver": "file", "filename": text(path)?, "read-only": read_only });
    let node = json!({ "driver": "raw", "node-name": node, "read-only": read_only, "discard": "unmap", "file": file });
    Ok(node.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Nic, Tier, Vmm};

    fn qemu(version: Version) -> Qemu {
        let cpu = super::super::Cpu { model: "EPYC-v3", class: "EPYC-v3".to_owned() };
        Qemu { program: "qemu".into(), version, accelerator: Accelerator::Tcg, cpu }
    }

    fn spec() -> MachineSpec {
        MachineSpec {
            vcpus: 2,
            memory_bytes: 512 << 20,
            memory: Memory::File("/pool/a,b \"c\"/memory".into()),
            root_disk: "/pool/disk,format=qcow2".into(),
            modules_disk: None,
            network: None,
            runtime_dir: "/run/x".into(),
            confinement: None,
        }
    }

    fn value<'a>(args: &'a [String], option: &str, containing: &str) -> Option<&'a str> {
        let found = args.windows(2).find(|pair| pair[0] == option && pair[1].contains(containing))?;
        Some(&found[1])
    }

    #[test]
    fn paths_cannot_become_options() -> Result<(), Box<dyn std::error::Error>> {
        let args = arguments(&qemu(Version(7, 2)), &spec(), &Start::Load)?;
        let memory: serde_json::Value = serde_json::from_str(value(&args, "-object", "ram").ok_or("no memory")?)?;
        assert_eq!((&memory["mem-path"], &memory["share"]), (&json!("/pool/a,b \"c\"/memory"), &json!(false)));
        let disk: serde_json::Value = serde_json::from_str(value(&args, "-blockdev", "root").ok_or("no disk")?)?;
        assert_eq!(disk["file"]["filename"], json!("/pool/disk,format=qcow2"));
        assert_eq!(value(&args, "-incoming", ""), Some("defer"));
        assert_eq!(value(&args, "-kernel", ""), None);
        Ok(())
    }

    #[test]
    fn memory_files_are_opened_read_only_where_qemu_can() -> Result<(), SpecError> {
        for (version, read_only) in [((7, 2), false), ((8, 1), false), ((8, 2), true), ((10, 0), true)] {
            let args = arguments(&qemu(Version(version.0, version.1)), &spec(), &Start::Load)?;
            assert_eq!(value(&args, "-object", "\"readonly\":true").is_some(), read_only);
        }
        Ok(())
    }

    #[test]
    fn rights_are_given_up_as_each_version_wants_it() -> Result<(), SpecError> {
        let user = crate::User { uid: 7, gid: 8 };
        let spec = MachineSpec { confinement: Some(Confinement { user, root: "/a,b".into() }), ..spec() };
        for (version, expected) in [
            ((7, 2), "-chroot /a,b -runas 7:8"),
            ((8, 1), "-run-with chroot=/a,,b -runas 7:8"),
            ((9, 1), "-run-with chroot=/a,,b -run-with user=7:8"),
        ] {
            let args = arguments(&qemu(Version(version.0, version.1)), &spec, &Start::Load)?.join(" ");
            assert!(args.contains(expected) && args.contains("elevateprivileges=allow"), "{version:?}: {args}");
        }
        Ok(())
    }

    #[test]
    fn impossible_machines_are_refused() {
        let qemu = qemu(Version(7, 2));
        let nic = |tap: &str| Some(Nic { tap: tap.to_owned(), mac: crate::Mac([2, 0xfc, 0, 0, 0, 5]) });
        for bad in [
            MachineSpec { vcpus: 0, ..spec() },
            MachineSpec { vcpus: 1000, ..spec() },
            MachineSpec { memory_bytes: 4096, ..spec() },
            MachineSpec { memory_bytes: 0, ..spec() },
            MachineSpec { network: nic("tap0,script=/x"), ..spec() },
            MachineSpec { memory: Memory::Pager("pager.sock".into()), ..spec() },
            MachineSpec { network: nic(""), ..spec() },
            MachineSpec { network: nic("sixteen-letters-"), ..spec() },
        ] {
            assert!(qemu.command(&bad, &Start::Load).is_err(), "{bad:?}");
        }
        let boot = |cmdline: &str| {
            Start::Boot(BootSource { kernel: "k".into(), initramfs: "i".into(), cmdline: cmdline.to_owned() })
        };
        assert_eq!(qemu.command(&spec(), &boot("a\nb")), Err(SpecError::Cmdline));
        assert_eq!(qemu.command(&spec(), &boot(&"x".repeat(3000))), Err(SpecError::Cmdline));
        assert!(qemu.command(&spec(), &boot("quiet")).is_ok());
        assert_eq!(qemu.tier(), Tier::QemuTcg);
    }
}
