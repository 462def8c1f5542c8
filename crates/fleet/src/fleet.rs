//! What may be asked of capsules.

use crate::apply::{Applied, unsigned_ms};
use crate::coalesce::Coalesce;
use crate::hosts::Hosts;
use crate::{Create, Cursor, Filter, Guest, Page, Resume, Route, Surface, Until, schedule};
use bus::{Bus, Heard, Message, Subscription};
use chrono::{DateTime, TimeDelta, Utc};
use connectrpc::client::CallOptions;
use lifecycle::server::{Event, Operation};
use model::{
    Capsule, CapsuleId, CapsuleStatus, Code, Error, HostId, HostStatus, Lifetime, Secret, Size, Surroundings, TeamId,
    limits,
};
use proto::hostagent::v1 as wire;
use std::sync::Arc;
use std::time::Duration;
use store::{After, CapsuleQuery, Change, HeldTemplate, HostLoad, NewCapsule, Placement, Store, Task};
use tokio::sync::{Mutex, broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long events are kept as history.
const HISTORY: TimeDelta = TimeDelta::days(30);
/// How often old events are forgotten.
const FORGET_PERIOD: Duration = Duration::from_hours(1);
/// Limit of a ping.
const PING_CALL: Duration = Duration::from_secs(10);
/// Bytes of an access token.
const TOKEN_BYTES: usize = 32;

/// The capsules of every team and the hosts they are on. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    store: Store,
    bus: Bus,
    hosts: Hosts,
    active: Coalesce,
    /// One at a time finds room on a host and takes it.
    admission: Mutex<()>,
    tasks: TaskTracker,
    /// Capsules this server moved: whoever waits for one here need not wait for the relay of its event.
    moved: broadcast::Sender<CapsuleId>,
    /// Begin nothing new.
    stop: CancellationToken,
    /// Drop what is under way.
    abandon: CancellationToken,
}

impl Fleet {
    /// Over what the store holds. Events of the store are relayed to the bus from now on. Operations that a former
    /// server left are taken up as their hosts are added.
    #[must_use]
    pub fn start(store: Store, bus: Bus) -> Self {
        let fleet = Self(Arc::new(Inner {
            store,
            bus,
            hosts: Hosts::default(),
            active: Coalesce::default(),
            admission: Mutex::default(),
            tasks: TaskTracker::new(),
            moved: broadcast::Sender::new(bus::LISTENER_QUEUE),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
        }));
        fleet.spawn(bus::relay(fleet.store().clone(), fleet.0.bus.clone(), fleet.stopping().clone()));
        fleet.spawn(forget_old_events(fleet.store().clone(), fleet.stopping().clone()));
        fleet
    }

    /// Stops, and waits at most this long for what is under way. What is left goes on at the next start.
    pub async fn shutdown(&self, drain: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(drain, self.0.tasks.wait()).await.is_err() {
            tracing::info!(left = self.0.tasks.len(), "operations under way go on at the next start");
        }
        self.0.abandon.cancel();
    }

    /// Places a capsule and answers it `starting`; the work goes on in the background.
    pub async fn create(&self, team: TeamId, request: Create) -> Result<Capsule, Error> {
        let HeldTemplate { template, hosts } = self.held_template(team, &request.template).await?;
        let asked = |asked: Option<u32>, own| asked.filter(|_| !template.snapshot).unwrap_or(own);
        let size = Size {
            vcpus: asked(request.vcpus, template.vcpus),
            memory_mb: asked(request.memory_mb, template.memory_mb),
            disk_mb: request.disk_mb.unwrap_or(template.disk_mb),
        };
        if size.disk_mb < template.disk_mb {
            let least = template.disk_mb;
            return Err(Error::invalid(format!(
                "disk_size_mb: the template's disk has {least} MiB, and none gets smaller"
            )));
        }
        let (default_user, default_workdir) = match request.surface {
            Surface::Wrenn => (template.default_user.clone(), String::new()),
            Surface::E2b => ("user".to_owned(), "/home/user".to_owned()),
        };
        let mut envs = template.default_env.clone();
        envs.extend(request.envs);
        let new = NewCapsule {
            id: CapsuleId::random(),
            team,
            template: template.name,
            template_id: template.id,
            snapshot: (!hosts.is_empty()).then(|| template.id.uuid()),
            size,
            lifetime: request.lifetime,
            surroundings: Surroundings { default_user, default_workdir, envs, egress: request.egress },
            access_token: random_token(),
            metadata: request.metadata,
        };
        let fleet = self.clone();
        self.to_its_end(async move { fleet.place(new, |loads| schedule::choose(loads, &hosts, size)).await }).await
    }

    /// Writes a capsule down on the host chosen, and begins to make it.
    pub(crate) async fn place(
        &self,
        new: NewCapsule,
        choose: impl FnOnce(&[HostLoad]) -> Option<HostId> + Send,
    ) -> Result<Capsule, Error> {
        let size = new.size;
        let _alone = self.0.admission.lock().await;
        match self.store().place(new, limits::TEAM_CAPSULES_MAX, choose).await? {
            Placement::Placed(capsule, pending) => {
                self.carry_out(pending, (*capsule).clone());
                Ok(*capsule)
            }
            Placement::NoHost => Err(no_host(size)),
            Placement::TeamFull => {
                let most = limits::TEAM_CAPSULES_MAX;
                Err(Error::new(Code::RateLimited, format!("the team has {most} capsules, as many as it may have")))
            }
        }
    }

    /// A team's capsule, whatever its status.
    pub async fn get(&self, team: TeamId, id: CapsuleId) -> Result<Capsule, Error> {
        let capsule = self.store().capsule(id).await?.filter(|capsule| capsule.team == team);
        capsule.ok_or_else(|| Error::not_found("capsule"))
    }

    /// A page of a team's capsules.
    pub async fn list(&self, team: TeamId, filter: Filter) -> Result<Page, Error> {
        let size = match filter.limit {
            0 => limits::PAGE_MAX,
            limit => limit.min(limits::PAGE_MAX),
        };
        let query = CapsuleQuery {
            team: Some(team),
            host: None,
            states: filter.states,
            metadata: filter.metadata,
            template: filter.template,
            created_after: filter.created_after,
            after: filter.cursor.map(|Cursor { created_at, id }| After { created_at, id }),
            oldest_first: filter.oldest_first,
            // One more tells whether there is another page.
            limit: Some(u64::from(size) + 1),
        };
        let mut capsules = self.store().capsules(&query).await?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let more = capsules.len() > size;
        capsules.truncate(size);
        let last = capsules.last().filter(|_| more);
        let next = last.map(|last| Cursor { created_at: last.created_at, id: last.id });
        Ok(Page { capsules, next })
    }

    /// Begins to save a running capsule, with its memory or its disk alone; it is `pausing` on return.
    pub async fn pause(&self, team: TeamId, id: CapsuleId, discard_memory: bool) -> Result<Capsule, Error> {
        self.ask(team, id, Task::Pause { discard_memory }, Change::default()).await
    }

    /// Begins to bring a paused capsule back; it is `resuming` on return.
    pub async fn resume(&self, team: TeamId, id: CapsuleId, how: Resume) -> Result<Capsule, Error> {
        let fleet = self.clone();
        self.to_its_end(async move { fleet.resume_through(team, id, how).await }).await
    }

    async fn resume_through(&self, team: TeamId, id: CapsuleId, how: Resume) -> Result<Capsule, Error> {
        // What fits is still so when it is written.
        let _alone = self.0.admission.lock().await;
        let capsule = self.get(team, id).await?;
        if capsule.status == CapsuleStatus::Paused {
            let loads = self.store().loads().await?;
            let host = loads.iter().find(|load| load.host.id == capsule.host);
            // Its disk is there already.
            let size = Size { disk_mb: 0, ..capsule.size };
            match host {
                Some(load) if schedule::fits(load, size) => {}
                Some(load) if load.host.status == HostStatus::Draining => return Err(draining()),
                _ => return Err(no_host(capsule.size)),
            }
        }
        let lifetime = how.lifetime.or_else(|| renewed(capsule.lifetime, Utc::now()));
        let task = Task::Resume { discard_memory: how.discard_memory };
        self.ask_through(team, id, task, Change { lifetime, ..Change::default() }).await
    }

    /// Begins to remove a capsule; it is `stopping` on return, or what it is when it has ended before.
    pub async fn destroy(&self, team: TeamId, id: CapsuleId) -> Result<Capsule, Error> {
        self.ask(team, id, Task::Destroy, Change::default()).await
    }

    async fn ask(&self, team: TeamId, id: CapsuleId, task: Task, change: Change) -> Result<Capsule, Error> {
        let fleet = self.clone();
        self.to_its_end(async move { fleet.ask_through(team, id, task, change).await }).await
    }

    async fn ask_through(&self, team: TeamId, id: CapsuleId, task: Task, change: Change) -> Result<Capsule, Error> {
        let capsule = self.get(team, id).await?;
        let event = Event::Asked(task.operation());
        let (capsule, applied) = self.apply_again(capsule, &event, Some(task), change).await?;
        match applied {
            Applied::Moved(_) | Applied::Stayed => Ok(capsule),
            Applied::Refused | Applied::Lost => Err(wrong_status(task.operation(), capsule.status)),
        }
    }

    /// Counts as activity of a running capsule.
    pub async fn ping(&self, team: TeamId, id: CapsuleId) -> Result<(), Error> {
        let capsule = self.running(team, id).await?;
        let request = wire::PingSandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        let options = CallOptions::default().with_timeout(PING_CALL);
        let answer = self.link(capsule.host)?.rpc().ping_sandbox_with_options(request, options).await;
        answer.map_err(|error| hostlink::error(&error))?;
        Ok(self.store().touch_capsule(id, Utc::now()).await?)
    }

    /// The capsule as soon as `until` holds, or as it is after `limit`.
    pub async fn wait(&self, id: CapsuleId, until: Until, limit: Duration) -> Result<Capsule, Error> {
        let deadline = tokio::time::Instant::now() + limit;
        // Listening begins before looking, so that no change falls between the two.
        let (mut heard, mut moved) = (self.0.bus.subscribe(), self.0.moved.subscribe());
        loop {
            let capsule = self.store().capsule(id).await?.ok_or_else(|| Error::not_found("capsule"))?;
            let reached = match until {
                Until::Settled => !capsule.status.is_transient(),
                Until::Past(revision) => capsule.revision > revision,
                Until::Running => !matches!(capsule.status, CapsuleStatus::Starting | CapsuleStatus::Resuming),
            };
            if reached {
                return Ok(capsule);
            }
            let change = async {
                tokio::select! {
                    () = told_of(id, &mut heard) => {}
                    () = moved_here(id, &mut moved) => {}
                }
            };
            if tokio::time::timeout_at(deadline, change).await.is_err() {
                return Ok(capsule);
            }
        }
    }

    /// A capsule just made, as soon as it runs. One that does not in time is destroyed: nobody has its id.
    pub async fn started(&self, capsule: Capsule, limit: Duration) -> Result<Capsule, Error> {
        let capsule = self.wait(capsule.id, Until::Running, limit).await?;
        match (capsule.status, &capsule.reason) {
            (CapsuleStatus::Running, _) => Ok(capsule),
            (CapsuleStatus::Starting, _) => {
                self.destroy(capsule.team, capsule.id).await?;
                Err(Error::new(Code::Timeout, format!("it did not start within {} s", limit.as_secs())))
            }
            (_, Some(reason)) => Err(Error::new(Code::Internal, format!("it did not start: {reason}"))),
            (status, None) => Err(Error::new(Code::Internal, format!("it is {status}"))),
        }
    }

    /// The capsule once it is neither starting nor resuming, or after [`limits::HOLD`].
    pub(crate) async fn when_ready(&self, team: TeamId, id: CapsuleId) -> Result<Capsule, Error> {
        let capsule = self.get(team, id).await?;
        match capsule.status {
            CapsuleStatus::Starting | CapsuleStatus::Resuming => self.wait(id, Until::Running, limits::HOLD).await,
            _ => Ok(capsule),
        }
    }

    pub(crate) async fn running(&self, team: TeamId, id: CapsuleId) -> Result<Capsule, Error> {
        let capsule = self.when_ready(team, id).await?;
        match capsule.status {
            CapsuleStatus::Running => Ok(capsule),
            status @ (CapsuleStatus::Starting | CapsuleStatus::Resuming) => {
                Err(Error::new(Code::Unavailable, format!("the capsule is still {status}")))
            }
            status => Err(Error::new(Code::InvalidState, format!("the capsule is {status}, not running"))),
        }
    }

    /// The guest of a running capsule; waits for one that is starting or resuming. Counts as activity.
    pub async fn guest(&self, team: TeamId, id: CapsuleId) -> Result<Guest, Error> {
        let capsule = self.running(team, id).await?;
        let link = self.link(capsule.host)?;
        if self.0.active.due(id) {
            self.store().touch_capsule(id, Utc::now()).await?;
        }
        Ok(Guest::new(id, link))
    }

    /// How the port proxy gets to a capsule, of whatever team and in whatever status.
    pub async fn route(&self, id: CapsuleId) -> Result<Route, Error> {
        let capsule = self.store().capsule(id).await?.ok_or_else(|| Error::not_found("capsule"))?;
        let link = self.link(capsule.host)?;
        if capsule.status == CapsuleStatus::Running && self.0.active.due(id) {
            self.store().touch_capsule(id, Utc::now()).await?;
        }
        let Capsule { status, access_token, lifetime, .. } = capsule;
        Ok(Route { status, link, access_token, lifetime })
    }

    /// The daemon secrets of all capsules that run or soon will: for signed URLs, which name nobody. It reads them
    /// all, so it is for the rare request that brings nothing better.
    pub async fn live_tokens(&self) -> Result<Vec<(CapsuleId, Secret)>, Error> {
        let states = vec![CapsuleStatus::Running, CapsuleStatus::Starting, CapsuleStatus::Resuming];
        let live = self.store().capsules(&CapsuleQuery { states, ..CapsuleQuery::default() }).await?;
        Ok(live.into_iter().map(|capsule| (capsule.id, capsule.access_token)).collect())
    }

    /// What happened to a team's capsule, oldest first.
    pub async fn history(&self, team: TeamId, id: CapsuleId) -> Result<Vec<Message>, Error> {
        self.get(team, id).await?;
        Ok(self.store().history(id.uuid()).await?)
    }

    /// Everything that happens.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.0.bus
    }

    pub(crate) fn tell_waiting(&self, moved: CapsuleId) {
        // Nobody waits: nobody misses it.
        let _ = self.0.moved.send(moved);
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn hosts_known(&self) -> &Hosts {
        &self.0.hosts
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Does it also if whoever asked leaves meanwhile: what has been written down must be begun, too.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, answer) = oneshot::channel();
        self.spawn(async move { drop(sender.send(work.await)) });
        answer.await.map_err(|_| stopping())?
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abandon = self.0.abandon.clone();
        self.0.tasks.spawn(async move {
            abandon.run_until_cancelled(task).await;
        });
    }
}

/// A secret for a guest daemon.
pub(crate) fn random_token() -> Secret {
    Secret::new(hex::encode(rand::random::<[u8; TOKEN_BYTES]>()))
}

async fn forget_old_events(store: Store, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = store.trim_events(HISTORY).await {
            tracing::warn!(%error, "cannot forget old events");
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET_PERIOD) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// A capsule that is brought back after its end gets as much time as one that is made without naming any: else it
/// would end again at once.
fn renewed(lifetime: Lifetime, now: DateTime<Utc>) -> Option<Lifetime> {
    let now_ms = unsigned_ms(now.timestamp_millis());
    match lifetime {
        Lifetime::Until { unix_ms, at_end } if unix_ms <= now_ms => {
            Some(Lifetime::Until { unix_ms: now_ms + u64::from(limits::E2B_TIMEOUT_S_DEFAULT) * 1000, at_end })
        }
        _ => None,
    }
}

pub(crate) fn stopping() -> Error {
    Error::new(Code::Unavailable, "the server is stopping")
}

pub(crate) fn no_host(size: Size) -> Error {
    let text = format!(
        "no host that takes capsules has {} MB of memory and {} MB of disk to spare",
        size.memory_mb, size.disk_mb
    );
    Error::new(Code::NoHosts, text)
}

fn draining() -> Error {
    Error::new(Code::NoHosts, "the capsule's host is being emptied for maintenance; resume it once the host is back")
}

fn wrong_status(operation: Operation, status: CapsuleStatus) -> Error {
    let needed = match operation {
        Operation::Pause => "only a running capsule can be paused",
        Operation::Resume => "only a paused capsule can be resumed",
        Operation::Create | Operation::Destroy => "it changed too often meanwhile",
    };
    Error::new(Code::InvalidState, format!("the capsule is {status}: {needed}"))
}

/// Returns when something happened to the capsule, or may have.
async fn told_of(id: CapsuleId, heard: &mut Subscription) {
    while let Some(Heard::Message(message)) = heard.next().await {
        if message.subject == id.uuid() {
            break;
        }
    }
}

/// As [`told_of`].
async fn moved_here(id: CapsuleId, moved: &mut broadcast::Receiver<CapsuleId>) {
    while let Ok(other) = moved.recv().await {
        if other == id {
            break;
        }
    }
}
