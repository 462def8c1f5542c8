//! Calls into a guest: bounds, time limits, broken streams, lifetimes.

use crate::agent::{Fault, World};
use crate::world::{Server, TEAM, request};
use bytes::Bytes;
use connectrpc::ErrorCode;
use fleet::{Command, Filter, Resume, Until};
use futures_util::{TryStreamExt, stream};
use model::egress::Block;
use model::lifetime::AtEnd;
use model::{CapsuleStatus, Code, Egress, Error, Lifetime, limits};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

fn command(cmd: &str, args: &[&str]) -> Command {
    Command { cmd: cmd.to_owned(), args: args.iter().map(ToString::to_string).collect(), ..Command::default() }
}

#[tokio::test]
async fn output_is_whole_up_to_its_limit() {
    let server = Server::start().await;
    let id = server.running().await.id;
    let guest = server.fleet.guest(TEAM, id).await.unwrap();
    let limit = Duration::from_mins(1);
    for (bytes, truncated) in
        [(0, false), (3, false), (limits::EXEC_OUTPUT_BYTES_MAX, false), (limits::EXEC_OUTPUT_BYTES_MAX + 1, true)]
    {
        let output = guest.exec(&command("emit", &[&bytes.to_string()]), limit).await.unwrap();
        let kept = bytes.min(limits::EXEC_OUTPUT_BYTES_MAX);
        assert_eq!((output.stdout.len(), output.stderr.len()), (kept, kept));
        assert_eq!((output.exit_code, output.truncated), (7, truncated));
    }
}

#[tokio::test]
async fn a_command_out_of_time_is_killed() {
    let server = Server::start().await;
    let id = server.running().await.id;
    let guest = server.fleet.guest(TEAM, id).await.unwrap();
    let error = guest.exec(&command("hang", &[]), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code, Code::Timeout);
    assert_eq!(server.agent.world().killed, [42]);
}

#[tokio::test]
async fn calls_wait_for_a_capsule_that_starts_and_not_for_one_that_sleeps() {
    let server = Server::start().await;
    let gate = Arc::new(Semaphore::new(0));
    server.agent.fail("create", [Fault::Held(Arc::clone(&gate))]);
    let id = server.create().await.id;
    let fleet = server.fleet.clone();
    let held = tokio::spawn(async move { fleet.guest(TEAM, id).await.map(|guest| guest.id()) });
    gate.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap(), id);
    server.fleet.pause(TEAM, id, false).await.unwrap();
    server.becomes(id, CapsuleStatus::Paused).await;
    let refused = server.fleet.guest(TEAM, id).await.err().unwrap();
    assert_eq!((refused.code, refused.message.as_str()), (Code::InvalidState, "the capsule is paused, not running"));
}

#[tokio::test]
async fn files_go_through_whole_or_not_at_all() {
    let server = Server::start().await;
    let id = server.running().await.id;
    let guest = server.fleet.guest(TEAM, id).await.unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for content in [Vec::new(), b"x".to_vec(), big] {
        let pieces = stream::iter([Ok::<_, Error>(Bytes::from(content.clone()))]);
        guest.write_file("/f", pieces).await.unwrap();
        let read: Vec<Bytes> = guest.read_file("/f").await.unwrap().try_collect().await.unwrap();
        assert!(read.concat() == content, "{} bytes", content.len());
    }
    assert_eq!(guest.read_file("/none").await.err().unwrap().code, Code::NotFound);

    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(Error::invalid("the client left"))]);
    let error = guest.write_file("/half", broken).await.unwrap_err();
    assert_eq!(error.message, "the client left");
    guest.write_file("/after", stream::iter([Ok::<_, Error>(Bytes::from_static(b"1"))])).await.unwrap();
    assert!(!server.agent.world().files.contains_key("/half"));
}

#[tokio::test]
async fn a_lifetime_reaches_the_host_and_connecting_never_shortens_it() {
    let server = Server::start().await;
    let until = |unix_ms| Lifetime::Until { unix_ms, at_end: AtEnd::Kill };
    let (early, late) = (until(4_000_000_000_000), until(4_000_000_100_000));
    let create = fleet::Create { lifetime: early, ..request() };
    let id = server.fleet.create(TEAM, create).await.unwrap().id;
    let told = |want: u64| {
        move |world: &World| {
            let rule = world.sandboxes.values().next().and_then(|sandbox| sandbox.lifetime.as_option()?.rule.clone());
            rule == Some(proto::hostagent::v1::lifetime::Rule::UntilUnixMs(want))
        }
    };
    let fleet = &server.fleet;
    assert_eq!(fleet.extend_lifetime(TEAM, id, late).await.unwrap().lifetime, late);
    server.agent.until(told(4_000_000_100_000)).await;
    assert_eq!(fleet.extend_lifetime(TEAM, id, early).await.unwrap().lifetime, late);
    assert_eq!(fleet.set_lifetime(TEAM, id, early).await.unwrap().lifetime, early);
    server.agent.until(told(4_000_000_000_000)).await;

    fleet.pause(TEAM, id, false).await.unwrap();
    server.becomes(id, CapsuleStatus::Paused).await;
    let how = Resume { lifetime: Some(late), ..Resume::default() };
    assert_eq!(fleet.resume(TEAM, id, how).await.unwrap().lifetime, late);
    fleet.wait(id, Until::Settled, Duration::from_mins(1)).await.unwrap();
    server.agent.until(told(4_000_000_100_000)).await;
}

#[tokio::test]
async fn what_a_capsule_may_reach_reaches_its_host() {
    let mut server = Server::start().await;
    let id = server.running().await.id;
    let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let closed = Egress { allow_internet: false, allow_out: blocks(&["10.1.0.0/16"]), deny_out: blocks(&["8.8.8.8"]) };
    let told = |want: Egress| {
        let texts = |blocks: &[Block]| blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
        let want = (want.allow_internet, texts(&want.allow_out), texts(&want.deny_out));
        move |world: &World| {
            let told = world.sandboxes.values().next().and_then(|sandbox| sandbox.egress.as_option().cloned());
            told.is_some_and(|told| (told.allow_internet, told.allow, told.deny) == want)
        }
    };
    assert!(told(Egress::default())(&server.agent.world()), "with the create");
    let changed = server.fleet.set_egress(TEAM, id, &closed).await.unwrap();
    assert_eq!(changed.surroundings.egress, closed);
    assert!(told(closed.clone())(&server.agent.world()), "in force on return");

    // A host that did not hear of it is told by the next look.
    server.agent.fail("set_egress", [Fault::Refused(ErrorCode::Unavailable)]);
    assert!(server.fleet.set_egress(TEAM, id, &Egress::default()).await.is_err());
    assert!(told(closed.clone())(&server.agent.world()));
    server.restart().await;
    server.agent.until(told(Egress::default())).await;

    server.fleet.pause(TEAM, id, false).await.unwrap();
    server.becomes(id, CapsuleStatus::Paused).await;
    server.fleet.set_egress(TEAM, id, &closed).await.unwrap();
    assert!(told(Egress::default())(&server.agent.world()), "it does not run");
    server.fleet.resume(TEAM, id, Resume::default()).await.unwrap();
    server.becomes(id, CapsuleStatus::Running).await;
    assert!(told(closed.clone())(&server.agent.world()), "with the resume");

    let how = fleet::Fork { count: 1, lifetime: None, limit: Duration::from_mins(1) };
    let clone = server.fleet.fork(TEAM, id, how).await.unwrap().remove(0).unwrap();
    assert_eq!(clone.surroundings.egress, closed);
    server.fleet.destroy(TEAM, id).await.unwrap();
    server.becomes(id, CapsuleStatus::Stopped).await;
    let refused = server.fleet.set_egress(TEAM, id, &closed).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidState);
}

#[tokio::test]
async fn a_capsule_resumed_after_its_end_gets_time() {
    let server = Server::start().await;
    let over = Lifetime::Until { unix_ms: 1, at_end: AtEnd::Pause };
    let id = server.fleet.create(TEAM, fleet::Create { lifetime: over, ..request() }).await.unwrap().id;
    server.becomes(id, CapsuleStatus::Running).await;
    server.fleet.pause(TEAM, id, false).await.unwrap();
    server.becomes(id, CapsuleStatus::Paused).await;
    let resumed = server.fleet.resume(TEAM, id, Resume::default()).await.unwrap();
    let now_ms = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap();
    assert!(matches!(resumed.lifetime, Lifetime::Until { unix_ms, at_end: AtEnd::Pause } if unix_ms > now_ms));
}

#[tokio::test]
async fn pages_join_up() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(server.create().await.id);
    }
    made.reverse();
    let (mut listed, mut cursor) = (Vec::new(), None);
    loop {
        let page = server.fleet.list(TEAM, Filter { limit: 2, cursor, ..Filter::default() }).await.unwrap();
        listed.extend(page.capsules.iter().map(|capsule| capsule.id));
        match page.next {
            Some(next) => cursor = Some(next.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(listed, made);
    assert!("nonsense".parse::<fleet::Cursor>().is_err());
}
