//! Installing the packages the platform needs at run time.

use crate::doctor::programs;
use crate::failure::{Failure, Outcome};
use std::io::{self, BufRead, IsTerminal, Write};
use sys::spawn::{Exit, Spawn, Stream};

/// Installs what is missing, after asking unless `yes`.
pub fn install_missing(yes: bool) -> Outcome {
    let missing = programs::missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let failure = || Failure::plain(format_args!("missing packages: {list}"));
    if programs::find("apt-get").is_none() {
        return Err(failure().hint(programs::installation(&missing)));
    }
    if !yes && !agreed(&list) {
        return Err(failure().hint(format_args!("{}, or `wrenn up --yes`", programs::installation(&missing))));
    }
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat())
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
