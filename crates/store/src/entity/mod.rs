//! Tables as `SeaORM` sees them. Nothing outside this crate does.

pub mod event;
pub mod host;
pub mod key;
pub mod membership;
pub mod operation;
pub mod sandbox;
pub mod team;
pub mod template;
pub mod template_host;
pub mod user;
