//! The Firecracker to test with.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Once;

use vmm::firecracker::Firecracker;

/// Whether it has been said that there is none.
static SAID: Once = Once::new();

/// That of `WRENN_FIRECRACKER` or in `PATH`; none when this machine has none or it cannot run guests, which is said together with
/// what is tested `instead`.
pub fn firecracker(instead: &str) -> Result<Option<Firecracker>, Box<dyn Error + Send + Sync>> {
    let program = std::env::var_os("WRENN_FIRECRACKER").map(PathBuf::from);
    let wanted = program.is_some();
    let missing = match Firecracker::find(program.as_deref()) {
        Ok(found) if File::options().read(true).write(true).open("/dev/kvm").is_ok() => return Ok(Some(found)),
        Ok(_) => "/dev/kvm does not open".into(),
        Err(error) if wanted => return Err(error.into()),
        Err(error) => error.to_string(),
    };
    // Past the test harness, which hides what passing tests print.
    SAID.call_once(|| {
        let _ = writeln!(io::stderr(), "not run with a real Firecracker: {missing}; {instead}");
    });
    Ok(None)
}
