//! The same expectations on `SQLite` and on a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers are not `#[test]`s, so clippy.toml does not cover them.

mod support;

use bus::Outbox;
use chrono::{TimeDelta, Utc};
use lifecycle::server::Operation;
use model::egress::Block;
use model::lifetime::AtEnd;
use model::{
    Capacity, Capsule, CapsuleId, CapsuleStatus, Egress, EndReason, HostId, Lifetime, Secret, Size, Surroundings,
    TeamId, Template, TemplateId, UserId,
};
use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use store::{
    After, CapsuleQuery, Change, Facts, FirstAccount, HostReport, NewCapsule, NewKey, OpenError, Options, Pending,
    Placement, Store, Task,
};
use support::Postgres;
use uuid::Uuid;

type Test = fn(Store) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |store| Box::pin($name(store)))),*] };
}

const TESTS: &[(&str, Test)] = tests![
    a_capsule_reads_as_it_was_written,
    one_of_many_movers_wins,
    a_lost_race_writes_nothing,
    every_move_has_its_event_and_operation,
    placement_is_serial,
    lists_filter_and_page,
    lifetimes_change_atomically,
    activity_never_goes_back,
    events_are_leased_once_and_settled,
    keys_and_accounts,
    hosts_come_and_go,
    templates_by_name,
    templates_are_saved_replaced_and_removed,
    migrations_go_down_with_rows_present,
];

#[tokio::test]
async fn on_sqlite() {
    for (name, test) in TESTS {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        let options = Options { directory: dir.path().to_owned(), database_url: None };
        test(Store::open(&options).await.unwrap()).await;
    }
}

#[tokio::test]
async fn on_postgres() {
    let server = Postgres::start();
    let admin = sqlx::PgPool::connect(&server.url("postgres")).await.unwrap();
    for (name, test) in TESTS {
        println!("{name}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = Options { directory: dir.path().to_owned(), database_url: Some(server.url(name)) };
        test(Store::open(&options).await.unwrap()).await;
    }
}

#[tokio::test]
async fn sqlite_takes_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { directory: dir.path().to_owned(), database_url: None };
    let first = Store::open(&options).await.unwrap();
    assert!(matches!(Store::open(&options).await, Err(OpenError::InUse(_))));
    drop(first);
    assert!(Store::open(&options).await.is_ok(), "a database of before opens again");
}

#[tokio::test]
async fn secrets_are_not_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { directory: dir.path().to_owned(), database_url: None };
    let store = Store::open(&options).await.unwrap();
    placed(&store).await;
    drop(store);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in ["tok-secret", "env-secret"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
    }
}

const SNAPSHOT: Uuid = Uuid::from_u128(7);
const SIZE: Size = Size { vcpus: 2, memory_mb: 512, disk_mb: 5120 };

async fn new(store: &Store, team: TeamId) -> NewCapsule {
    let template = store.template(team, "minimal").await.unwrap().unwrap();
    NewCapsule {
        id: CapsuleId::random(),
        team,
        template: template.template.name,
        template_id: template.template.id,
        snapshot: Some(SNAPSHOT),
        size: SIZE,
        lifetime: Lifetime::Until { unix_ms: 1_800_000_000_123, at_end: AtEnd::Kill },
        surroundings: Surroundings {
            default_user: "user".to_owned(),
            default_workdir: "/home/user".to_owned(),
            envs: BTreeMap::from([("A".to_owned(), "env-secret".to_owned())]),
            egress: Egress {
                allow_internet: false,
                allow_out: vec!["1.2.3.0/24".parse().unwrap()],
                deny_out: vec![Block::ALL],
            },
        },
        access_token: Secret::new("tok-secret"),
        metadata: BTreeMap::from([("owner".to_owned(), "näöb\"o".to_owned())]),
    }
}

async fn host(store: &Store) -> HostId {
    let id = HostId::random();
    store.add_host(id, "hash").await.unwrap();
    store.host_answered(id, &report(false)).await.unwrap();
    id
}

fn report(draining: bool) -> HostReport {
    let capacity = Capacity { cpu_cores: 4, memory_mb: 16_384, disk_mb: 100_000 };
    HostReport { capacity, isolation: "qemu-tcg".to_owned(), arch: "x86_64".to_owned(), draining }
}

async fn place(store: &Store, new: NewCapsule, host: HostId) -> (Capsule, Pending) {
    match store.place(new, 100, |_| Some(host)).await.unwrap() {
        Placement::Placed(capsule, pending) => (*capsule, pending),
        other => panic!("{other:?}"),
    }
}

async fn placed(store: &Store) -> (Capsule, Pending) {
    let host = host(store).await;
    let new = new(store, TeamId::PLATFORM).await;
    place(store, new, host).await
}

async fn moved(store: &Store, capsule: &Capsule, to: CapsuleStatus) -> Capsule {
    store.move_capsule(capsule, to, Change::default()).await.unwrap().unwrap().0
}

async fn a_capsule_reads_as_it_was_written(store: Store) {
    let host = host(&store).await;
    let new = new(&store, TeamId::PLATFORM).await;
    let (written, pending) = place(&store, new.clone(), host).await;
    assert_eq!(store.capsule(written.id).await.unwrap().as_ref(), Some(&written));
    assert_eq!((written.id, written.host, written.size), (new.id, host, SIZE));
    assert_eq!((written.lifetime, &written.surroundings), (new.lifetime, &new.surroundings));
    assert_eq!((&written.access_token, &written.metadata), (&new.access_token, &new.metadata));
    assert_eq!((written.status, written.revision), (CapsuleStatus::Starting, 0));
    assert_eq!((pending.task, pending.revision, pending.attempt), (Task::Create { snapshot: Some(SNAPSHOT) }, 0, 0));
    assert_eq!(store.operation(written.id).await.unwrap(), Some(pending));

    let open = Egress { deny_out: vec!["8.8.8.8".parse().unwrap()], ..Egress::default() };
    let changed = store.change_egress(written.id, &open).await.unwrap().unwrap();
    let surroundings = Surroundings { egress: open.clone(), ..new.surroundings };
    assert_eq!((&changed.surroundings, changed.revision), (&surroundings, 0));
    assert_eq!(store.change_egress(CapsuleId::random(), &open).await.unwrap(), None);

    let facts =
        Facts { isolation: "qemu-tcg".to_owned(), versions: BTreeMap::from([("v".to_owned(), "1".to_owned())]) };
    let change = Change { facts: Some(facts.clone()), ..Change::default() };
    let (running, pending) = store.move_capsule(&written, CapsuleStatus::Running, change).await.unwrap().unwrap();
    assert_eq!(store.capsule(written.id).await.unwrap().as_ref(), Some(&running));
    assert_eq!((&running.isolation, &running.versions, pending), (&facts.isolation, &facts.versions, None));
    assert_eq!((running.revision, running.started_at, running.last_active_at).0, 1);
    assert!(running.started_at.is_some() && running.started_at == running.last_active_at);
    let reason = EndReason::StartFailed("no space".to_owned());
    let change = Change { reason: Some(reason.clone()), ..Change::default() };
    let (paused, _) = store.move_capsule(&running, CapsuleStatus::Paused, change).await.unwrap().unwrap();
    assert_eq!((paused.reason, paused.started_at), (Some(reason), running.started_at));
    assert_eq!(store.capsule(CapsuleId::random()).await.unwrap(), None);
}

async fn one_of_many_movers_wins(store: Store) {
    let (capsule, _) = placed(&store).await;
    let movers = (0..40).map(|_| {
        let (store, capsule) = (store.clone(), capsule.clone());
        tokio::spawn(
            async move { store.move_capsule(&capsule, CapsuleStatus::Running, Change::default()).await.unwrap() },
        )
    });
    let mut winners = 0;
    for mover in movers.collect::<Vec<_>>() {
        winners += usize::from(mover.await.unwrap().is_some());
    }
    assert_eq!(winners, 1);
}

async fn a_lost_race_writes_nothing(store: Store) {
    let (starting, _) = placed(&store).await;
    let running = moved(&store, &starting, CapsuleStatus::Running).await;
    let change = Change { task: Some(Task::Destroy), ..Change::default() };
    assert!(store.move_capsule(&starting, CapsuleStatus::Stopping, change).await.unwrap().is_none());
    // The same status, but not the same stay in it.
    let paused = moved(&store, &running, CapsuleStatus::Paused).await;
    moved(&store, &paused, CapsuleStatus::Running).await;
    assert!(store.move_capsule(&running, CapsuleStatus::Paused, Change::default()).await.unwrap().is_none());
    assert_eq!(store.operations().await.unwrap(), []);
    assert_eq!(store.history(starting.id.uuid()).await.unwrap().len(), 4);
}

async fn every_move_has_its_event_and_operation(store: Store) {
    let (starting, first) = placed(&store).await;
    assert!(store.operation_failed_once(first.id).await.unwrap());
    assert_eq!(store.operation(starting.id).await.unwrap().unwrap().attempt, 1);
    let running = moved(&store, &starting, CapsuleStatus::Running).await;
    assert!(!store.operation_failed_once(first.id).await.unwrap(), "it ended with the status");

    let task = Task::Resume { discard_memory: true };
    let change = Change { task: Some(task), lifetime: Some(Lifetime::FOREVER), ..Change::default() };
    let (resuming, pending) = store.move_capsule(&running, CapsuleStatus::Resuming, change).await.unwrap().unwrap();
    let pending = pending.unwrap();
    assert_eq!((pending.task, pending.revision), (task, resuming.revision));
    assert!(pending.deadline.is_some());
    assert_eq!(resuming.lifetime, Lifetime::FOREVER);
    let change = Change { task: Some(Task::Destroy), ..Change::default() };
    let (_, pending) = store.move_capsule(&resuming, CapsuleStatus::Stopping, change).await.unwrap().unwrap();
    let pending = pending.unwrap();
    assert_eq!((pending.task.operation(), pending.deadline), (Operation::Destroy, None));
    assert_eq!(store.operations().await.unwrap(), [pending], "one operation per capsule");

    let history = store.history(starting.id.uuid()).await.unwrap();
    let names: Vec<_> = history.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["capsule.created", "capsule.running", "capsule.state.changed", "capsule.state.changed"]);
    assert_eq!(history[1].body["from"], "starting");
    assert_eq!(history[1].team, TeamId::PLATFORM.uuid());
}

async fn placement_is_serial(store: Store) {
    let host = host(&store).await;
    let tries = (0..20).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let new = new(&store, TeamId::PLATFORM).await;
            let choose = |loads: &[store::HostLoad]| (loads[0].active.memory_mb < 5 * 512).then_some(host);
            store.place(new, 100, choose).await.unwrap()
        })
    });
    let mut placed = 0;
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Placement::Placed(..) => placed += 1,
            other => assert_eq!(other, Placement::NoHost),
        }
    }
    assert_eq!(placed, 5);
    let load = store.loads().await.unwrap()[0].active;
    assert_eq!((load.capsules, load.vcpus, load.memory_mb, load.disk_mb), (5, 10, 2560, 25_600));
    let new = new(&store, TeamId::PLATFORM).await;
    assert_eq!(store.place(new, 5, |_| Some(host)).await.unwrap(), Placement::TeamFull);
}

async fn lists_filter_and_page(store: Store) {
    let host = host(&store).await;
    let mut made = Vec::new();
    for number in 0..7 {
        let mut new = new(&store, TeamId::PLATFORM).await;
        new.metadata.insert("n\"o".to_owned(), (number % 2).to_string());
        made.push(place(&store, new, host).await.0);
    }
    moved(&store, &made[0], CapsuleStatus::Stopped).await;
    moved(&store, &made[1], CapsuleStatus::Running).await;
    let ids = async |query: CapsuleQuery| -> Vec<CapsuleId> {
        store.capsules(&query).await.unwrap().into_iter().map(|capsule| capsule.id).collect()
    };
    let all: Vec<_> = made[1..].iter().rev().map(|capsule| capsule.id).collect();
    assert_eq!(ids(CapsuleQuery::default()).await, all, "newest first, without the stopped one");
    let oldest = CapsuleQuery { oldest_first: true, limit: Some(2), ..CapsuleQuery::default() };
    assert_eq!(ids(oldest).await, [made[1].id, made[2].id]);

    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store.capsules(&CapsuleQuery { after, limit: Some(4), ..CapsuleQuery::default() }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(After { created_at: last.created_at, id: last.id });
        paged.extend(page.into_iter().map(|capsule| capsule.id));
    }
    assert_eq!(paged, all);

    let running = CapsuleQuery { states: vec![CapsuleStatus::Running], ..CapsuleQuery::default() };
    assert_eq!(ids(running).await, [made[1].id]);
    let odd = BTreeMap::from([("n\"o".to_owned(), "1".to_owned()), ("owner".to_owned(), "näöb\"o".to_owned())]);
    let odd = CapsuleQuery { metadata: odd, ..CapsuleQuery::default() };
    assert_eq!(ids(odd).await, [made[5].id, made[3].id, made[1].id]);
    let none = CapsuleQuery { team: Some(TeamId::random()), ..CapsuleQuery::default() };
    assert_eq!(ids(none).await, []);
    let late = CapsuleQuery { created_after: Some(made[5].created_at), ..CapsuleQuery::default() };
    assert_eq!(ids(late).await, [made[6].id, made[5].id]);
}

async fn lifetimes_change_atomically(store: Store) {
    let (capsule, _) = placed(&store).await;
    let later = |by_ms| {
        move |lifetime| match lifetime {
            Lifetime::Until { unix_ms, at_end } => Some(Lifetime::Until { unix_ms: unix_ms + by_ms, at_end }),
            Lifetime::Idle { .. } => None,
        }
    };
    let changes = (0..10).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.change_lifetime(capsule.id, later(10)).await.unwrap().unwrap() })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap();
    }
    let now = store.capsule(capsule.id).await.unwrap().unwrap().lifetime;
    assert_eq!(Some(now), later(100)(capsule.lifetime));
    assert!(store.change_lifetime(CapsuleId::random(), |_| None).await.unwrap().is_none());
}

async fn activity_never_goes_back(store: Store) {
    let (capsule, _) = placed(&store).await;
    let now = Utc::now();
    for at in [now, now - TimeDelta::hours(1)] {
        store.touch_capsule(capsule.id, at).await.unwrap();
    }
    let seen = store.capsule(capsule.id).await.unwrap().unwrap().last_active_at.unwrap();
    assert!((now - seen).abs() < TimeDelta::milliseconds(1));
}

async fn events_are_leased_once_and_settled(store: Store) {
    let host = host(&store).await;
    for _ in 0..30 {
        let new = new(&store, TeamId::PLATFORM).await;
        place(&store, new, host).await;
    }
    let leases = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.lease(20).await.unwrap() })
    });
    let mut ids: Vec<Uuid> = Vec::new();
    for lease in leases.collect::<Vec<_>>() {
        ids.extend(lease.await.unwrap().iter().map(|message| message.id));
    }
    // Relays that looked at the same moment may have come away with less than there was.
    loop {
        let more = store.lease(100).await.unwrap();
        if more.is_empty() {
            break;
        }
        ids.extend(more.iter().map(|message| message.id));
    }
    assert_eq!(ids.len(), 30);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 30, "nobody got another's");
    store.settle(&ids[..10]).await.unwrap();
    assert_eq!(store.trim_events(TimeDelta::seconds(-1)).await.unwrap(), 10, "only what was relayed is forgotten");
}

async fn keys_and_accounts(store: Store) {
    assert!(store.has_no_users().await.unwrap());
    let key = |hash: &str| NewKey {
        id: model::KeyId::random(),
        name: "k".to_owned(),
        hash: hash.to_owned(),
        prefix: "wrn_000000".to_owned(),
        created_by: None,
    };
    let first = FirstAccount {
        user: UserId::random(),
        email: "admin@localhost".to_owned(),
        password_hash: "x".to_owned(),
        team: TeamId::random(),
        team_name: "Default".to_owned(),
        team_slug: "a-b".to_owned(),
        key: key("one"),
    };
    store.add_first_account(first.clone()).await.unwrap();
    assert!(!store.has_no_users().await.unwrap());
    assert!(store.add_first_account(first.clone()).await.is_err(), "all or nothing");
    assert!(store.user_by_email("admin@localhost").await.unwrap().unwrap().is_admin);
    assert_eq!(store.user_by_email("nobody@localhost").await.unwrap(), None);

    let added = store.add_key(first.team, key("two")).await.unwrap();
    let again = store.add_key(first.team, key("two")).await;
    assert!(matches!(again, Err(store::StoreError::Duplicate(_))), "{again:?}");
    assert_eq!(store.keys(first.team).await.unwrap().len(), 2);
    let now = Utc::now();
    store.touch_key(added.id, now).await.unwrap();
    let owner = store.key_by_hash("two").await.unwrap().unwrap();
    assert!((owner.key.last_used.unwrap() - now).abs() < TimeDelta::milliseconds(1));
    assert_eq!(owner.key.team, first.team);
    assert!(!store.remove_key(TeamId::PLATFORM, added.id).await.unwrap());
    assert!(store.remove_key(first.team, added.id).await.unwrap());
    assert_eq!(store.key_by_hash("two").await.unwrap(), None);
}

async fn hosts_come_and_go(store: Store) {
    let id = host(&store).await;
    store.add_host(id, "new token").await.unwrap();
    let known = store.hosts().await.unwrap();
    assert_eq!((known.len(), known[0].status, known[0].capacity.memory_mb), (1, model::HostStatus::Online, 16_384));
    assert_eq!(store.host_by_token("new token").await.unwrap(), Some(id));
    assert_eq!(store.host_by_token("hash").await.unwrap(), None);
    assert!(store.host_lost(id).await.unwrap());
    assert!(!store.host_lost(id).await.unwrap(), "no news");
    for (draining, status) in [(true, model::HostStatus::Draining), (false, model::HostStatus::Online)] {
        store.host_answered(id, &report(draining)).await.unwrap();
        assert_eq!(store.hosts().await.unwrap()[0].status, status);
    }
}

async fn templates_by_name(store: Store) {
    let team = TeamId::random();
    assert_eq!(store.templates(team).await.unwrap().len(), 1);
    let minimal = store.template(team, "minimal").await.unwrap().unwrap();
    assert_eq!((minimal.template.team, minimal.hosts), (TeamId::PLATFORM, vec![]));
    assert_eq!(store.template(team, "other").await.unwrap(), None);
}

async fn templates_are_saved_replaced_and_removed(store: Store) {
    let (capsule, _) = placed(&store).await;
    let new = |id| Template {
        id,
        team: TeamId::PLATFORM,
        name: "saved".to_owned(),
        snapshot: true,
        vcpus: 2,
        memory_mb: 512,
        disk_mb: 6_000,
        size_bytes: 1 << 33,
        default_user: "root".to_owned(),
        default_env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        created_at: capsule.created_at,
        source: Some(capsule.id),
    };
    let (first, second) = (TemplateId::random(), TemplateId::random());
    let added = store.add_template(new(first), capsule.host, false).await.unwrap().unwrap();
    assert_eq!((&added.template, &added.replaced), (&new(first), &None));
    assert_eq!(store.add_template(new(second), capsule.host, false).await.unwrap(), None);
    let added = store.add_template(new(second), capsule.host, true).await.unwrap().unwrap();
    let replaced = added.replaced.unwrap();
    assert_eq!((replaced.template.id, replaced.hosts), (first, vec![capsule.host]));
    assert_eq!(store.template_by_id(TeamId::PLATFORM, first).await.unwrap(), None);
    let found = store.template(TeamId::PLATFORM, "saved").await.unwrap().unwrap();
    assert_eq!((&found.template, &found.hosts), (&added.template, &vec![capsule.host]));
    assert_eq!(store.templates_on(capsule.host).await.unwrap(), [second.uuid()]);
    assert!(store.remove_template(&found.template).await.unwrap());
    assert!(!store.remove_template(&found.template).await.unwrap());
    assert!(store.templates_on(capsule.host).await.unwrap().is_empty());
    let names: Vec<String> = store.history(second.uuid()).await.unwrap().into_iter().map(|event| event.name).collect();
    assert_eq!(names, ["template.snapshot.created", "template.snapshot.deleted"]);
}

async fn migrations_go_down_with_rows_present(store: Store) {
    placed(&store).await;
    let key = NewKey {
        id: model::KeyId::random(),
        name: "k".to_owned(),
        hash: "h".to_owned(),
        prefix: String::new(),
        created_by: None,
    };
    store.add_key(TeamId::PLATFORM, key).await.unwrap();
    store.migrate_down().await.unwrap();
    assert!(store.hosts().await.is_err(), "the tables are gone");
    store.migrate_up().await.unwrap();
    placed(&store).await;
}
