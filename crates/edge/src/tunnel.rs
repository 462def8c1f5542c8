//! Connections that have left HTTP: web sockets and whatever else was upgraded to.

use crate::body::Hold;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// Copies both ways until both sides have closed, one breaks, or the capsule is gone.
pub(crate) fn open(client: OnUpgrade, upstream: OnUpgrade, hold: Hold) {
    tokio::spawn(async move {
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "upgrade failed"),
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        let broken = tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut client, &mut upstream) => copied.is_err(),
            () = hold.over() => true,
        };
        // Before the sockets are dropped, or the client would see an orderly end.
        if broken {
            hold.cut();
        }
    });
}
