//! Virtual machine monitors behind one trait.
//!
//! Knows: how to describe a machine to a VMM, how to talk to a running one (boot, pause, save, load, resume), which VMM
//! really works on this host, and what makes a saved device state loadable ([`Compatibility`]).
//! Must never know: networks beyond the name of a TAP device, disks beyond the paths handed to it, who starts the
//! process (it describes a [`Command`]; `keeper` runs it), how memory files come into being (`memory`).
//!
//! Every driver maps a memory file privately, so a guest's writes never reach it.

mod compatibility;
mod control;
pub mod firecracker;
pub mod limits;
mod machine;
mod program;
pub mod qemu;
mod qmp;
mod spec;
mod trial;

pub use compatibility::{Compatibility, Tier};
pub use machine::{Control, Dirty, Machine, MachineError, Since, Status, Trouble, Vmm};
pub use program::ProgramError;
pub use qmp::{Broken, QmpError};
pub use spec::{BootSource, Command, Confinement, Jail, Mac, MachineSpec, Memory, Nic, SpecError, Start, User};
