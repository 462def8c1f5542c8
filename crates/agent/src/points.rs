//! Named places in the operations at which a test can hold them, to end a process exactly there.
//!
//! A test writes a name into `stop-at` in the runtime directory; the operation that passes this point renames the file to
//! `stopped-at` and waits until that is gone. Not in release builds.

use crate::host::Host;
#[cfg(debug_assertions)]
use std::time::Duration;

/// Passes the point called `name`.
#[cfg(debug_assertions)]
pub async fn pass(host: &Host, name: &str) {
    let (stop_at, stopped_at) = (host.runtime.join("stop-at"), host.runtime.join("stopped-at"));
    if std::fs::read_to_string(&stop_at).is_ok_and(|wanted| wanted == name)
        && std::fs::rename(&stop_at, &stopped_at).is_ok()
    {
        tracing::warn!(name, "held by a test");
        while stopped_at.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Passes the point called `name`.
#[cfg(not(debug_assertions))]
#[allow(clippy::unused_async)]
pub async fn pass(_: &Host, _: &str) {}
