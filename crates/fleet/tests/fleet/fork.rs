//! Clones of running capsules, with an agent that fails.

use crate::agent::Fault;
use crate::world::{Server, TEAM};
use connectrpc::ErrorCode;
use fleet::Fork;
use model::{Capsule, CapsuleStatus, Code, Lifetime};
use std::time::Duration;
use uuid::{NoContext, Timestamp, Uuid};

const LONG: Duration = Duration::from_mins(1);

fn clones(count: u32) -> Fork {
    Fork { count, lifetime: None, limit: LONG }
}

#[tokio::test]
async fn clones_are_capsules_of_their_own() {
    let server = Server::start().await;
    let source = server.running().await;
    let lifetime = Some(Lifetime::Idle { ttl_s: 77 });
    let made = server.fleet.fork(TEAM, source.id, Fork { lifetime, ..clones(3) }).await.unwrap();
    let made: Vec<Capsule> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.len(), 3);
    for clone in &made {
        assert_eq!((clone.status, Some(clone.lifetime)), (CapsuleStatus::Running, lifetime));
        assert_eq!((clone.size, &clone.template), (source.size, &source.template));
        assert_eq!((&clone.surroundings, &clone.metadata), (&source.surroundings, &source.metadata));
        assert_ne!(clone.access_token.expose(), source.access_token.expose());
    }
    let world = server.agent.world();
    assert_eq!((world.sandboxes.len(), world.snapshots.len(), world.forgotten.len()), (4, 0, 1));
}

#[tokio::test]
async fn a_clone_that_cannot_be_made_is_an_error_beside_the_others() {
    let server = Server::start().await;
    let source = server.running().await;
    server.agent.fail("create", [Fault::Refused(ErrorCode::ResourceExhausted)]);
    let made = server.fleet.fork(TEAM, source.id, clones(2)).await.unwrap();
    assert_eq!(made.iter().filter(|clone| clone.is_ok()).count(), 1);
    assert_eq!(server.agent.world().snapshots.len(), 0);
}

#[tokio::test]
async fn nothing_is_left_of_a_fork_that_was_refused() {
    let server = Server::start().await;
    let source = server.running().await;
    server.agent.fail("snapshot", [Fault::Refused(ErrorCode::Internal)]);
    let refused = server.fleet.fork(TEAM, source.id, clones(2)).await.unwrap_err();
    assert_eq!(refused.code, Code::AgentError);
    let paused = server.paused().await;
    let refused = server.fleet.fork(TEAM, paused.id, clones(2)).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidState);
    let world = server.agent.world();
    assert_eq!((world.created, world.snapshots.len()), (2, 0));
}

#[tokio::test]
async fn a_snapshot_nobody_waits_for_is_given_up() {
    let mut server = Server::start().await;
    let source = server.running().await;
    // The one call that would give it up is lost; later servers must not take one that is still in use.
    server.agent.fail("delete snapshot", [Fault::Refused(ErrorCode::Unavailable)]);
    server.fleet.fork(TEAM, source.id, clones(1)).await.unwrap();
    let young = server.agent.world().snapshots.clone();
    assert_eq!(young.len(), 1);
    let old = Uuid::new_v7(Timestamp::from_unix(NoContext, 1_700_000_000, 0)).to_string();
    server.agent.world().snapshots.push(old.clone());
    server.restart().await;
    server.agent.until(|world| world.forgotten == [old.clone()]).await;
    assert_eq!(server.agent.world().snapshots, young);
}
