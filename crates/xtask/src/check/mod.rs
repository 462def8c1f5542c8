//! `cargo xtask check`: formatting, lints, and the numbered invariants of ARCHITECTURE.md.
//!
//! An invariant is a function from what was read of the checkout to a list of violations, so that each can be shown
//! a planted one.

mod dependencies;
mod rooms;
mod source;

use std::process::Command;
use std::time::Instant;

use crate::{Outcome, process, workspace};
use rooms::Room;
use source::SourceFile;

/// What the invariants look at.
struct Checkout {
    rooms: Vec<Room>,
    files: Vec<SourceFile>,
}

/// Violations, one line each; none means the invariant holds.
type Violations = Vec<String>;

struct Invariant {
    id: &'static str,
    title: &'static str,
    verify: fn(&Checkout) -> Outcome<Violations>,
}

const INVARIANTS: &[Invariant] = &[
    Invariant {
        id: "INV-01",
        title: "dependencies between rooms point downwards",
        verify: |c| Ok(rooms::downwards(&c.rooms)),
    },
    Invariant {
        id: "INV-02",
        title: "no room knows what it must never know",
        verify: |c| Ok(rooms::unknowing(&c.rooms)),
    },
    Invariant { id: "INV-03", title: "unsafe code lives in sys alone", verify: |c| Ok(source::no_unsafe(&c.files)) },
    Invariant {
        id: "INV-04",
        title: "lifecycle has no clock, randomness, I/O or async",
        verify: |c| Ok(source::pure_lifecycle(&c.files)),
    },
    Invariant {
        id: "INV-05",
        title: "processes are started through sys",
        verify: |c| Ok(source::no_stray_processes(&c.files)),
    },
    Invariant { id: "INV-06", title: "files have at most 500 lines", verify: |c| Ok(source::short_files(&c.files)) },
    Invariant {
        id: "INV-07",
        title: "functions have at most 80 lines",
        verify: |c| Ok(source::short_functions(&c.files)),
    },
    Invariant { id: "INV-08", title: "nothing is left unfinished", verify: |c| Ok(source::finished(&c.files)) },
    Invariant {
        id: "INV-09",
        title: "no machine paths, no registry hosts",
        verify: |c| Ok(source::portable(&c.files)),
    },
    Invariant { id: "INV-10", title: "Cargo.lock is tracked", verify: |_| dependencies::lock_is_tracked() },
    Invariant {
        id: "INV-11",
        title: "the guest daemon links no TLS or C compression",
        verify: |_| dependencies::light_envd(),
    },
    Invariant {
        id: "INV-12",
        title: "xtask has at most two dependencies",
        verify: |c| Ok(rooms::light_xtask(&c.rooms)),
    },
    Invariant { id: "INV-13", title: "every room says what it knows", verify: |c| Ok(source::introduced(&c.files)) },
    Invariant { id: "INV-14", title: "tests that the docs name exist", verify: |c| Ok(source::named_tests(&c.files)) },
];

/// Verifies everything and reports all violations, not only the first.
pub fn run() -> Outcome {
    let mut failed = 0;
    let checkout = Checkout { rooms: rooms::read(&workspace::metadata()?)?, files: source::read(&workspace::root())? };
    for Invariant { id, title, verify } in INVARIANTS {
        let start = Instant::now();
        let violations = verify(&checkout)?;
        let verdict = if violations.is_empty() { "ok" } else { "FAILED" };
        println!("{id} {title} … {verdict} ({:.1} s)", start.elapsed().as_secs_f32());
        for violation in &violations {
            println!("       {violation}");
        }
        failed += usize::from(!violations.is_empty());
    }
    for (title, mut command) in lints() {
        if let Err(failure) = process::step(title, || process::run(&mut command)) {
            println!("{failure}");
            failed += 1;
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} checks failed")) }
}

/// Formatting and clippy; the guest daemon apart, because it is built apart.
fn lints() -> [(&'static str, Command); 3] {
    let deny = ["--", "--deny", "warnings"];
    let mut workspace_lints = workspace::cargo(&["clippy", "--workspace", "--exclude", "envd", "--all-targets"]);
    workspace_lints.args(deny);
    let mut envd_lints = workspace::cargo(&["clippy", "--package", "envd", "--all-targets"]);
    envd_lints.args(deny);
    [
        ("formatting", workspace::cargo(&["fmt", "--all", "--check"])),
        ("clippy", workspace_lints),
        ("clippy of the guest daemon", envd_lints),
    ]
}
