//! The compilers a build needs.

use std::path::Path;
use std::process::Command;

use crate::packages::{self, Need, Present};
use crate::{Outcome, process};

/// Oldest Rust that compiles this workspace: `rust-version` in Cargo.toml.
const RUST_MINOR: u32 = 95;

/// Needed before anything else can be built.
const COMPILERS: &[Need] = &[
    Need { package: "gcc", present: Present::Program("cc"), why: "compiles SQLite and links" },
    Need {
        package: "libc6-dev",
        present: Present::File("/usr/lib/x86_64-linux-gnu/libc.a"),
        why: "links the guest daemon statically",
    },
];

/// Packages of the C compiler that are missing.
pub fn missing() -> Vec<&'static Need> {
    packages::missing(COMPILERS)
}

/// Checks that rustc is recent enough.
pub fn check_rust() -> Outcome {
    let version = process::output(Command::new("rustc").arg("--version"))?;
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if version.starts_with("rustc 1.") && minor.is_some_and(|minor| minor >= RUST_MINOR) {
        return Ok(());
    }
    let remedy = if Path::new("/etc/debian_version").exists() { "rustup update stable" } else { "update it" };
    Err(format!("Rust 1.{RUST_MINOR} or later is needed, this is {}: {remedy}", version.trim()))
}
