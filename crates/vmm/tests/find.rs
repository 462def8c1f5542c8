//! What is found out about this host's QEMU.

use std::error::Error;
use std::path::Path;

use vmm::ProgramError;
use vmm::qemu::{Accelerator, FindError, Qemu};
use vmm::{Tier, Vmm};

#[test]
fn the_installed_qemu_is_found() -> Result<(), Box<dyn Error>> {
    for (accelerator, tier) in [(Accelerator::Tcg, Tier::QemuTcg), (Accelerator::Kvm, Tier::QemuKvm)] {
        let qemu = Qemu::find(None, accelerator)?;
        assert_eq!(qemu.tier(), tier);
        let class = qemu.compatibility("linux-6.1").to_string();
        assert!(class.starts_with(&format!("x86_64/{tier}/")) && class.ends_with("/linux-6.1"), "{class}");
    }
    Ok(())
}

#[test]
fn what_is_no_qemu_is_said_to_be_none() {
    assert!(matches!(
        Qemu::find(Some(Path::new("/no/such/qemu")), Accelerator::Tcg),
        Err(FindError::Program(ProgramError::Run { .. }))
    ));
    assert!(matches!(
        Qemu::find(Some(Path::new("/bin/echo")), Accelerator::Tcg),
        Err(FindError::Program(ProgramError::NoVersion { .. }))
    ));
}

#[tokio::test]
async fn a_device_node_does_not_prove_that_anything_boots() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let kernel = dir.path().join("vmlinux");
    std::fs::write(&kernel, vec![0; 1 << 20])?;
    assert!(!Qemu::find(None, Accelerator::Kvm)?.boots(&kernel).await?);
    assert!(Qemu::find(None, Accelerator::Tcg)?.boots(&kernel).await?, "an emulator is not tried");
    Ok(())
}
