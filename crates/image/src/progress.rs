//! What a caller may draw while parts are made.

use std::fmt;

/// A part in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Kernel image and modules.
    Kernel,
    /// Root file system of the `minimal` template.
    RootDisk,
    /// Init, guest daemon and boot modules.
    Initramfs,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "guest kernel",
            Self::RootDisk => "root file system",
            Self::Initramfs => "initramfs",
        })
    }
}

/// How a step ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was there already.
    Cached,
    /// It was made just now.
    Built,
}

/// Receives the course of [`crate::prepare`], from several threads. A failed step is reported by the error alone.
pub trait Progress: Sync {
    /// The step has something to do.
    fn started(&self, step: Step);
    /// `fraction` (0 to 1, an estimate that never falls) is done; `doing` says what is done now, in a few words.
    fn advanced(&self, step: Step, fraction: f32, doing: &str);
    /// The part is complete. Cached parts report only this.
    fn finished(&self, step: Step, outcome: Outcome);
}

/// For callers without a screen.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _: Step) {}
    fn advanced(&self, _: Step, _: f32, _: &str) {}
    fn finished(&self, _: Step, _: Outcome) {}
}
