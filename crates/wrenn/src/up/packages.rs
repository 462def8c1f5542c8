//! Debian packages the platform calls at run time.

use crate::failure::{Failure, Outcome};
use std::env;
use std::io::{self, BufRead, IsTerminal, Write};
use sys::spawn::{Exit, Spawn, Stream};

/// A program or file, and the package it comes in.
const NEEDED: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("nft", "nftables"),
    ("mkfs.xfs", "xfsprogs"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ("depmod", "kmod"),
];

/// Installs what is missing, after asking unless `yes`.
pub fn install_missing(yes: bool) -> Outcome {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let failure = || Failure::plain(format_args!("missing packages: {list}"));
    if !exists("apt-get") {
        return Err(failure().hint("install what your distribution calls them"));
    }
    if !yes && !agreed(&list) {
        return Err(failure().hint(format_args!("apt-get install {list}, or `wrenn up --yes`")));
    }
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat())
}

fn missing() -> Vec<&'static str> {
    NEEDED.iter().filter(|(program, _)| !exists(program)).map(|(_, package)| *package).collect()
}

/// Also where an ordinary user's `PATH` does not lead. Joining an absolute path gives that path.
fn exists(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(name).is_file())
}

/// Only a person at a terminal can agree.
fn agreed(list: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let _ = write!(io::stderr(), "Install {list} with apt-get? [Y/n] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok_and(|bytes| bytes > 0) && matches!(answer.trim(), "" | "y" | "Y" | "yes")
}

fn apt(args: &[&str]) -> Outcome {
    let failed = |why: String| Failure::plain(format_args!("apt-get {}: {why}", args.join(" ")));
    let spawn = Spawn::new("apt-get").args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(args).inherit_env();
    let spawn = spawn.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stream::Null).stderr(Stream::Inherit);
    match spawn.spawn().and_then(|mut process| process.wait()).map_err(|error| failed(error.to_string()))? {
        Exit::Code(0) => Ok(()),
        exit => Err(failed(format!("{exit:?}"))),
    }
}
