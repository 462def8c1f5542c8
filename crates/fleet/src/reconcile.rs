//! Bringing together what a host says and what the database says.
//!
//! Rows are read *before* the host is asked, and every write is conditional on the row as read: whatever happens
//! in between wins, and the next look sees it.

use crate::apply::unsigned_ms;
use crate::hosts::Known;
use crate::{Fleet, Until, coalesce, convert};
use chrono::{DateTime, Utc};
use connectrpc::client::CallOptions;
use hostlink::callback::HOST_CHANGED;
use hostlink::{AgentLink, SandboxEvent};
use lifecycle::server::Event;
use model::lifetime::AtEnd;
use model::{Capsule, CapsuleId, CapsuleStatus, Code, EndReason, Error, HostId, Lifetime};
use proto::hostagent::v1 as wire;
use std::collections::HashMap;
use std::time::Duration;
use store::{CapsuleQuery, Change};
use tokio::time::Instant;

/// How often a host that answers is looked at. Its events and the operations' answers come sooner.
const PERIOD: Duration = Duration::from_mins(1);
/// How often a host that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// After this long without an answer a host counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(90);
/// How long an operation may take before news that came meanwhile are left to the next look.
const SETTLE: Duration = Duration::from_mins(10);
/// Limit of one question.
const CALL: Duration = Duration::from_secs(15);

impl Fleet {
    /// Looks at a host now and then, and whenever told to.
    pub(crate) fn watch(&self, id: HostId, known: Known) {
        let fleet = self.clone();
        self.spawn(async move {
            let mut answered = Instant::now();
            while !fleet.stopping().is_cancelled() {
                let pause = match fleet.reconcile(id, &known.link).await {
                    Ok(()) => {
                        answered = Instant::now();
                        PERIOD
                    }
                    Err(error) => {
                        tracing::debug!(host = %id, %error, "host does not answer");
                        fleet.host_is_silent(id, answered).await;
                        RETRY
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = known.look.notified() => {}
                    () = fleet.stopping().cancelled() => {}
                }
            }
        });
    }

    /// Asks a host what it is and has, and acts on every difference.
    async fn reconcile(&self, id: HostId, link: &AgentLink) -> Result<(), Error> {
        let options = || CallOptions::default().with_timeout(CALL);
        let host = link.rpc().get_host_with_options(wire::GetHostRequest::default(), options()).await;
        let host = host.map_err(|error| hostlink::error(&error))?.into_owned();
        self.store().host_answered(id, &convert::report(&host)).await?;
        self.forget_snapshots(id, link, &host.snapshots).await?;

        let rows = self.store().capsules(&CapsuleQuery { host: Some(id), ..CapsuleQuery::default() }).await?;
        let listed = link.rpc().list_sandboxes_with_options(wire::ListSandboxesRequest::default(), options()).await;
        let listed = listed.map_err(|error| hostlink::error(&error))?.into_owned().sandboxes;
        let listed = listed.into_iter().filter_map(|sandbox| Some((sandbox.sandbox_id.parse().ok()?, sandbox)));
        let mut listed: HashMap<CapsuleId, wire::Sandbox> = listed.collect();
        for capsule in rows {
            if let Some(sandbox) = listed.remove(&capsule.id) {
                self.compare(capsule, sandbox).await?;
            } else {
                let event = Event::Unknown(likeliest_end(&capsule));
                self.apply(&capsule, &event, None, Change::default()).await?;
            }
        }
        for stranger in listed.into_keys() {
            self.stranger(id, stranger).await?;
        }
        Ok(())
    }

    /// A capsule both know.
    async fn compare(&self, capsule: Capsule, sandbox: wire::Sandbox) -> Result<(), Error> {
        let event = Event::Seen(convert::seen(&sandbox));
        let active_at = DateTime::from_timestamp_millis(i64::try_from(sandbox.last_active_unix_ms).unwrap_or(i64::MAX));
        if let Some(at) = active_at.filter(|at| is_news(*at, capsule.last_active_at)) {
            self.store().touch_capsule(capsule.id, at).await?;
        }
        let theirs = sandbox.lifetime.as_option().and_then(convert::read_lifetime);
        if capsule.status == CapsuleStatus::Running && theirs.is_some_and(|theirs| theirs != capsule.lifetime) {
            // Told again below; not reaching the host now is the next look's business.
            if let Err(error) = self.tell_lifetime(&capsule).await {
                tracing::warn!(capsule = %capsule.id, %error, "cannot tell a host a lifetime");
            }
        }
        let theirs = sandbox.egress.as_option().and_then(convert::read_egress);
        if capsule.status == CapsuleStatus::Running
            && theirs.is_some_and(|theirs| theirs != capsule.surroundings.egress)
            && let Err(error) = self.tell_egress(&capsule).await
        {
            tracing::warn!(capsule = %capsule.id, %error, "cannot tell a host what a capsule may reach");
        }
        let change = Change { facts: Some(convert::facts(sandbox)), ..Change::default() };
        self.apply(&capsule, &event, None, change).await?;
        Ok(())
    }

    /// A capsule the host has and no living row describes. It is removed only if a row says that it ended: one that
    /// this database never knew may belong to somebody else.
    async fn stranger(&self, host: HostId, id: CapsuleId) -> Result<(), Error> {
        match self.store().capsule(id).await? {
            Some(capsule) if capsule.status.is_terminal() && capsule.host == host => self.clean(capsule),
            Some(_) => {}
            None => tracing::warn!(%host, capsule = %id, "the host has a capsule that this server does not know"),
        }
        Ok(())
    }

    async fn host_is_silent(&self, id: HostId, answered: Instant) {
        if answered.elapsed() < LOST_AFTER {
            return;
        }
        if let Err(error) = self.host_lost(id).await {
            tracing::warn!(host = %id, %error, "cannot note that a host is lost");
        }
    }

    async fn host_lost(&self, id: HostId) -> Result<(), Error> {
        if !self.store().host_lost(id).await? {
            return Ok(());
        }
        tracing::warn!(host = %id, "host is lost");
        for capsule in self.store().capsules(&CapsuleQuery { host: Some(id), ..CapsuleQuery::default() }).await? {
            self.apply_again(capsule, &Event::HostLost, None, Change::default()).await?;
        }
        Ok(())
    }

    /// Takes what a host's agent reports by itself. Events may come late and twice: one that is older than the
    /// status it would change only makes us look at the host.
    pub async fn host_event(&self, host: HostId, event: SandboxEvent) -> Result<(), Error> {
        if event.event == HOST_CHANGED {
            self.look_at(host);
            return Ok(());
        }
        let id: CapsuleId = event.sandbox_id.parse().map_err(|error| Error::invalid(format!("sandbox_id: {error}")))?;
        let Some(capsule) = self.store().capsule(id).await? else { return Ok(()) };
        if capsule.host != host {
            return Err(Error::new(Code::Forbidden, "this capsule is on another host"));
        }
        let Some(meaning) = convert::happened(&event) else { return Ok(()) };
        if event.timestamp_ms < unsigned_ms(capsule.status_changed_at.timestamp_millis()) {
            self.look_at(host);
            return Ok(());
        }
        if capsule.status.is_transient() {
            self.look_once_settled(capsule.id, host);
            return Ok(());
        }
        self.apply_again(capsule, &meaning, None, Change::default()).await?;
        Ok(())
    }

    /// News of a capsule that an operation is under way at: how it is shows once that has ended.
    fn look_once_settled(&self, id: CapsuleId, host: HostId) {
        let fleet = self.clone();
        self.spawn(async move {
            if fleet.wait(id, Until::Settled, SETTLE).await.is_ok() {
                fleet.look_at(host);
            }
        });
    }

    /// Now rather than at the next turn.
    fn look_at(&self, host: HostId) {
        if let Some(known) = self.hosts_known().get(host) {
            known.look.notify_one();
        }
    }
}

/// Activity is kept to within ten seconds.
fn is_news(at: DateTime<Utc>, known: Option<DateTime<Utc>>) -> bool {
    known.is_none_or(|known| at.signed_duration_since(known).to_std().is_ok_and(|ahead| ahead >= coalesce::EVERY))
}

/// Why a capsule that its host does not know most likely ended: its time was up, and the news of it were lost.
fn likeliest_end(capsule: &Capsule) -> EndReason {
    match capsule.lifetime {
        Lifetime::Until { unix_ms, at_end: AtEnd::Kill } if unix_ms <= unsigned_ms(Utc::now().timestamp_millis()) => {
            EndReason::Ttl
        }
        _ => EndReason::HostLost,
    }
}
