//! A real Firecracker that is nobody and sees next to nothing, with a guest in it that finds out if a byte of its memory is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod fc;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use fc::{MEMORY_BYTES, Result, Saved, Vm, firecracker, source};
use vmm::{Memory, Start, User};

fn user(number: u32) -> User {
    User { uid: 0x7000_0000 + number, gid: 0x7000_0000 + number }
}

/// Saves it where only root may write.
async fn saved(vm: &Vm, dir: &Path, base: Option<&Path>) -> Result<Saved> {
    fs::create_dir(dir)?;
    let saved = vm.saved(dir, base).await?;
    // As a generation's memory is.
    fs::set_permissions(&saved.memory, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    for file in [&saved.memory, &saved.state] {
        assert_eq!(fs::metadata(file)?.uid(), 0, "what is saved is ours");
    }
    assert_eq!(fs::metadata(&saved.memory)?.len(), MEMORY_BYTES);
    Ok(saved)
}

#[tokio::test]
async fn a_jailed_machine_is_saved_and_loaded_like_any_other() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let source = source(dir.path())?;
    let start = Start::Boot(source.clone());
    let mut first = Vm::jailed(&firecracker, user(1), Memory::File("/".into()), &start).await?;
    first.machine.boot(&first.spec, &source).await?;
    first.reaches(70).await?;
    let booted = saved(&first, &dir.path().join("booted"), None).await?;
    // It goes on, and what it saves a second time is whole as well.
    first.machine.resume().await?;
    first.reaches(booted.rounds()? + 70).await?;
    let later = saved(&first, &dir.path().join("later"), Some(&booted.memory)).await?;
    assert!(later.rounds()? >= booted.rounds()? + 70);

    for (number, parent) in [(2, &booted), (3, &later)] {
        let rounds = parent.rounds()?;
        let mut clone =
            Vm::jailed(&firecracker, user(number), Memory::File(parent.memory.clone()), &Start::Load).await?;
        clone.machine.load(&clone.spec, &parent.state).await?;
        clone.machine.resume().await?;
        clone.reaches(rounds + 70).await?;
        let again = saved(&clone, &dir.path().join(number.to_string()), Some(&parent.memory)).await?;
        assert!(again.rounds()? >= rounds + 70);
        assert_eq!(parent.rounds()?, rounds, "a clone changes nothing of what it began with");
    }
    Ok(())
}

#[tokio::test]
async fn a_jailed_vmm_has_no_rights_and_sees_only_its_own() -> Result {
    let Some(firecracker) = firecracker()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let source = source(dir.path())?;
    let vm = Vm::jailed(&firecracker, user(1), Memory::File("/".into()), &Start::Boot(source.clone())).await?;
    vm.machine.boot(&vm.spec, &source).await?;
    let process = Path::new("/proc").join(vm.keeper.vmm_pid().to_string());
    let status = fs::read_to_string(process.join("status"))?;
    let uid = user(1).uid;
    for line in [
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
        format!("Gid:\t{uid}\t{uid}\t{uid}\t{uid}"),
        format!("Groups:\t{uid} "),
        "CapEff:\t0000000000000000".to_owned(),
        "CapPrm:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
    ] {
        assert!(status.lines().any(|found| found == line), "{line} is not in {status}");
    }
    // By the eyes of the process itself.
    let root = process.join("root");
    let seen = |dir: &Path| -> Result<Vec<String>> {
        let names = fs::read_dir(root.join(dir.strip_prefix("/")?))?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names: Vec<_> = names.collect::<std::io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
    };
    for hidden in ["/etc", "/proc", "/run", "/root", "/var"] {
        assert!(!root.join(hidden.trim_start_matches('/')).exists(), "{hidden} is seen");
    }
    let dev = seen(Path::new("/dev"))?;
    let known = ["kvm", "net", "urandom", "userfaultfd"];
    assert!(dev.iter().all(|name| known.contains(&name.as_str())), "{dev:?}");
    assert_eq!(seen(vm.dir.path())?, ["disk.raw", "vmm"]);
    assert_eq!(seen(dir.path())?, ["guest", "initramfs"]);
    assert!(vm.keeper.dir().join("console.sock").exists(), "outside there is more");
    Ok(())
}
