//! Guest memory on disk: immutable *generations* and how the next one is made from a running VM.
//!
//! Knows: a generation is a directory `{memory, state, disk?, manifest.json}`, or one of a disk alone, that is whole or absent; guest RAM
//! is a private map of a generation's flat `memory` file, so the pages that became anonymous since are exactly
//! the ones that differ from it (`proc_pid_pagemap(5)`); the next generation is a reflink of the base with those pages
//! written over it, so every memory file is flat and complete and no generation needs another one. Memory that cannot be
//! mapped is served page by page ([`pager`]).
//! Must never know: which VMM maps the file, what is in the device state, capsules, templates, RPC.
//!
//! Everything here blocks; callers on an async runtime use a blocking thread.

mod copy;
mod dirty;
mod draft;
mod generation;
pub mod limits;
mod made;
mod manifest;
mod mapping;
pub mod pager;
mod rewrite;
mod shelf;
mod staging;

pub use dirty::{PAGE_BYTES, Run};
pub use draft::{Base, Draft, Filled, SaveError, SaveReport, Seal};
pub use generation::{Generation, OpenError};
pub use made::DiskDraft;
pub use manifest::{Extent, FORMAT, Manifest, ManifestError, StateFile};
pub use mapping::{Mapping, MappingError};
pub use shelf::{Pin, Shelf};
