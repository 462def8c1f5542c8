//! Capsules kept as templates, with an agent that fails.

use crate::agent::Fault;
use crate::world::{Server, TEAM, request};
use connectrpc::ErrorCode;
use fleet::{Create, SaveTemplate};
use model::{CapsuleStatus, Code, Size, TemplateId};
use uuid::{NoContext, Timestamp, Uuid};

fn named(name: &str) -> SaveTemplate {
    SaveTemplate { name: Some(name.to_owned()), ..SaveTemplate::default() }
}

#[tokio::test]
async fn a_capsule_is_made_of_a_template_by_name_and_by_id() {
    let server = Server::start().await;
    let source = server.running().await;
    let template = server.fleet.save_template(TEAM, source.id, named("mine")).await.unwrap();
    assert_eq!((template.name.as_str(), template.snapshot, template.source), ("mine", true, Some(source.id)));
    assert_eq!(template.size_bytes, 4_096);
    assert_eq!(server.agent.world().snapshots, [template.id.uuid().to_string()]);
    assert_eq!(server.fleet.get(TEAM, source.id).await.unwrap().status, CapsuleStatus::Running);
    for name in ["mine", &template.id.to_string()] {
        let wish = Create { template: name.to_owned(), vcpus: Some(7), ..request() };
        let made = server.fleet.create(TEAM, wish).await.unwrap();
        assert_eq!((made.template_id, made.template.as_str()), (template.id, "mine"));
        assert_eq!(made.size, source.size, "memory has one size");
    }
    let larger = server.fleet.create(TEAM, Create { disk_mb: Some(6_000), template: "mine".to_owned(), ..request() });
    assert_eq!(larger.await.unwrap().size, Size { disk_mb: 6_000, ..source.size }, "and its disk may be larger");
    let smaller = server.fleet.create(TEAM, Create { disk_mb: Some(5_119), ..request() }).await.unwrap_err();
    assert_eq!(smaller.code, Code::InvalidRequest);
    server.fleet.delete_template(TEAM, "mine").await.unwrap();
    assert_eq!(server.agent.world().forgotten, [template.id.uuid().to_string()]);
    assert_eq!(server.fleet.delete_template(TEAM, "mine").await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn names_are_refused_before_the_capsule_is_disturbed() {
    let server = Server::start().await;
    let source = server.paused().await;
    server.fleet.save_template(TEAM, source.id, named("mine")).await.unwrap();
    for (name, code) in
        [("mine", Code::TemplateNameTaken), ("minimal", Code::NameReserved), ("base", Code::NameReserved)]
    {
        assert_eq!(server.fleet.save_template(TEAM, source.id, named(name)).await.unwrap_err().code, code, "{name}");
    }
    assert_eq!(server.agent.world().snapshots.len(), 1);
    assert_eq!(server.fleet.delete_template(TEAM, "base").await.unwrap_err().code, Code::Forbidden);
    let replacing = SaveTemplate { overwrite: true, discard_memory: true, ..named("mine") };
    let template = server.fleet.save_template(TEAM, source.id, replacing).await.unwrap();
    assert!(!template.snapshot);
    assert_eq!(server.agent.world().snapshots, [template.id.uuid().to_string()], "the old one is given up");
}

#[tokio::test]
async fn of_two_with_one_name_one_is_kept() {
    let server = Server::start().await;
    let source = server.running().await;
    let (a, b) = tokio::join!(
        server.fleet.save_template(TEAM, source.id, named("same")),
        server.fleet.save_template(TEAM, source.id, named("same"))
    );
    let kept = a.or(b).unwrap();
    assert_eq!(server.agent.world().snapshots, [kept.id.uuid().to_string()]);
}

#[tokio::test]
async fn a_failure_leaves_neither_row_nor_snapshot_and_templates_are_not_taken_for_leftovers() {
    let mut server = Server::start().await;
    let source = server.running().await;
    server.agent.fail("snapshot", [Fault::Refused(ErrorCode::Internal)]);
    assert!(server.fleet.save_template(TEAM, source.id, named("mine")).await.is_err());
    assert!(server.fleet.template(TEAM, "mine").await.is_err());

    // One that is as old as a leftover, and a leftover.
    let old = |n: u64| Uuid::new_v7(Timestamp::from_unix(NoContext, 1_700_000_000 + n, 0));
    let (kept, left) = (old(0), old(1));
    let new = model::Template {
        id: TemplateId::from_uuid(kept),
        team: TEAM,
        name: "old".to_owned(),
        snapshot: true,
        vcpus: 1,
        memory_mb: 512,
        disk_mb: 5_120,
        size_bytes: 0,
        default_user: "root".to_owned(),
        default_env: std::collections::BTreeMap::new(),
        created_at: chrono::Utc::now(),
        source: Some(source.id),
    };
    server.store.add_template(new, source.host, false).await.unwrap();
    server.agent.world().snapshots = [kept, left].map(|id| id.to_string()).to_vec();
    server.agent.world().forgotten.clear();
    server.restart().await;
    server.agent.until(|world| world.forgotten == [left.to_string()]).await;
    assert_eq!(server.agent.world().snapshots, [kept.to_string()]);
}
