//! Properties of the server's machine that no sequence of events may break.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use lifecycle::server::{Effect, Event, Failure, GRACE_MS, Left, Operation, Seen, State, Step, step};
use model::{CapsuleStatus, EndReason};
use proptest::prelude::*;
use proptest::sample::select;

fn reasons() -> impl Strategy<Value = EndReason> {
    select(vec![EndReason::Ttl, EndReason::VmCrash, EndReason::HostLost, EndReason::StartFailed("x".to_owned())])
}

fn operations() -> impl Strategy<Value = Operation> {
    select(Operation::ALL.to_vec())
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        Just(Seen::Running),
        proptest::option::of(reasons()).prop_map(Seen::Paused),
        Just(Seen::Busy),
        reasons().prop_map(Seen::Dead),
    ]
}

fn what_is_left() -> impl Strategy<Value = Left> {
    select(vec![Left::Vm, Left::Saved, Left::Nothing])
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        select(vec![Operation::Pause, Operation::Resume, Operation::Destroy]).prop_map(Event::Asked),
        operations().prop_map(Event::Done),
        (operations(), reasons(), what_is_left())
            .prop_map(|(operation, reason, left)| Event::Failed(operation, Failure { reason, left })),
        operations().prop_map(Event::OutOfTime),
        seen().prop_map(Event::Seen),
        reasons().prop_map(Event::Unknown),
        Just(Event::HostLost),
    ]
}

fn statuses() -> impl Strategy<Value = CapsuleStatus> {
    select(CapsuleStatus::ALL.to_vec())
}

proptest! {
    #[test]
    fn nothing_leaves_a_terminal_status(history in proptest::collection::vec((events(), 0..300_000_u64), 0..60)) {
        let mut state = State { status: CapsuleStatus::Starting, since_ms: 0 };
        let mut now_ms = 0;
        for (event, pause_ms) in history {
            now_ms += pause_ms;
            if let Step::Move(moved) = step(state, &event, now_ms) {
                prop_assert!(!state.status.is_terminal(), "{state:?} {event:?}");
                prop_assert_ne!(moved.to, state.status);
                state = State { status: moved.to, since_ms: now_ms };
            }
        }
    }

    #[test]
    fn an_operation_begins_exactly_with_its_status(status in statuses(), event in events(), age_ms in 0..300_000_u64) {
        if let Step::Move(moved) = step(State { status, since_ms: 0 }, &event, age_ms) {
            let begun = match moved.effect {
                Some(Effect::Begin(operation)) => Some(operation),
                _ => None,
            };
            prop_assert_eq!(Operation::of(moved.to), begun);
        }
    }

    #[test]
    fn news_of_an_operation_that_lost_its_race_change_nothing(
        status in statuses(),
        operation in operations(),
        reason in reasons(),
        left in what_is_left(),
    ) {
        prop_assume!(status != operation.status());
        let state = State { status, since_ms: 0 };
        let failure = Failure { reason, left };
        for event in [Event::Done(operation), Event::Failed(operation, failure), Event::OutOfTime(operation)] {
            prop_assert_eq!(step(state, &event, u64::MAX), Step::Stay);
        }
    }

    #[test]
    fn what_ends_badly_says_why(status in statuses(), event in events(), age_ms in 0..300_000_u64) {
        if let Step::Move(moved) = step(State { status, since_ms: 0 }, &event, age_ms) {
            prop_assert_eq!(moved.to.is_terminal() && moved.reason.is_none(), false);
        }
    }

    #[test]
    fn only_clients_are_refused(status in statuses(), event in events(), age_ms in 0..300_000_u64) {
        if step(State { status, since_ms: 0 }, &event, age_ms) == Step::Refuse {
            prop_assert!(matches!(event, Event::Asked(Operation::Pause | Operation::Resume)));
        }
    }
}

/// Even when every answer of the operation is lost.
#[test]
fn every_transient_status_has_a_way_out() {
    for status in CapsuleStatus::ALL.into_iter().filter(|status| status.is_transient()) {
        let state = State { status, since_ms: 0 };
        let operation = Operation::of(status).unwrap();
        let late = operation.limit_ms().unwrap_or(0) + GRACE_MS + 1;
        assert!(matches!(step(state, &Event::Done(operation), 0), Step::Move(_)), "{status} by its answer");
        assert!(matches!(step(state, &Event::Unknown(EndReason::HostLost), late), Step::Move(_)), "{status} unlisted");
        if operation.limit_ms().is_some() {
            assert!(matches!(step(state, &Event::OutOfTime(operation), 0), Step::Move(_)), "{status} out of time");
        }
    }
    let missing = State { status: CapsuleStatus::Missing, since_ms: 0 };
    for event in [Event::Seen(Seen::Running), Event::Seen(Seen::Paused(None)), Event::Unknown(EndReason::HostLost)] {
        assert!(matches!(step(missing, &event, 0), Step::Move(_)), "missing: {event:?}");
    }
}

#[test]
fn the_table() {
    use CapsuleStatus::{Error, Missing, Paused, Pausing, Resuming, Running, Starting, Stopped, Stopping};
    let failed = |operation, left| Event::Failed(operation, Failure { reason: EndReason::VmCrash, left });
    let rows = [
        (Starting, Event::Done(Operation::Create), Running),
        (Starting, failed(Operation::Create, Left::Nothing), Error),
        (Running, Event::Asked(Operation::Pause), Pausing),
        (Pausing, Event::Done(Operation::Pause), Paused),
        (Pausing, failed(Operation::Pause, Left::Vm), Running),
        (Pausing, failed(Operation::Pause, Left::Saved), Paused),
        (Pausing, failed(Operation::Pause, Left::Nothing), Error),
        (Paused, Event::Asked(Operation::Resume), Resuming),
        (Resuming, Event::Done(Operation::Resume), Running),
        (Resuming, failed(Operation::Resume, Left::Saved), Paused),
        (Starting, Event::Asked(Operation::Destroy), Stopping),
        (Missing, Event::Asked(Operation::Destroy), Stopping),
        (Stopping, Event::Done(Operation::Destroy), Stopped),
        (Running, Event::HostLost, Missing),
        (Paused, Event::Seen(Seen::Running), Running),
        (Missing, Event::Seen(Seen::Paused(Some(EndReason::Ttl))), Paused),
        (Running, Event::Seen(Seen::Paused(Some(EndReason::Ttl))), Paused),
        (Running, Event::Unknown(EndReason::Ttl), Stopped),
        (Running, Event::Seen(Seen::Dead(EndReason::VmCrash)), Error),
    ];
    for (from, event, to) in rows {
        match step(State { status: from, since_ms: 0 }, &event, 1) {
            Step::Move(moved) => assert_eq!(moved.to, to, "{from} {event:?}"),
            other => panic!("{from} {event:?}: {other:?}"),
        }
    }
}
