//! Invariants on the dependency graph as cargo resolves it.

use std::process::Command;

use super::Violations;
use crate::{Outcome, process, workspace};

/// Anything of these in the guest daemon would grow every guest by megabytes it never uses.
const HEAVY: &[&str] = &["aws-lc", "openssl", "rustls", "zstd-sys"];

/// INV-10.
pub fn lock_is_tracked() -> Outcome<Violations> {
    let mut git = Command::new("git");
    Ok(untracked_lock(&process::output(git.args(["ls-files", "Cargo.lock"]).current_dir(workspace::root()))?))
}

fn untracked_lock(listing: &str) -> Violations {
    let tracked = listing.lines().any(|path| path == "Cargo.lock");
    if tracked { Vec::new() } else { vec!["git does not track Cargo.lock".to_owned()] }
}

/// INV-11.
pub fn light_envd() -> Outcome<Violations> {
    let tree = workspace::cargo(&["tree", "--package", "envd", "--edges", "normal", "--prefix", "none"]);
    Ok(heavy(&process::output(&mut { tree })?))
}

fn heavy(tree: &str) -> Violations {
    let mut lines: Vec<&str> = tree.lines().filter(|line| HEAVY.iter().any(|name| line.starts_with(name))).collect();
    lines.sort_unstable();
    lines.dedup();
    lines.into_iter().map(|line| format!("envd links {}", line.trim_end_matches(" (*)"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_untracked_lock() {
        assert_eq!(untracked_lock("").len(), 1);
        assert!(untracked_lock("Cargo.lock\n").is_empty());
    }

    #[test]
    fn finds_planted_tls() {
        let tree = "envd v0.1.0\nhyper v1.0.0\nrustls v0.23.1\naws-lc-rs v1.2.0\nrustls v0.23.1 (*)\n";
        assert_eq!(heavy(tree).len(), 3);
        assert!(heavy("envd v0.1.0\ntokio v1.0.0\n").is_empty());
    }
}
