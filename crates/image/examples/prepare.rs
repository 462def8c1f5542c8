//! Prepares guest artefacts without a platform: `cargo run -p image --example prepare -- DIR ENVD`.
//! `DIR/current` then has links with plain names; `cargo xtask test` hands it to the tests that boot virtual machines.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use image::{Artifacts, DEFAULT_ROOT_DISK_MB, Options, Outcome, Progress, Source, Step};

struct Lines;

impl Progress for Lines {
    fn started(&self, step: Step) {
        let _ = writeln!(io::stderr(), "{step}: started");
    }
    fn advanced(&self, step: Step, fraction: f32, doing: &str) {
        let _ = write!(io::stderr(), "\r{step}: {:3.0} % {doing}          ", fraction * 100.0);
    }
    fn finished(&self, step: Step, outcome: Outcome) {
        let _ = writeln!(io::stderr(), "\r{step}: {outcome:?}                              ");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(dir), Some(envd)) = (arguments.next(), arguments.next()) else {
        return Err("usage: prepare DIR ENVD".into());
    };
    let options =
        Options { dir: dir.into(), envd: envd.into(), source: Source::from_env(), root_disk_mb: DEFAULT_ROOT_DISK_MB };
    let artifacts = image::prepare(&options, &Lines)?;
    link(&artifacts, &options.dir.join("current"))?;
    writeln!(io::stdout(), "{artifacts:#?}")?;
    Ok(())
}

fn link(artifacts: &Artifacts, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let links = [
        ("bzImage", &artifacts.kernel),
        ("vmlinux", &artifacts.kernel_elf),
        ("initramfs", &artifacts.initramfs),
        ("modules.img", &artifacts.modules_disk),
        ("rootfs.img", &artifacts.root_disk),
    ];
    for (name, target) in links {
        let (link, temporary) = (dir.join(name), dir.join(format!(".{name}")));
        symlink(fs::canonicalize(target)?, &temporary)?;
        fs::rename(temporary, link)?;
    }
    Ok(())
}
