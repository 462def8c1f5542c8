//! Operations carried through an agent that fails in every way it can.

use crate::agent::{Fault, World};
use crate::world::{Server, TEAM, request};
use connectrpc::ErrorCode;
use fleet::{Resume, Until};
use hostlink::SandboxEvent;
use hostlink::callback::HOST_CHANGED;
use model::{CapsuleId, CapsuleStatus, Code, EndReason, HostId, HostStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(1);

fn lost(times: usize) -> impl Iterator<Item = Fault> {
    std::iter::repeat_with(|| Fault::LostAnswer).take(times)
}

fn refused(code: ErrorCode) -> [Fault; 1] {
    [Fault::Refused(code)]
}

fn happened(name: &str, id: CapsuleId, timestamp_ms: u64) -> SandboxEvent {
    SandboxEvent {
        id: Uuid::new_v4(),
        sandbox_id: id.to_string(),
        event: name.to_owned(),
        status: String::new(),
        reason: String::new(),
        timestamp_ms,
    }
}

#[tokio::test]
async fn a_capsule_goes_through_its_life() {
    let server = Server::start().await;
    let capsule = server.create().await;
    assert_eq!((capsule.status, capsule.template.as_str()), (CapsuleStatus::Starting, "minimal"));
    let capsule = server.fleet.wait(capsule.id, Until::Running, LONG).await.unwrap();
    assert_eq!((capsule.status, capsule.isolation.as_str()), (CapsuleStatus::Running, "test"));
    assert_eq!(capsule.versions["envd_version"], "1");
    {
        let world = server.agent.world();
        let identity = &world.identities[&capsule.id.to_string()];
        assert_eq!(identity.access_token, capsule.access_token.expose());
        assert_eq!((identity.default_user.as_str(), identity.default_workdir.as_str()), ("user", "/home/user"));
        assert_eq!(identity.envs["A"], "1");
    }
    let fleet = &server.fleet;
    let refused = fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidState);
    assert_eq!(fleet.pause(TEAM, capsule.id, false).await.unwrap().status, CapsuleStatus::Pausing);
    let paused = fleet.wait(capsule.id, Until::Settled, LONG).await.unwrap();
    assert_eq!((paused.status, paused.reason), (CapsuleStatus::Paused, Some(EndReason::User)));
    assert_eq!(fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap().status, CapsuleStatus::Resuming);
    let running = fleet.wait(capsule.id, Until::Settled, LONG).await.unwrap();
    assert_eq!((running.status, running.reason), (CapsuleStatus::Running, None));
    assert_eq!(fleet.destroy(TEAM, capsule.id).await.unwrap().status, CapsuleStatus::Stopping);
    let stopped = fleet.wait(capsule.id, Until::Settled, LONG).await.unwrap();
    assert_eq!(stopped.status, CapsuleStatus::Stopped);
    assert_eq!(fleet.destroy(TEAM, capsule.id).await.unwrap().status, CapsuleStatus::Stopped, "again is no error");
    assert_eq!(fleet.history(TEAM, capsule.id).await.unwrap().len(), 8);
    assert!(server.store.operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn lost_answers_cost_tries_and_nothing_else() {
    let server = Server::start().await;
    for method in ["create", "pause", "resume", "destroy"] {
        server.agent.fail(method, lost(3));
    }
    let capsule = server.paused().await;
    server.fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap();
    server.becomes(capsule.id, CapsuleStatus::Running).await;
    server.fleet.destroy(TEAM, capsule.id).await.unwrap();
    server.becomes(capsule.id, CapsuleStatus::Stopped).await;
    let world = server.agent.world();
    assert_eq!((world.created, world.sandboxes.len()), (1, 0));
}

#[tokio::test]
async fn a_refused_create_is_an_error_with_its_reason_and_leaves_nothing() {
    let server = Server::start().await;
    server.agent.fail("create", refused(ErrorCode::ResourceExhausted));
    let capsule = server.create().await;
    let failed = server.becomes(capsule.id, CapsuleStatus::Error).await;
    assert_eq!(failed.reason, Some(EndReason::StartFailed("refused by the test".to_owned())));
    let refused = server.fleet.guest(TEAM, capsule.id).await.err().unwrap();
    assert_eq!(refused.code, Code::InvalidState);
}

#[tokio::test]
async fn a_failed_pause_depends_on_what_is_left() {
    let server = Server::start().await;
    let capsule = server.running().await;
    server.agent.fail("pause", refused(ErrorCode::Internal));
    server.fleet.pause(TEAM, capsule.id, false).await.unwrap();
    let running = server.fleet.wait(capsule.id, Until::Settled, LONG).await.unwrap();
    assert_eq!((running.status, running.reason), (CapsuleStatus::Running, None), "it still answers");

    // Its VM was lost, and it is back where it was resumed from; whether or not the first answer comes.
    for fault in [Fault::Refused(ErrorCode::Internal), Fault::LostAnswer] {
        server.agent.fail("pause", [fault]);
        if let Some(sandbox) = server.agent.world().sandboxes.get_mut(&capsule.id.to_string()) {
            (sandbox.status, sandbox.reason) = ("paused".to_owned(), "vm_crash".to_owned());
        }
        server.fleet.pause(TEAM, capsule.id, false).await.unwrap();
        let back = server.fleet.wait(capsule.id, Until::Settled, LONG).await.unwrap();
        assert_eq!((back.status, back.reason), (CapsuleStatus::Paused, Some(EndReason::VmCrash)));
        server.fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap();
        server.becomes(capsule.id, CapsuleStatus::Running).await;
    }

    server.agent.fail("pause", refused(ErrorCode::Internal));
    if let Some(sandbox) = server.agent.world().sandboxes.get_mut(&capsule.id.to_string()) {
        (sandbox.status, sandbox.reason) = ("error".to_owned(), "host_oom".to_owned());
    }
    server.fleet.pause(TEAM, capsule.id, false).await.unwrap();
    let dead = server.becomes(capsule.id, CapsuleStatus::Error).await;
    assert_eq!(dead.reason, Some(EndReason::HostOom));
    server.agent.until(|world| world.sandboxes.is_empty()).await;
}

#[tokio::test]
async fn a_failed_resume_leaves_what_was_saved() {
    let server = Server::start().await;
    let capsule = server.paused().await;
    server.agent.fail("resume", refused(ErrorCode::FailedPrecondition));
    server.fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap();
    let paused = server.fleet.wait(capsule.id, Until::Settled, LONG).await.unwrap();
    assert_eq!(paused.status, CapsuleStatus::Paused);
    assert_eq!(paused.reason, Some(EndReason::StartFailed("refused by the test".to_owned())));
    server.fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap();
    server.becomes(capsule.id, CapsuleStatus::Running).await;
}

#[tokio::test]
async fn a_capsule_is_stopped_when_its_host_confirms_it() {
    let server = Server::start().await;
    let capsule = server.running().await;
    let gate = Arc::new(Semaphore::new(0));
    let internal = Fault::Refused(ErrorCode::Internal);
    server.agent.fail("destroy", [internal, Fault::Held(Arc::clone(&gate))]);
    server.fleet.destroy(TEAM, capsule.id).await.unwrap();
    let still = server.fleet.wait(capsule.id, Until::Settled, Duration::from_millis(50)).await.unwrap();
    assert_eq!(still.status, CapsuleStatus::Stopping);
    gate.add_permits(1);
    server.becomes(capsule.id, CapsuleStatus::Stopped).await;
    assert!(server.agent.world().sandboxes.is_empty());
}

#[tokio::test]
async fn what_a_server_left_undone_the_next_one_finishes() {
    let mut server = Server::start().await;
    let paused = server.paused().await;
    let running = server.running().await;
    let doomed = server.running().await;
    let never = || Fault::Held(Arc::new(Semaphore::new(0)));
    for method in ["create", "pause", "resume", "destroy"] {
        server.agent.fail(method, [never()]);
    }
    let created = server.create().await;
    server.fleet.pause(TEAM, running.id, false).await.unwrap();
    server.fleet.resume(TEAM, paused.id, Resume::default()).await.unwrap();
    server.fleet.destroy(TEAM, doomed.id).await.unwrap();
    assert_eq!(server.store.operations().await.unwrap().len(), 4);
    server.agent.until(World::no_fault_waits).await;

    server.restart().await;
    server.becomes(created.id, CapsuleStatus::Running).await;
    server.becomes(running.id, CapsuleStatus::Paused).await;
    server.becomes(paused.id, CapsuleStatus::Running).await;
    server.becomes(doomed.id, CapsuleStatus::Stopped).await;
    assert!(server.store.operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_destroy_overtakes_whatever_is_under_way() {
    let server = Server::start().await;
    let gate = Arc::new(Semaphore::new(0));
    server.agent.fail("create", [Fault::Held(Arc::clone(&gate))]);
    let capsule = server.create().await;
    server.fleet.destroy(TEAM, capsule.id).await.unwrap();
    server.becomes(capsule.id, CapsuleStatus::Stopped).await;
    // The create goes on at the host after all; its answer must not bring the capsule back.
    gate.add_permits(1);
    server.agent.until(|world| world.created == 1).await;
    let mut server = server;
    server.restart().await;
    server.agent.until(|world| world.sandboxes.is_empty()).await;
    assert_eq!(server.fleet.get(TEAM, capsule.id).await.unwrap().status, CapsuleStatus::Stopped);
}

#[tokio::test]
async fn a_host_that_was_away_changes_nothing_by_coming_back() {
    let mut server = Server::start().await;
    server.stop_agent();
    let capsule = server.create().await;
    server.start_agent();
    server.becomes(capsule.id, CapsuleStatus::Running).await;
    assert_eq!(server.agent.world().created, 1);
}

#[tokio::test]
async fn events_of_the_host_count_once_and_in_time() {
    let server = Server::start().await;
    let capsule = server.running().await;
    let now_ms = || u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap();
    let event = happened("sandbox.auto_paused", capsule.id, now_ms());
    server.agent.world().sandboxes.get_mut(&capsule.id.to_string()).unwrap().status = "paused".to_owned();
    let stranger = server.fleet.host_event(HostId::random(), event.clone()).await.unwrap_err();
    assert_eq!(stranger.code, Code::Forbidden);
    server.fleet.host_event(server.host, event.clone()).await.unwrap();
    let paused = server.fleet.get(TEAM, capsule.id).await.unwrap();
    assert_eq!((paused.status, paused.reason), (CapsuleStatus::Paused, Some(EndReason::Ttl)));

    server.fleet.resume(TEAM, capsule.id, Resume::default()).await.unwrap();
    let running = server.becomes(capsule.id, CapsuleStatus::Running).await;
    server.fleet.host_event(server.host, event).await.unwrap();
    assert_eq!(server.fleet.get(TEAM, capsule.id).await.unwrap().revision, running.revision, "it came twice");

    server.fleet.host_event(server.host, happened("sandbox.of_the_future", capsule.id, now_ms())).await.unwrap();
    server.fleet.host_event(server.host, happened("sandbox.crashed", capsule.id, now_ms())).await.unwrap();
    let dead = server.fleet.get(TEAM, capsule.id).await.unwrap();
    assert_eq!((dead.status, dead.reason), (CapsuleStatus::Error, Some(EndReason::VmCrash)));
    server.fleet.host_event(server.host, happened("sandbox.crashed", CapsuleId::random(), 0)).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_emptied_gets_no_capsules_until_it_takes_them_again() {
    let server = Server::start().await;
    let (running, paused) = (server.running().await, server.paused().await);
    let tell = async |draining| {
        server.agent.world().draining = draining;
        let event = SandboxEvent { sandbox_id: String::new(), ..happened(HOST_CHANGED, running.id, 0) };
        server.fleet.host_event(server.host, event).await.unwrap();
    };
    tell(true).await;
    server.host_becomes(HostStatus::Draining).await;
    server.agent.world().sandboxes.get_mut(&running.id.to_string()).unwrap().status = "paused".to_owned();
    let now_ms = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap();
    let event =
        SandboxEvent { reason: "host_drained".to_owned(), ..happened("sandbox.auto_paused", running.id, now_ms) };
    server.fleet.host_event(server.host, event).await.unwrap();
    let drained = server.fleet.get(TEAM, running.id).await.unwrap();
    assert_eq!((drained.status, drained.reason), (CapsuleStatus::Paused, Some(EndReason::HostDrained)));

    assert_eq!(server.fleet.create(TEAM, request()).await.unwrap_err().code, Code::NoHosts);
    for id in [running.id, paused.id] {
        let refused = server.fleet.resume(TEAM, id, Resume::default()).await.unwrap_err();
        assert_eq!(refused.code, Code::NoHosts);
        assert!(refused.message.contains("maintenance"), "{refused}");
    }
    tell(false).await;
    server.host_becomes(HostStatus::Online).await;
    server.fleet.resume(TEAM, running.id, Resume::default()).await.unwrap();
    server.becomes(running.id, CapsuleStatus::Running).await;
    server.running().await;
}

#[tokio::test]
async fn a_look_at_the_host_settles_every_difference() {
    let mut server = Server::start().await;
    let (asleep, gone, dead, ended) =
        (server.running().await, server.running().await, server.running().await, server.running().await);
    server.fleet.destroy(TEAM, ended.id).await.unwrap();
    server.becomes(ended.id, CapsuleStatus::Stopped).await;
    let unknown = CapsuleId::random();
    {
        let mut world = server.agent.world();
        let left_over = world.sandboxes[&asleep.id.to_string()].clone();
        for id in [ended.id, unknown] {
            let mut sandbox = left_over.clone();
            sandbox.sandbox_id = id.to_string();
            world.sandboxes.insert(id.to_string(), sandbox);
        }
        world.sandboxes.remove(&gone.id.to_string());
        let paused = world.sandboxes.get_mut(&asleep.id.to_string()).unwrap();
        (paused.status, paused.reason) = ("paused".to_owned(), "ttl".to_owned());
        let crashed = world.sandboxes.get_mut(&dead.id.to_string()).unwrap();
        (crashed.status, crashed.reason) = ("error".to_owned(), "guest_oom".to_owned());
    }
    server.restart().await;
    assert_eq!(server.becomes(asleep.id, CapsuleStatus::Paused).await.reason, Some(EndReason::Ttl));
    assert_eq!(server.becomes(gone.id, CapsuleStatus::Stopped).await.reason, Some(EndReason::HostLost));
    assert_eq!(server.becomes(dead.id, CapsuleStatus::Error).await.reason, Some(EndReason::GuestOom));
    let kept = |world: &World| world.sandboxes.keys().cloned().collect::<Vec<_>>();
    let mut want = vec![asleep.id.to_string(), unknown.to_string()];
    want.sort();
    server.agent.until(|world| kept(world) == want).await;
}

#[tokio::test]
async fn any_mixture_of_requests_and_faults_ends_with_nothing_left() {
    let server = Arc::new(Server::start().await);
    for method in ["create", "pause", "resume", "destroy", "ping"] {
        server.agent.fail(method, lost(10));
    }
    let lives = (0..12).map(|number: u32| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let id = server.create().await.id;
            for round in 0..8 {
                // Refusals are part of it; what counts is how it ends.
                let _ = match (number + round) % 3 {
                    0 => server.fleet.pause(TEAM, id, false).await,
                    1 => server.fleet.resume(TEAM, id, Resume::default()).await,
                    _ => server.fleet.wait(id, Until::Settled, Duration::from_millis(20)).await,
                };
            }
            server.fleet.destroy(TEAM, id).await.unwrap();
            server.becomes(id, CapsuleStatus::Stopped).await;
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.unwrap();
    }
    server.agent.until(|world| world.sandboxes.is_empty()).await;
    assert!(server.store.operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn requests_that_cannot_be_met_say_why() {
    let server = Server::start().await;
    let huge = fleet::Create { memory_mb: Some(65_536), ..request() };
    assert_eq!(server.fleet.create(TEAM, huge).await.unwrap_err().code, Code::NoHosts);
    for (template, code) in [("no/t", Code::InvalidRequest), ("nothing", Code::NotFound)] {
        let create = fleet::Create { template: template.to_owned(), ..request() };
        assert_eq!(server.fleet.create(TEAM, create).await.unwrap_err().code, code);
    }
    let other = model::TeamId::random();
    let capsule = server.running().await;
    assert_eq!(server.fleet.get(other, capsule.id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(server.fleet.destroy(other, capsule.id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(server.fleet.authenticate_host("wrong").await.unwrap_err().code, Code::Unauthorized);
    assert_eq!(server.fleet.authenticate_host("host token").await.unwrap(), server.host);
}
