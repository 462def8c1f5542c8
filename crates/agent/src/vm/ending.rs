//! How a VM ended that nobody ended.

use super::Vm;
use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use crate::space::Room;
use crate::vm_dirs::Dirs;
use futures_util::FutureExt;
use keeper::{Cause, ExitRecord, Keeper};
use model::EndReason;
use network::Slot;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use uuid::Uuid;
use vmm::Trouble;

impl Vm {
    /// Waits for the end of its VMM, says why it came and logs its last words. A VM that stopped meanwhile because the
    /// disk was full is let run again. May be given up at any time.
    pub async fn exited(&self) -> EndReason {
        let exit = tokio::select! {
            exit = self.keeper.wait_exit() => exit,
            () = self.outlast_full_disk() => self.keeper.wait_exit().await,
        };
        last_words(self.id, exit.ok().as_ref())
    }

    /// Until its VMM is gone. It stops by itself when a write fails for want of room, which is tried again each time, so that
    /// nothing of it is lost; it is stopped before that where such a write would be lost.
    async fn outlast_full_disk(&self) {
        let mut room = self.room.clone();
        loop {
            if !self.stands_still.load(Ordering::Relaxed) {
                tokio::select! {
                    trouble = self.machine.trouble() => if trouble != Trouble::OutOfSpace { return },
                    _ = room.wait_for(|room| *room == Room::Exhausted) => {}
                }
            }
            self.stand_still(&mut room).await;
        }
    }

    /// Until there is room, or may be. What was given up in the middle is taken up by the next call.
    async fn stand_still(&self, room: &mut watch::Receiver<Room>) {
        tracing::warn!(vm = %self.id, "it stands still: the disk is full; it goes on when there is room");
        self.stands_still.store(true, Ordering::Relaxed);
        if *room.borrow() == Room::Exhausted
            && let Err(error) = self.machine.pause().await
        {
            tracing::warn!(vm = %self.id, %error, "cannot make it stand still");
        }
        tokio::time::sleep(limits::ROOM_RETRY).await;
        if room.wait_for(|room| *room != Room::Exhausted).await.is_err() {
            return;
        }
        match self.machine.resume().await {
            Ok(()) => self.stands_still.store(false, Ordering::Relaxed),
            Err(error) => tracing::warn!(vm = %self.id, %error, "cannot let it go on"),
        }
    }

    /// Adds how the VMM ended, if it has, and what was last said on its console.
    pub fn explain(&self, failure: Failure) -> Failure {
        match (failure, self.keeper.wait_exit().now_or_never()) {
            (Failure::Host { step, why }, Some(Ok(exit))) => {
                Failure::Host { step, why: format!("{why}; {}", describe(&exit)) }
            }
            (failure, _) => failure,
        }
    }
}

/// What a VM has that was told to end.
pub(super) struct Remains {
    pub(super) id: Uuid,
    pub(super) keeper: Keeper,
    pub(super) slot: Slot,
}

impl Remains {
    /// Ends its processes and frees all it has; in the background, if they take their time.
    pub(super) async fn clear(self, host: &Arc<Host>) {
        match self.keeper.kill().await {
            Ok(_) => self.free(host).await,
            Err(error) => {
                may_still_run(self.id, &error);
                let owner = host.clone();
                host.tasks.spawn(async move { self.outlast(&owner).await });
            }
        }
    }

    /// Until its processes are gone. The next start finds it by its directories, should this one end before.
    async fn outlast(self, host: &Arc<Host>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(limits::END_RETRY) => {}
                () = host.stopping.cancelled() => return,
            }
            if self.keeper.kill().await.is_ok() {
                return self.free(host).await;
            }
        }
    }

    async fn free(self, host: &Host) {
        // The slot comes last: by its directories the next agent sees that a VM still has one.
        let dirs = Dirs::of(host, self.id);
        let _ = tokio::task::spawn_blocking(move || dirs.remove()).await;
        host.network.release(self.slot);
    }
}

/// Nobody else may have what it has, its slot above all.
pub(super) fn may_still_run(id: Uuid, error: &dyn std::error::Error) {
    tracing::error!(vm = %id, %error, "its VMM may still run; what it has is kept until it is gone");
}

/// Why the VM whose keeper ran in `runtime` ended while no agent was there, if it has; logs its last words.
pub fn ended_unseen(id: Uuid, runtime: &Path) -> EndReason {
    match ExitRecord::of(runtime) {
        Ok(Some(exit)) => last_words(id, Some(&exit)),
        _ => EndReason::VmCrash,
    }
}

fn last_words(id: Uuid, exit: Option<&ExitRecord>) -> EndReason {
    let words = exit.map_or_else(|| "nobody saw how the VMM ended".to_owned(), describe);
    tracing::error!(vm = %id, words, "a VM ended by itself");
    match exit {
        Some(ExitRecord { cause: Cause::HostOom, .. }) => EndReason::HostOom,
        Some(ExitRecord { cause: Cause::PagesLost, .. }) => EndReason::PagesLost,
        Some(exit) if says_out_of_memory(&exit.console_tail) => EndReason::GuestOom,
        _ => EndReason::VmCrash,
    }
}

/// The kernel's last words when it finds nothing to kill, or is not to look for it (`mm/oom_kill.c`, Linux 6.1). A guest that says so
/// for no reason deceives nobody but its owner.
fn says_out_of_memory(console: &str) -> bool {
    ["Kernel panic - not syncing: System is deadlocked on memory", "Kernel panic - not syncing: Out of memory"]
        .iter()
        .any(|words| console.contains(words))
}

/// A VMM's end in one line. The guest wrote parts of it: bounded, and no control characters.
pub(super) fn describe(exit: &ExitRecord) -> String {
    let last = |text: &str| {
        let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(limits::CONSOLE_LINE).collect::<String>()
    };
    let (console, errors) = (last(&exit.console_tail), last(&exit.errors_tail));
    format!("the VMM ended ({:?}, {:?}); console: {console:?}; messages: {errors:?}", exit.end, exit.cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_out_of_memory_says_so_last() {
        for (console, out_of_memory) in [
            ("[1] Kernel panic - not syncing: System is deadlocked on memory\n[1] ---[ end", true),
            ("[1] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled\n", true),
            ("[1] Out of memory: Killed process 7 (python3)\n[9] reboot: Power down\n", false),
            ("", false),
        ] {
            assert_eq!(says_out_of_memory(console), out_of_memory, "{console}");
        }
    }
}
