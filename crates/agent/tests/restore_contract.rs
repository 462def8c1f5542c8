//! docs/restore.md is written by this table: what a restore may break, what is done about it, and which tests see that.
//!
//! That the tests exist is verified by `cargo xtask check` (INV-14).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use vmm::firecracker::{self, Firecracker, Version};
use vmm::qemu::{self, Accelerator, Qemu};

const INTRO: &str = "\
# What a restore may break, and what we do about it

Written by `UPDATE_DOCS=1 cargo test -p agent --test restore_contract`; a test compares it with its table.

A capsule that is resumed, and one that begins as a clone, run memory that was saved earlier. Each row: what can go wrong then, what is done about it, the tests that hold us to it, and
what each of them sees when it passes, in the same order. `cargo xtask check` verifies that each of them exists, `cargo xtask test` runs them; results that begin with \"Firecracker\" are
those of a real one, where `WRENN_FIRECRACKER` names it.

| hazard | policy | tests | result |
|---|---|---|---|
";

/// A row.
struct Hazard {
    what: &'static str,
    policy: &'static str,
    proofs: &'static [Proof],
}

/// A test, and what it sees when it passes.
type Proof = (&'static str, &'static str);

const HAZARDS: [Hazard; 12] = [
    Hazard {
        what: "two clones with the same random numbers, keys, ids",
        policy: "64 fresh bytes are credited to the kernel's pool before anything of the user's runs; a clone that \
            does not acknowledge its new identity is ended",
        proofs: &[
            (
                "crates/wrenn/tests/platform/fork.rs::clones_go_on_from_one_moment",
                "three clones and their source: four different 16-byte reads of `/dev/urandom`",
            ),
            (
                "crates/wrenn/tests/platform/guest.rs::differs_from_its_siblings",
                "two capsules of one template: five lines each of random bytes, ids and names, no line twice",
            ),
            (
                "crates/sim/tests/histories.rs::many_histories",
                "in 400 simulated histories guests cannot be told who they are, by chance: no VM is left that no \
                    record names",
            ),
        ],
    },
    Hazard {
        what: "a clock that stood still",
        policy: "the time is set by the same first message, before user processes are thawed; a source that was held \
            gets it when it is released",
        proofs: &[
            (
                "crates/wrenn/tests/platform/guest.rs::goes_on_after_a_pause",
                "after a pause of 20 s the guest's clock is within 2 s of the host's",
            ),
            (
                "crates/wrenn/tests/platform/fork.rs::clocks_are_right_after_a_long_snapshot",
                "a snapshot is held up for 4 s: the clocks of source and clone are within 1 s of the host's",
            ),
        ],
    },
    Hazard {
        what: "connections of the former life",
        policy: "those to the guest daemon: idle ones close before the pause, all of them are reset once after it, \
            new ones are kept; a machine that was only held keeps its own. What a client has open through the \
            platform is cut by a pause",
        proofs: &[
            (
                "crates/envd/tests/control.rs::a_standstill_ends_once_and_old_connections_with_it",
                "the first question after a standstill resets the stream from before it; one from after it outlives \
                    the `/init` that follows",
            ),
            (
                "crates/envd/tests/control.rs::\
                    a_machine_that_was_only_held_keeps_its_connections_and_a_clone_of_it_does_not",
                "released, a held daemon goes on with its stream; told that it is a clone, it ends the stream with \
                    an error",
            ),
            (
                "crates/wrenn/tests/platform/lifecycle.rs::a_pause_cuts_what_is_open",
                "a download and an answer under way end with an error: neither waits, neither looks whole",
            ),
        ],
    },
    Hazard {
        what: "a clone that holds its source's secrets",
        policy: "it gets a token of its own, which only its host can vouch for; what user processes keep in memory \
            is theirs, and is copied",
        proofs: &[
            (
                "crates/fleet/tests/fleet/fork.rs::clones_are_capsules_of_their_own",
                "three clones, none with its source's token",
            ),
            (
                "crates/envd/src/metadata.rs::a_token_is_known_by_its_hash",
                "the hash of `abc` vouches for `abc` and not for `abd`; without a hash nothing is vouched for",
            ),
        ],
    },
    Hazard {
        what: "the same name, machine id or address twice",
        policy: "name and machine id are given anew; addresses are the same everywhere and meet nowhere, each in its \
            own namespace",
        proofs: &[
            (
                "crates/wrenn/tests/platform/fork.rs::clones_go_on_from_one_moment",
                "three clones and their source: four host names, four machine ids",
            ),
            (
                "crates/network/tests/egress.rs::the_internet_and_nothing_else",
                "a guest reaches two servers on the Internet, and neither its neighbour nor the host",
            ),
        ],
    },
    Hazard {
        what: "memory of another processor, VMM or kernel",
        policy: "the manifest names architecture, VMM and format, machine type, CPU model and kernel; anything else \
            is refused with `snapshot_incompatible`, and boots from its disk if asked to",
        proofs: &[
            (
                "crates/vmm/tests/find.rs::the_installed_qemu_is_found",
                "one QEMU, with KVM and without: `x86_64/qemu-kvm/…` and `x86_64/qemu-tcg/…`, each with the kernel \
                    at its end",
            ),
            (
                "crates/sim/tests/histories.rs::many_histories",
                "a resume of memory that another version of the VMM saved is refused, and the capsule then boots \
                    from its disk",
            ),
            (
                "crates/keeper/tests/restore.rs::a_state_that_does_not_fit_is_refused",
                "QEMU does not load half a device state: `MachineError::Load`",
            ),
            (
                "crates/vmm/tests/firecracker/main.rs::a_state_that_does_not_fit_is_refused_and_an_end_is_noticed",
                "Firecracker does not load a device state with one bit changed: `CRC64`",
            ),
        ],
    },
    Hazard {
        what: "a snapshot that is half written",
        policy: "new directory, manifest with checksums, flush of everything in it, rename, flush of the directory \
            above, then the record; the former one goes last",
        proofs: &[
            (
                "crates/memory/tests/generations.rs::a_crash_leaves_only_what_the_next_start_sweeps",
                "a draft that was left behind is in no list, and gone after the next start",
            ),
            (
                "crates/memory/tests/generations.rs::damage_is_noticed",
                "one changed byte of memory or device state, and a memory file that is too short: `Damaged`",
            ),
            (
                "crates/wrenn/tests/platform/kill_points.rs::nothing_leaks_and_nothing_saved_is_lost",
                "`kill -9` of platform, keeper, both or VMM at a dozen points by chance: each capsule holds what it \
                    held then or, where its VM was lost, at its last pause; nothing is left behind",
            ),
        ],
    },
    Hazard {
        what: "changed pages that are forgotten, zeroed ones that come back",
        policy: "on QEMU what differs is read from the private map itself, not from a bitmap that something may have \
            cleared; on Firecracker the VMM's own `Diff` snapshot is taken, of the pages written since the load or \
            since its last snapshot, into a clone of just that memory, or else a `Full` one; pages of zeros are pages",
        proofs: &[
            (
                "crates/memory/tests/generations.rs::each_generation_is_its_parent_with_the_dirty_pages_over_it",
                "rewritten and zeroed pages are the new ones, all others the parent's",
            ),
            (
                "crates/keeper/tests/restore.rs::twenty_rounds_of_pause_and_resume_lose_nothing",
                "a guest that checks its memory and disk in every step goes on with the next one, 20 times",
            ),
            (
                "crates/vmm/tests/firecracker/requests.rs::requests_are_as_written_down",
                "`Diff` is asked for at the first save, `Full` at a second one over the same memory",
            ),
            (
                "crates/vmm/tests/firecracker/main.rs::a_machine_that_goes_on_after_a_save_can_be_saved_again",
                "Firecracker's memory has every round the guest had done, save after save, also after one that \
                    failed",
            ),
            (
                "crates/wrenn/tests/platform/history.rs::nothing_is_lost_or_invented",
                "60 random steps, with kills: after each the capsule's memory and disk have the digests foretold",
            ),
        ],
    },
    Hazard {
        what: "a page server that dies or hangs",
        policy: "it lives in the keeper, the VMM's parent, and the VMM ends with it. A read that fails is tried three \
            times more, then the VMM is ended with `PagesLost` and the reason; so is one that does not say within \
            10 s of connecting where its memory is. A read itself has no time limit: a source must end its own",
        proofs: &[
            (
                "crates/memory/tests/paging.rs::a_source_that_heals_in_time_is_not_noticed",
                "each read fails three times, and every page is the right one",
            ),
            (
                "crates/memory/tests/paging.rs::a_source_that_does_not_heal_ends_the_pager_with_its_reason",
                "`cannot read guest memory at offset 0x28000: the store is on fire`, after all other pages came",
            ),
            (
                "crates/vmm/src/firecracker/uffd.rs::whoever_says_something_else_is_refused",
                "silence, nonsense, half a message and an endless one: each an error, silence once its time is over",
            ),
            (
                "crates/keeper/tests/paging.rs::a_keeper_brings_the_memory_or_ends_the_vmm_with_the_reason",
                "a program in the VMM's place, with a memory file cut short or a wrong message: killed, `PagesLost` \
                    and why",
            ),
            (
                "crates/keeper/tests/paging.rs::a_machine_whose_pages_are_lost_ends_with_the_reason",
                "Firecracker without its memory file's contents: killed, `PagesLost` and the offset",
            ),
            (
                "crates/keeper/tests/paging.rs::a_machine_ends_with_its_pager",
                "Firecracker ends when its keeper is killed: `KeeperLost`",
            ),
        ],
    },
    Hazard {
        what: "a VMM with known faults",
        policy: "versions below the oldest that works are refused: QEMU 7.2, Firecracker 1.16.1",
        proofs: &[
            (
                "crates/agent/tests/restore_contract.rs::old_vmms_are_refused",
                "programs that call themselves QEMU 7.1.0 and Firecracker 1.16.0: `TooOld`",
            ),
            (
                "crates/vmm/src/firecracker/find.rs::versions",
                "1.16.1, 1.17.0-dev and 10.0.0 are read in what the program prints; `v1.16` is no version",
            ),
            (
                "crates/vmm/src/qemu/find.rs::versions",
                "7.2.22 of Debian and 10.0.0 are read in what the program prints; `version x` is none",
            ),
        ],
    },
    Hazard {
        what: "an emulator as the only wall",
        policy: "the tier is in every answer, and whoever asks for Firecracker gets nothing else; system call filter, \
            a namespace, user and empty root of its own, no capabilities",
        proofs: &[
            (
                "crates/api/tests/api/capsules.rs::a_capsule_lives_by_every_spelling_of_its_routes",
                "the API's `isolation` is what the agent said",
            ),
            (
                "crates/agent/src/tier.rs::the_strongest_that_boots_is_chosen",
                "a Firecracker that was asked for and boots nothing is an error; left to us, it is `qemu-tcg`",
            ),
            (
                "crates/keeper/tests/restore.rs::a_running_vmm_has_no_rights",
                "`/proc` of a running QEMU: user and group of its own, no capability, `NoNewPrivs: 1`, `Seccomp: 2`, \
                    a root with nothing in it",
            ),
            (
                "crates/wrenn/tests/platform/lifecycle.rs::five_at_once_leave_nothing",
                "five VMMs are five users, none of them root, without a capability, in control groups; destroyed, \
                    they leave nothing",
            ),
        ],
    },
    Hazard {
        what: "a hostile guest's bytes on the host",
        policy: "everything is bounded before it is looked at; parsers take any bytes",
        proofs: &[
            (
                "crates/vmm/src/qmp.rs::no_bytes_hang_or_panic",
                "up to 2,000 random bytes in a VMM's place, 64 times: each conversation ends",
            ),
            (
                "crates/vmm/src/firecracker/handed.rs::nothing_but_a_file_of_a_possible_size_is_taken",
                "a link, a pipe, a directory and a file too long in a saved file's place: not a byte is taken",
            ),
            (
                "crates/network/src/dns/message.rs::any_bytes_are_survived",
                "random questions and answers of the name server: none panics",
            ),
            (
                "crates/network/tests/metadata.rs::what_is_no_proper_request_is_refused",
                "twelve bad requests to the metadata address: 400, 404, 405 or 431; the next good one: 200",
            ),
            (
                "crates/edge/tests/proxy.rs::a_guest_that_speaks_no_http_is_a_bad_answer",
                "`SSH-2.0-x` where an answer of HTTP should be: `BadAnswer`",
            ),
        ],
    },
];

fn page() -> String {
    INTRO.to_owned() + &HAZARDS.iter().map(row).collect::<String>()
}

fn row(hazard: &Hazard) -> String {
    let tests: Vec<_> = hazard.proofs.iter().map(|(test, _)| format!("`{test}`")).collect();
    let results: Vec<_> = hazard.proofs.iter().map(|(_, result)| *result).collect();
    format!("| {} | {} | {} | {} |\n", hazard.what, hazard.policy, tests.join("<br>"), results.join("<br>"))
}

#[test]
fn docs_are_the_table() -> io::Result<()> {
    let path = Path::new("../../docs/restore.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, page())?;
    }
    assert_eq!(fs::read_to_string(path)?, page(), "run `UPDATE_DOCS=1 cargo test -p agent --test restore_contract`");
    Ok(())
}

/// The last versions before those that work, or what says it is one.
#[test]
fn old_vmms_are_refused() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (old_qemu, old_firecracker) = (dir.path().join("qemu"), dir.path().join("firecracker"));
    says(&old_qemu, "QEMU emulator version 7.1.0")?;
    says(&old_firecracker, "Firecracker v1.16.0")?;
    let found = Qemu::find(Some(&old_qemu), Accelerator::Tcg);
    assert!(matches!(found, Err(qemu::FindError::TooOld(_))), "{found:?}");
    let found = Firecracker::find(Some(&old_firecracker));
    assert!(matches!(found, Err(firecracker::FindError::TooOld(Version(1, 16, 0)))), "{found:?}");
    Ok(())
}

fn says(program: &Path, words: &str) -> io::Result<()> {
    fs::write(program, format!("#!/bin/sh\necho {words}\n"))?;
    fs::set_permissions(program, Permissions::from_mode(0o755))
}
