//! Programs the platform calls at run time, and the Debian packages they come in.

use super::check::Finding;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use sys::spawn::{Exit, Spawn};

/// One a line: a program or file, the package it comes in, what for.
const NEEDED: &str = include_str!("../../packages.txt");

/// Packages of which the program is not there.
pub fn missing() -> Vec<&'static str> {
    let needed = NEEDED.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?, words.next()?))
    });
    needed.filter(|(program, _)| find(program).is_none()).map(|(_, package)| package).collect()
}

/// Where a program is. Also where an ordinary user's `PATH` does not lead; an absolute path is itself.
pub fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(if path.is_empty() { "/usr/sbin:/sbin" } else { ":/usr/sbin:/sbin" });
    path
}

/// Standard output of a program that ended well; else what it said on stderr.
pub fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Spawn::new(program).args(args).inherit_env().env("PATH", search_path()).output()?;
    match output.exit {
        Exit::Code(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        exit => match String::from_utf8_lossy(&output.stderr).trim() {
            "" => Err(io::Error::other(format!("{program}: {exit:?}"))),
            said => Err(io::Error::other(said.to_owned())),
        },
    }
}

/// What to type to install packages.
pub fn installation(packages: &[&str]) -> String {
    match find("apt-get") {
        Some(_) => format!("apt-get install {}", packages.join(" ")),
        None => format!("install what your distribution calls {}", packages.join(", ")),
    }
}

/// Whether all of them are there.
pub fn packages(missing: &[&str]) -> Finding {
    match missing {
        [] => Finding::ok("all are installed"),
        missing => Finding::fail(
            format!("missing: {}", missing.join(" ")),
            format!("{}, or let `wrenn up` do it", installation(missing)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    #[test]
    fn every_line_names_a_program_a_package_and_a_purpose() {
        assert!(NEEDED.lines().count() > 5);
        for line in NEEDED.lines() {
            assert!(line.split_ascii_whitespace().count() > 2, "{line}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(packages(&[]).verdict, Verdict::Ok);
        let finding = packages(&["nftables", "kmod"]);
        assert_eq!((finding.verdict, &*finding.found), (Verdict::Fail, "missing: nftables kmod"));
        assert!(finding.remedy.is_some_and(|remedy| remedy.contains("nftables")));
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        assert_eq!(run("sh", &["-c", "echo out"]).unwrap(), "out\n");
        assert_eq!(run("sh", &["-c", "echo bad >&2; exit 1"]).unwrap_err().to_string(), "bad");
        assert_eq!(run("no-such-program", &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
