//! One task per capsule. It owns the capsule's VM, performs the operations its machine asks for, one at a time, and
//! outlives every caller.

use crate::environment::{Environment, GuestOf, VirtualMachine};
use crate::failure::Failure;
use crate::handle::{Handle, How, Message, Reply};
use crate::operations::{self, Outcome};
use crate::record::{Egress, Place, Record};
use crate::shared::{Shared, View};
use crate::snapshots::{SnapshotWish, Taken};
use crate::{limits, registry::Registry};
use hostlink::SandboxEvent;
use lifecycle::agent::{Command, Effect, Event, Left, Loss, Machine, Operation, Report, Verdict};
use model::{CapsuleStatus, EndReason, Lifetime};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

type Mailbox<H> = mpsc::Receiver<Message<GuestOf<H>>>;

/// Callers waiting for the end of an operation.
struct Waiter<G> {
    operation: Operation,
    reply: Reply<G>,
}

struct Actor<H: Environment> {
    host: Arc<H>,
    registry: Registry<GuestOf<H>>,
    machine: Machine,
    record: Record,
    vm: Option<H::Vm>,
    lives: u64,
    shared: Arc<Shared<GuestOf<H>>>,
    waiters: Vec<Waiter<GuestOf<H>>>,
    running: Option<JoinHandle<Outcome<H::Vm>>>,
    discard_memory: bool,
    /// Its create failed: nothing of it is left, so there is nothing to destroy later.
    never_ran: bool,
    /// The end of the lifetime is not acted on before: the last attempt failed.
    retry_at: Instant,
    /// How long the next attempt waits, should this one fail.
    retry: Duration,
    /// The lifetime was changed during the operation under way.
    unsaved: bool,
}

/// Starts the actor of a new capsule and waits until it runs.
pub fn create<H: Environment>(
    host: &Arc<H>,
    registry: &Registry<GuestOf<H>>,
    record: Record,
    reply: Reply<GuestOf<H>>,
) -> Handle<GuestOf<H>> {
    let (machine, effect) = Machine::create();
    let (handle, mut actor, mailbox) = Actor::new(host, registry, machine, record, None);
    actor.waiters.push(Waiter { operation: Operation::Create, reply });
    tokio::spawn(async move {
        actor.perform(&effect);
        Box::pin(actor.run(mailbox)).await;
    });
    handle
}

/// Starts the actor of a capsule found on the host.
pub fn adopt<H: Environment>(
    host: &Arc<H>,
    registry: &Registry<GuestOf<H>>,
    record: Record,
    vm: Option<H::Vm>,
) -> Handle<GuestOf<H>> {
    let machine = Machine::at(record.status());
    let (handle, actor, mailbox) = Actor::new(host, registry, machine, record, vm);
    tokio::spawn(actor.run(mailbox));
    handle
}

impl<H: Environment> Actor<H> {
    fn new(
        host: &Arc<H>,
        registry: &Registry<GuestOf<H>>,
        machine: Machine,
        record: Record,
        vm: Option<H::Vm>,
    ) -> (Handle<GuestOf<H>>, Self, Mailbox<H>) {
        let (sender, mailbox) = mpsc::channel(limits::MAILBOX);
        let guest = vm.as_ref().map(|vm| vm.guest(1));
        let view = View { record: Arc::new(record.clone()), status: machine.status(), guest, laps: None };
        let shared = Shared::new(view, H::now_ms);
        let handle = Handle::new(sender, shared.clone());
        let actor = Self {
            host: host.clone(),
            registry: registry.clone(),
            machine,
            record,
            vm,
            lives: 1,
            shared,
            waiters: Vec::new(),
            running: None,
            discard_memory: false,
            never_ran: false,
            retry_at: Instant::now(),
            retry: limits::LIFETIME_RETRY,
            unsaved: false,
        };
        (handle, actor, mailbox)
    }

    /// Until the capsule is gone, or the agent lets go of it.
    async fn run(mut self, mut mailbox: Mailbox<H>) {
        let host = self.host.clone();
        while self.machine.status() != CapsuleStatus::Stopped && !(self.never_ran && self.running.is_none()) {
            // Asked for before looking.
            let drained_or_not = host.draining().changed();
            let remaining = self.remaining();
            // What has happened goes before what is asked for: an answer tells what is.
            tokio::select! {
                biased;
                outcome = ended(self.running.as_mut()) => self.finish(outcome).await,
                why = exited(self.vm.as_ref()), if self.running.is_none() => self.vm_exited(why).await,
                () = elapsed(remaining) => self.time_is_up(),
                () = drained_or_not => {}
                message = mailbox.recv() => match message {
                    Some(Message::Ask { command, how, reply }) => self.command(command, how, reply),
                    Some(Message::SetLifetime(lifetime, reply)) => self.set_lifetime(lifetime, reply).await,
                    Some(Message::SetEgress(egress, reply)) => self.set_egress(egress, reply).await,
                    Some(Message::Join(reply)) => self.join(reply),
                    Some(Message::Snapshot(wish, reply)) => self.snapshot(wish, reply).await,
                    Some(Message::Release(done)) => {
                        // What is under way reaches its stable point first.
                        while self.running.is_some() {
                            let outcome = ended(self.running.as_mut()).await;
                            self.finish(outcome).await;
                        }
                        if let Some(vm) = self.vm.take() {
                            vm.leave();
                        }
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
            }
        }
        self.registry.forget(self.record.id);
    }

    /// Time left, while it runs: none on a host that is to be empty.
    fn remaining(&self) -> Option<Duration> {
        if self.machine.status() != CapsuleStatus::Running {
            return None;
        }
        let left = if self.host.draining().is_on() { Some(0) } else { self.lifetime_left_ms() };
        let not_before = self.retry_at.saturating_duration_since(Instant::now());
        left.map(|ms| Duration::from_millis(ms).max(not_before))
    }

    fn lifetime_left_ms(&self) -> Option<u64> {
        self.record.lifetime.remaining_ms(H::now_ms(), self.shared.last_active_ms())
    }

    fn command(&mut self, command: Command, how: How, reply: Reply<GuestOf<H>>) {
        let (verdict, effects) = self.machine.on(&Event::Command(command));
        if !effects.is_empty() {
            self.discard_memory = how.discard_memory;
            self.record.lifetime = how.lifetime.unwrap_or(self.record.lifetime);
            if let Some(egress) = how.egress {
                self.record.egress = egress;
            }
        }
        let operation = match command {
            Command::Pause => Operation::Pause,
            Command::Resume => Operation::Resume,
            Command::Destroy => Operation::Destroy,
        };
        match verdict {
            Verdict::Wait => self.waiters.push(Waiter { operation, reply }),
            Verdict::Reached => drop(reply.send(Ok(self.view()))),
            Verdict::Refused => drop(reply.send(Err(Failure::State(self.machine.status())))),
        }
        self.all(&effects);
    }

    fn join(&mut self, reply: Reply<GuestOf<H>>) {
        match self.machine.status() {
            CapsuleStatus::Starting => self.waiters.push(Waiter { operation: Operation::Create, reply }),
            status @ CapsuleStatus::Stopping => drop(reply.send(Err(Failure::State(status)))),
            _ => drop(reply.send(Ok(self.view()))),
        }
    }

    async fn set_lifetime(&mut self, lifetime: Lifetime, reply: Reply<GuestOf<H>>) {
        if self.is_ending() {
            let _ = reply.send(Err(Failure::State(self.machine.status())));
            return;
        }
        let former = std::mem::replace(&mut self.record.lifetime, lifetime);
        (self.retry_at, self.retry) = (Instant::now(), limits::LIFETIME_RETRY);
        self.shared.touch();
        // Before the operation under way ends there may be nothing to write; it ends with the record it began with.
        self.unsaved = self.running.is_some();
        let saved = if self.unsaved { Ok(()) } else { self.save().await };
        if saved.is_err() {
            self.record.lifetime = former;
        }
        let answer = saved.map(|()| self.view());
        self.publish();
        let _ = reply.send(answer);
    }

    /// Too late for another lifetime: it is being removed, or its lifetime is over and it is being paused for that.
    fn is_ending(&self) -> bool {
        match self.machine.status() {
            CapsuleStatus::Stopping => true,
            CapsuleStatus::Pausing => self.machine.reason() == Some(&EndReason::Ttl),
            _ => false,
        }
    }

    async fn set_egress(&mut self, egress: Egress, reply: Reply<GuestOf<H>>) {
        let _ = reply.send(self.change_egress(egress).await);
        self.publish();
    }

    /// Written down before it is put in force: an agent that ends in between puts it in force when it starts again. Not
    /// while an operation is under way, which has its own copy of the record.
    async fn change_egress(&mut self, egress: Egress) -> Result<View<GuestOf<H>>, Failure> {
        if self.running.is_some() {
            return Err(Failure::State(self.machine.status()));
        }
        let former = std::mem::replace(&mut self.record.egress, egress);
        let mut changed = self.save().await;
        if let (Ok(()), Some(vm)) = (&changed, self.vm.as_mut()) {
            changed = vm.apply_policy(&self.record).await;
        }
        if let Err(failure) = changed {
            self.record.egress = former;
            if let Err(failure) = self.save().await {
                tracing::error!(capsule = %self.record.id, %failure, "a restart would put another egress policy in force");
            }
            return Err(failure);
        }
        Ok(self.view())
    }

    /// It stays what it is, so this is no operation of the machine's: commands wait in the mailbox meanwhile, calls into
    /// the guest do not.
    async fn snapshot(&mut self, wish: SnapshotWish, reply: oneshot::Sender<Result<Taken, Failure>>) {
        let status = self.machine.status();
        let vm = match (self.vm.as_mut(), status) {
            (Some(vm), CapsuleStatus::Running) => Some(vm),
            (None, CapsuleStatus::Paused) => None,
            _ => {
                let _ = reply.send(Err(Failure::State(status)));
                return;
            }
        };
        let taken = Box::pin(operations::snapshot(&self.host, &self.record, vm, wish)).await;
        self.shared.touch();
        if let Err(Ok(_)) = reply.send(taken)
            && let Err(failure) = operations::forget_snapshot(&self.host, wish.id).await
        {
            tracing::warn!(snapshot = %wish.id, %failure, "nobody waited for it, and it could not be given up");
        }
    }

    fn time_is_up(&mut self) {
        // Activity between the timer and now prolongs an idle lifetime.
        if self.remaining().is_some_and(|left| left.is_zero()) {
            self.discard_memory = false;
            let event = match self.lifetime_left_ms() {
                Some(0) => Event::LifetimeEnded(self.record.lifetime.at_end()),
                _ => Event::HostDrains,
            };
            let (_, effects) = self.machine.on(&event);
            self.all(&effects);
        }
    }

    async fn vm_exited(&mut self, why: EndReason) {
        let (_, effects) = self.machine.on(&Event::VmExited(self.loss(why)));
        self.record.reason = self.machine.reason().cloned();
        self.tell(&effects).await;
        self.publish();
        self.host.evict(self.record.id);
        if let Some(vm) = self.vm.take() {
            vm.end(&self.host).await;
        }
        self.lose().await;
        self.all(&effects);
    }

    fn all(&mut self, effects: &[Effect]) {
        for effect in effects {
            self.perform(effect);
        }
        self.publish();
    }

    /// Tells what is to be told: once it is durable, or before a loss becomes so. Then a crash in between has it told twice
    /// and not never.
    async fn tell(&self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Report(report) = *effect {
                self.report(report).await;
            }
        }
    }

    fn perform(&mut self, effect: &Effect) {
        let Effect::Run(operation) = *effect else { return };
        self.record.reason = self.machine.reason().cloned();
        let work =
            operations::run(operation, self.host.clone(), self.record.clone(), self.vm.take(), self.discard_memory);
        // Published before the work starts, so that no new call takes a lease on a VM about to be stopped.
        self.publish();
        self.running = Some(tokio::spawn(work));
    }

    async fn finish(&mut self, outcome: Outcome<H::Vm>) {
        self.running = None;
        let operation = outcome.operation;
        let event = match (&outcome.result, &outcome.vm) {
            (Ok(_), _) => Event::Done,
            (Err(_), Ok(_)) => Event::Failed(Left::Vm),
            (Err(_), Err(why)) => Event::Failed(Left::Nothing(self.loss(why.clone()))),
        };
        self.vm = outcome.vm.ok();
        let by_itself = self.machine.is_unasked();
        if self.vm.is_some() && matches!(operation, Operation::Create | Operation::Resume) {
            // An idle lifetime counts from when somebody can use it.
            self.shared.touch();
        }
        let (_, effects) = self.machine.on(&event);
        self.record.reason = self.machine.reason().cloned();
        self.tell(&effects).await;
        let result = match outcome.result {
            Ok(Some(place)) => {
                let old = std::mem::replace(&mut self.record.place, place);
                operations::free(&self.host, &old, &self.record.place);
                (self.retry_at, self.retry) = (Instant::now(), limits::LIFETIME_RETRY);
                Ok(())
            }
            Ok(None) => {
                self.unsaved = false;
                Ok(())
            }
            Err(failure) => {
                tracing::warn!(capsule = %self.record.id, ?operation, %failure, "operation failed");
                self.never_ran |= operation == Operation::Create;
                // A resume may have come with a lifetime.
                self.unsaved = (self.unsaved || operation == Operation::Resume) && !self.never_ran;
                if operation == Operation::Pause && self.vm.is_none() {
                    self.lose().await;
                }
                if by_itself {
                    self.retry_at = Instant::now() + self.retry;
                    self.retry = (self.retry * 2).min(limits::LIFETIME_RETRY_MAX);
                }
                Err(failure)
            }
        };
        if std::mem::take(&mut self.unsaved)
            && let Err(failure) = self.save().await
        {
            tracing::error!(capsule = %self.record.id, %failure, "a restart would find the old lifetime");
        }
        if self.vm.is_some() {
            self.lives += 1;
        }
        self.publish();
        self.answer(operation, &result);
        self.all(&effects);
        if self.running.is_none() {
            self.answer_rest();
        }
    }

    fn loss(&self, reason: EndReason) -> Loss {
        Loss { reason, saved_before: matches!(self.record.without_vm(), Place::Paused { .. }) }
    }

    /// Its VM is gone without having been saved.
    async fn lose(&mut self) {
        let place = self.record.without_vm();
        let old = std::mem::replace(&mut self.record.place, place);
        match self.save().await {
            Ok(()) => operations::free(&self.host, &old, &self.record.place),
            Err(failure) => tracing::error!(capsule = %self.record.id, %failure, "a restart would find an old record"),
        }
    }

    async fn save(&self) -> Result<(), Failure> {
        self.host.save_record(self.record.clone()).await
    }

    fn answer(&mut self, operation: Operation, result: &Result<(), Failure>) {
        let view = self.view();
        let (done, rest) = self.waiters.drain(..).partition(|waiter| waiter.operation == operation);
        self.waiters = rest;
        let done: Vec<Waiter<_>> = done;
        for waiter in done {
            let _ = waiter.reply.send(result.clone().map(|()| view.clone()));
        }
    }

    /// Nothing is under way: whoever still waits wants something that will not happen.
    fn answer_rest(&mut self) {
        let status = self.machine.status();
        for waiter in self.waiters.drain(..) {
            let _ = waiter.reply.send(Err(Failure::State(status)));
        }
    }

    async fn report(&self, report: Report) {
        let event = match report {
            Report::AutoPaused => "sandbox.auto_paused",
            Report::AutoKilled => "sandbox.auto_killed",
            Report::Crashed => "sandbox.crashed",
        };
        let event = SandboxEvent {
            id: Uuid::now_v7(),
            sandbox_id: self.record.id.to_string(),
            event: event.to_owned(),
            status: self.machine.status().to_string(),
            reason: self.machine.reason().map(ToString::to_string).unwrap_or_default(),
            timestamp_ms: H::now_ms(),
        };
        if let Err(failure) = self.host.report(event).await {
            tracing::error!(capsule = %self.record.id, %failure, "event lost: it cannot be written");
        }
    }

    fn view(&self) -> View<GuestOf<H>> {
        let status = self.machine.status();
        let guest = self.vm.as_ref().filter(|_| status == CapsuleStatus::Running).map(|vm| vm.guest(self.lives));
        let laps = self.vm.as_ref().map(|vm| Arc::new(vm.laps().clone()));
        View { record: Arc::new(self.record.clone()), status, guest, laps }
    }

    fn publish(&self) {
        self.shared.publish(self.view());
    }
}

async fn ended<V>(running: Option<&mut JoinHandle<Outcome<V>>>) -> Outcome<V> {
    match running {
        Some(task) => match task.await {
            Ok(outcome) => outcome,
            // Never answered: a panic in an operation is a defect, and the capsule's state is unknown.
            Err(error) => Outcome::panicked(&error),
        },
        None => std::future::pending().await,
    }
}

async fn exited<V: VirtualMachine>(vm: Option<&V>) -> EndReason {
    match vm {
        Some(vm) => vm.exited().await,
        None => std::future::pending().await,
    }
}

async fn elapsed(remaining: Option<Duration>) {
    match remaining {
        // A timer stands still while the host sleeps, and its clock may be set: the end is not awaited in one piece.
        Some(left) => tokio::time::sleep(left.min(limits::LIFETIME_LOOK)).await,
        None => std::future::pending().await,
    }
}
