//! Calls into the guest of one running capsule.

mod exec;
mod files;
mod process;

pub use exec::ExecOutput;
pub use files::FileContent;
pub use process::{Command, Input, ProcessEvent, ProcessStream, PtySize, Selector, Signal, Started};

use connectrpc::client::CallOptions;
use hostlink::AgentLink;
use model::CapsuleId;
use proto::hostagent::v1::Target;
use std::time::Duration;

/// Limit of a call with one answer.
const CALL: Duration = Duration::from_mins(1);
/// Chunks held between the two halves of a stream; a full queue slows its sender down.
const QUEUE: usize = 256;
/// Most bytes in one message of a stream.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// The guest of one capsule, reached through its host's agent. Holding one does not keep the capsule running:
/// calls fail when it stops.
#[derive(Clone)]
pub struct Guest {
    id: CapsuleId,
    link: AgentLink,
}

impl Guest {
    pub(crate) fn new(id: CapsuleId, link: AgentLink) -> Self {
        Self { id, link }
    }

    /// Which capsule this is.
    #[must_use]
    pub fn id(&self) -> CapsuleId {
        self.id
    }

    /// `user` absent = the capsule's default user.
    fn target(&self, user: Option<&str>) -> Target {
        Target { sandbox_id: self.id.to_string(), user: user.unwrap_or_default().to_owned(), ..Default::default() }
    }
}

fn call() -> CallOptions {
    CallOptions::default().with_timeout(CALL)
}
