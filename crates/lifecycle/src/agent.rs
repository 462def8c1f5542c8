//! The agent's machine: one capsule on its host.
//!
//! One operation runs at a time. A command that wants what is under way joins it; a destroy that comes during
//! another operation waits for that operation's end and then runs. So a destroy never races with a pause.

use model::lifetime::AtEnd;
use model::{CapsuleStatus, EndReason};

/// Work the shell performs for the machine and reports the end of with [`Event::Done`] or [`Event::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bring up a new VM.
    Create,
    /// Save the VM and end it.
    Pause,
    /// Bring the saved VM back.
    Resume,
    /// Free everything.
    Destroy,
}

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Save it.
    Pause,
    /// Bring it back.
    Resume,
    /// End it.
    Destroy,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A caller's wish.
    Command(Command),
    /// The lifetime is over.
    LifetimeEnded(AtEnd),
    /// The host is to be empty.
    HostDrains,
    /// The running operation succeeded.
    Done,
    /// The running operation failed.
    Failed(Left),
    /// The VMM ended without being asked to.
    VmExited(Loss),
}

/// A VM that is gone without having been saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: EndReason,
    /// What the capsule was resumed from is still there, and it goes back to that.
    pub saved_before: bool,
}

impl Loss {
    /// Where the capsule is then.
    fn leads_to(&self) -> CapsuleStatus {
        if self.saved_before { CapsuleStatus::Paused } else { CapsuleStatus::Error }
    }
}

/// What a failed operation leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Its VM runs on: most often so after a failed pause.
    Vm,
    /// No VM.
    Nothing(Loss),
}

/// A capsule on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    status: CapsuleStatus,
    /// A destroy waits for the running operation.
    destroy_next: bool,
    /// Why it stopped running.
    reason: Option<EndReason>,
}

/// What the shell has to do after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Perform this and report its end.
    Run(Operation),
    /// Tell the control plane; nobody there asked for it.
    Report(Report),
}

/// An end that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Paused at the end of its lifetime, or because its host is to be empty.
    AutoPaused,
    /// Destroyed at the end of its lifetime.
    AutoKilled,
    /// Its VMM ended.
    Crashed,
}

/// How a command was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Under way; its end answers the caller.
    Wait,
    /// Reached already.
    Reached,
    /// Not possible in this status.
    Refused,
}

impl Machine {
    /// A capsule about to be created, and the work that creates it.
    #[must_use]
    pub fn create() -> (Self, Effect) {
        (Self::at(CapsuleStatus::Starting), Effect::Run(Operation::Create))
    }

    /// A capsule found on the host at start.
    #[must_use]
    pub fn at(status: CapsuleStatus) -> Self {
        Self { status, destroy_next: false, reason: None }
    }

    /// Where it is.
    #[must_use]
    pub fn status(&self) -> CapsuleStatus {
        self.status
    }

    /// Why it stopped running; `None` while it runs.
    #[must_use]
    pub fn reason(&self) -> Option<&EndReason> {
        self.reason.as_ref()
    }

    /// Whether no caller asked for the operation under way.
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        matches!(self.reason, Some(EndReason::Ttl | EndReason::HostDrained))
    }

    /// Takes an event. The verdict matters for commands only.
    pub fn on(&mut self, event: &Event) -> (Verdict, Vec<Effect>) {
        use CapsuleStatus as S;
        match event {
            Event::Command(command) => self.command(*command),
            Event::LifetimeEnded(at_end) if self.status == S::Running => {
                self.reason = Some(EndReason::Ttl);
                (
                    Verdict::Wait,
                    vec![self.begin(match at_end {
                        AtEnd::Pause => Operation::Pause,
                        AtEnd::Kill => Operation::Destroy,
                    })],
                )
            }
            Event::HostDrains if self.status == S::Running => {
                self.reason = Some(EndReason::HostDrained);
                (Verdict::Wait, vec![self.begin(Operation::Pause)])
            }
            Event::LifetimeEnded(_) | Event::HostDrains => (Verdict::Refused, vec![]),
            Event::Done => (Verdict::Reached, self.done()),
            Event::Failed(left) => (Verdict::Refused, self.failed(left)),
            Event::VmExited(loss) => (Verdict::Reached, self.vm_exited(loss)),
        }
    }

    fn command(&mut self, command: Command) -> (Verdict, Vec<Effect>) {
        use CapsuleStatus as S;
        let (verdict, operation) = match (command, self.status) {
            (Command::Destroy, S::Stopped) | (Command::Pause, S::Paused) | (Command::Resume, S::Running) => {
                (Verdict::Reached, None)
            }
            (Command::Destroy, S::Stopping) => (Verdict::Wait, None),
            (Command::Destroy, status) if status.is_transient() => {
                self.destroy_next = true;
                self.reason = Some(EndReason::User);
                (Verdict::Wait, None)
            }
            (Command::Destroy, _) => (Verdict::Wait, Some(Operation::Destroy)),
            (Command::Pause, S::Running) => (Verdict::Wait, Some(Operation::Pause)),
            (Command::Resume, S::Paused) => (Verdict::Wait, Some(Operation::Resume)),
            (Command::Pause, S::Pausing) | (Command::Resume, S::Resuming) if !self.destroy_next => {
                (Verdict::Wait, None)
            }
            _ => (Verdict::Refused, None),
        };
        let effects = operation.map(|operation| {
            // A resume that fails leaves it paused for the reason it was.
            if operation != Operation::Resume {
                self.reason = Some(EndReason::User);
            }
            self.begin(operation)
        });
        (verdict, effects.into_iter().collect())
    }

    fn begin(&mut self, operation: Operation) -> Effect {
        self.status = match operation {
            Operation::Create => CapsuleStatus::Starting,
            Operation::Pause => CapsuleStatus::Pausing,
            Operation::Resume => CapsuleStatus::Resuming,
            Operation::Destroy => CapsuleStatus::Stopping,
        };
        Effect::Run(operation)
    }

    fn done(&mut self) -> Vec<Effect> {
        use CapsuleStatus as S;
        let by_itself = self.is_unasked();
        let (status, report) = match self.status {
            S::Starting | S::Resuming => (S::Running, None),
            S::Pausing => (S::Paused, by_itself.then_some(Report::AutoPaused)),
            S::Stopping => (S::Stopped, by_itself.then_some(Report::AutoKilled)),
            other => (other, None),
        };
        self.status = status;
        if status == S::Running && !self.destroy_next {
            self.reason = None;
        }
        self.then(report)
    }

    fn failed(&mut self, left: &Left) -> Vec<Effect> {
        use CapsuleStatus as S;
        let before = self.reason.clone();
        // Whoever asked for a pause hears of the loss in the answer; a pause by itself has nobody who does.
        let unasked = self.status == S::Pausing && self.is_unasked();
        let (status, reason) = match (self.status, left) {
            (S::Resuming, _) => (S::Paused, before),
            (S::Pausing | S::Stopping, Left::Vm) => (S::Running, None),
            (S::Starting, Left::Nothing(loss)) => (S::Error, Some(loss.reason.clone())),
            (S::Pausing, Left::Nothing(loss)) => (loss.leads_to(), Some(loss.reason.clone())),
            // Nothing of it is gone; whoever still wants that asks again.
            (S::Stopping, Left::Nothing(loss)) => (loss.leads_to(), before),
            (S::Starting, _) => (S::Error, before),
            (other, _) => (other, before),
        };
        self.status = status;
        if !self.destroy_next {
            self.reason = reason;
        }
        self.then((unasked && !matches!(left, Left::Vm)).then_some(Report::Crashed))
    }

    fn vm_exited(&mut self, loss: &Loss) -> Vec<Effect> {
        if self.status != CapsuleStatus::Running {
            // The operation under way meets the dead VM by itself.
            return vec![];
        }
        self.status = loss.leads_to();
        self.reason = Some(loss.reason.clone());
        self.then(Some(Report::Crashed))
    }

    /// The report, and the destroy that waited.
    fn then(&mut self, report: Option<Report>) -> Vec<Effect> {
        let mut effects: Vec<_> = report.map(Effect::Report).into_iter().collect();
        if std::mem::take(&mut self.destroy_next) && self.status != CapsuleStatus::Stopped {
            effects.push(self.begin(Operation::Destroy));
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lost(saved_before: bool) -> Loss {
        Loss { reason: EndReason::VmCrash, saved_before }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Command(Command::Pause)),
            Just(Event::Command(Command::Resume)),
            Just(Event::Command(Command::Destroy)),
            Just(Event::LifetimeEnded(AtEnd::Pause)),
            Just(Event::LifetimeEnded(AtEnd::Kill)),
            Just(Event::HostDrains),
            Just(Event::Done),
            Just(Event::Failed(Left::Vm)),
            any::<bool>().prop_map(|saved_before| Event::Failed(Left::Nothing(lost(saved_before)))),
            any::<bool>().prop_map(|saved_before| Event::VmExited(lost(saved_before))),
        ]
    }

    proptest! {
        /// A shell that reports each operation's end once sees at most one operation at a time, and a capsule
        /// somebody wanted destroyed ends destroyed once operations succeed.
        #[test]
        fn one_operation_at_a_time(events in proptest::collection::vec(event(), 0..60)) {
            let (mut machine, first) = Machine::create();
            let mut running = Some(first);
            let mut destroy_accepted = false;
            for event in events {
                if matches!(event, Event::Done | Event::Failed(_)) && running.take().is_none() {
                    continue;
                }
                // Whoever asked for a destroy that fails is told so, and asks again.
                destroy_accepted &= !(machine.status() == CapsuleStatus::Stopping && matches!(event, Event::Failed(_)));
                let (verdict, effects) = machine.on(&event);
                destroy_accepted |= event == Event::Command(Command::Destroy) && verdict != Verdict::Refused;
                for effect in effects {
                    if matches!(effect, Effect::Run(_)) {
                        prop_assert!(running.replace(effect).is_none(), "two operations at once");
                    }
                }
                prop_assert_eq!(running.is_some(), machine.status().is_transient());
            }
            prop_assert!(!(destroy_accepted && machine.status() == CapsuleStatus::Running));
        }
    }

    #[test]
    fn a_destroy_waits_for_the_pause() {
        let mut machine = Machine::at(CapsuleStatus::Running);
        assert_eq!(machine.on(&Event::Command(Command::Pause)).1, [Effect::Run(Operation::Pause)]);
        assert_eq!(machine.on(&Event::Command(Command::Destroy)), (Verdict::Wait, vec![]));
        assert_eq!(machine.on(&Event::Command(Command::Pause)).0, Verdict::Refused);
        assert_eq!(machine.on(&Event::Done).1, [Effect::Run(Operation::Destroy)]);
        machine.on(&Event::Done);
        assert_eq!(machine.status(), CapsuleStatus::Stopped);
    }

    #[test]
    fn ends_nobody_asked_for_are_reported() {
        let ends = [(Event::LifetimeEnded(AtEnd::Pause), EndReason::Ttl), (Event::HostDrains, EndReason::HostDrained)];
        for (event, reason) in ends {
            let mut machine = Machine::at(CapsuleStatus::Running);
            assert_eq!(machine.on(&event).1, [Effect::Run(Operation::Pause)]);
            assert_eq!(machine.on(&Event::Done).1, [Effect::Report(Report::AutoPaused)]);
            assert_eq!(machine.reason(), Some(&reason));
            assert_eq!(machine.on(&event), (Verdict::Refused, vec![]));
        }
        for (saved_before, status) in [(false, CapsuleStatus::Error), (true, CapsuleStatus::Paused)] {
            let mut machine = Machine::at(CapsuleStatus::Running);
            assert_eq!(machine.on(&Event::VmExited(lost(saved_before))).1, [Effect::Report(Report::Crashed)]);
            assert_eq!((machine.status(), machine.reason()), (status, Some(&EndReason::VmCrash)));
        }
    }

    #[test]
    fn a_failure_leaves_it_where_it_was() {
        for command in [Command::Pause, Command::Destroy] {
            let mut machine = Machine::at(CapsuleStatus::Running);
            machine.on(&Event::Command(command));
            machine.on(&Event::Failed(Left::Vm));
            assert_eq!((machine.status(), machine.reason()), (CapsuleStatus::Running, None), "{command:?}");
        }
        for (saved_before, status) in [(true, CapsuleStatus::Paused), (false, CapsuleStatus::Error)] {
            let mut machine = Machine::at(status);
            machine.on(&Event::Command(Command::Destroy));
            machine.on(&Event::Failed(Left::Nothing(lost(saved_before))));
            assert_eq!(machine.status(), status);
        }
    }

    #[test]
    fn a_failure_keeps_the_reason_that_counts() {
        let died = Event::Failed(Left::Nothing(Loss { reason: EndReason::HostOom, saved_before: false }));
        let mut machine = Machine::at(CapsuleStatus::Running);
        machine.on(&Event::Command(Command::Pause));
        assert_eq!(machine.on(&died).1, []);
        assert_eq!((machine.status(), machine.reason()), (CapsuleStatus::Error, Some(&EndReason::HostOom)));

        let mut machine = Machine::at(CapsuleStatus::Running);
        machine.on(&Event::LifetimeEnded(AtEnd::Pause));
        assert_eq!(machine.on(&died).1, [Effect::Report(Report::Crashed)]);
        assert_eq!(machine.reason(), Some(&EndReason::HostOom));

        let mut machine = Machine::at(CapsuleStatus::Running);
        machine.on(&Event::LifetimeEnded(AtEnd::Pause));
        machine.on(&Event::Done);
        machine.on(&Event::Command(Command::Resume));
        machine.on(&died);
        assert_eq!((machine.status(), machine.reason()), (CapsuleStatus::Paused, Some(&EndReason::Ttl)));
    }
}
