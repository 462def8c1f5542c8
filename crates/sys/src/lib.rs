//! Everything that needs `unsafe`, wrapped so that callers do not.
//!
//! Knows: how to start a process with exact credentials, namespaces and groups ([`spawn`]), and the
//! ioctls and raw calls the safe crates (`rustix`, `nix`) do not cover.
//! Must never know: policy. No paths, names, defaults or limits of the product live here; each function
//! does one kernel operation and reports the kernel's error.
//!
//! Every `unsafe` block says in a `SAFETY` comment why it is sound.

pub mod clock;
pub mod entropy;
pub mod ext4;
pub mod jail;
pub mod loopdev;
pub mod netconf;
pub mod readiness;
pub mod sparse;
pub mod spawn;
pub mod tap;
pub mod uffd;
