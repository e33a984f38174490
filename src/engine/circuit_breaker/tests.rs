//! Tests of the circuit breaker.

use super::*;

const POLICY: Policy = Policy {
    initial: Duration::from_secs(5),
    max: Duration::from_secs(3600),
    give_up_after: Duration::from_secs(86400),
};

fn limited(seconds: u64) -> Failure {
    Failure::Transient {
        reason: "429".into(),
        retry_after: Some(Duration::from_secs(seconds)),
        scope: Scope::Destination,
    }
}

fn may_give_up(breaker: &CircuitBreaker, deadline: Timestamp) -> bool {
    breaker.give_up_from().is_some_and(|from| deadline >= from)
}

#[test]
fn a_rate_limit_pauses_the_whole_lane_for_the_requested_time() {
    let mut breaker = CircuitBreaker::default();
    let change = breaker.failed(&limited(30), 0, &POLICY, Timestamp(0), 1.0);
    assert_eq!(change, Some(Change::Opened(Cause::Limited)));
    assert_eq!(breaker.permits(0, 8, Timestamp(29_999)), 0);
    assert_eq!(breaker.permits(0, 8, Timestamp(30_000)), 1, "a single probe");
    assert_eq!(breaker.permits(1, 8, Timestamp(30_000)), 0);
    assert_eq!(breaker.works(), Some(Change::Closed(Timestamp(0))));
    assert_eq!(breaker.permits(1, 8, Timestamp(30_000)), 7);
}

#[test]
fn a_rate_limit_ends_with_its_pause_if_nothing_is_pending() {
    let mut breaker = CircuitBreaker::default();
    breaker.failed(&limited(30), 0, &POLICY, Timestamp(0), 1.0);
    assert!(!breaker.end_pause(Timestamp(29_999)));
    assert!(breaker.end_pause(Timestamp(30_000)) && breaker.open().is_none());
    let epoch = breaker.epoch();
    breaker.failed(
        &Failure::unreachable("refused"),
        epoch,
        &POLICY,
        Timestamp(0),
        1.0,
    );
    assert!(
        !breaker.end_pause(Timestamp(99_000)),
        "only an attempt shows that it works"
    );
}

#[test]
fn a_pause_shorter_than_the_backoff_does_not_shorten_it() {
    for asked in [0, 1] {
        let mut breaker = CircuitBreaker::default();
        for seconds in [5, 10, 20, 40] {
            let epoch = breaker.epoch();
            breaker.failed(&limited(asked), epoch, &POLICY, Timestamp(0), 1.0);
            let until = breaker.open().map(|open| open.until);
            assert_eq!(until, Some(Timestamp(seconds * 1000)), "asked for {asked} s");
        }
    }
}

#[test]
fn the_longest_pause_of_concurrent_attempts_counts() {
    let mut breaker = CircuitBreaker::default();
    for seconds in [30, 300, 60] {
        breaker.failed(&limited(seconds), 0, &POLICY, Timestamp(0), 1.0);
    }
    assert_eq!(breaker.open().map(|open| open.until), Some(Timestamp(300_000)));
    assert_eq!(breaker.open().map(|open| open.failures), Some(1));
}

#[test]
fn a_divided_outcome_closes_the_breaker_only_if_a_recipient_was_attempted() {
    use crate::destination::Other;
    let later = Fate::Later {
        reason: "452".into(),
        retry_after: None,
    };
    for (accepted, fate, opens) in [
        (false, Fate::Behind, false),
        (true, Fate::Behind, true),
        (false, later, true),
    ] {
        let mut breaker = CircuitBreaker::default();
        breaker.failed(&Failure::unreachable("refused"), 0, &POLICY, Timestamp(0), 1.0);
        let divided = Failure::Divided {
            reason: Reason::default(),
            accepted,
            others: vec![Other {
                recipient: "night@example.com".into(),
                fate,
            }],
        };
        let change = breaker.failed(&divided, breaker.epoch(), &POLICY, Timestamp(1), 1.0);
        assert_eq!(change.is_some(), opens, "{divided:?}");
        assert_eq!(breaker.open().is_none(), opens, "{divided:?}");
    }
}

#[test]
fn failures_in_a_row_back_off_and_are_logged_once() {
    let mut breaker = CircuitBreaker::default();
    let down = Failure::unreachable("refused");
    assert!(breaker.failed(&down, 0, &POLICY, Timestamp(0), 1.0).is_some());
    for n in 1..4 {
        let epoch = breaker.epoch();
        assert_eq!(
            breaker.failed(&down, epoch, &POLICY, Timestamp(0), 1.0),
            None,
            "failure {n}"
        );
    }
    assert_eq!(breaker.open().map(|open| open.until), Some(Timestamp(40_000)));
}

#[test]
fn attempts_started_before_the_breaker_opened_do_not_lengthen_the_wait() {
    let mut breaker = CircuitBreaker::default();
    let down = Failure::unreachable("refused");
    for _ in 0..8 {
        breaker.failed(&down, 0, &POLICY, Timestamp(0), 1.0);
    }
    assert_eq!(breaker.open().map(|open| open.failures), Some(1));
}

#[test]
fn a_rejected_message_closes_the_breaker() {
    let mut breaker = CircuitBreaker::default();
    breaker.failed(&Failure::unreachable("refused"), 0, &POLICY, Timestamp(0), 1.0);
    let epoch = breaker.epoch();
    let change = breaker.failed(&Failure::permanent("550"), epoch, &POLICY, Timestamp(9), 1.0);
    assert_eq!(change, Some(Change::Closed(Timestamp(0))));
}

#[test]
fn a_breaker_that_stays_open_is_logged_every_hour() {
    let mut breaker = CircuitBreaker::default();
    let down = Failure::unreachable("refused");
    let mut changes = Vec::new();
    for minute in 0..130 {
        let epoch = breaker.epoch();
        changes.extend(
            breaker
                .failed(&down, epoch, &POLICY, Timestamp(minute * 60_000), 1.0)
                .map(|change| (minute, change)),
        );
    }
    let still = Change::StillOpen(Cause::Down);
    assert_eq!(
        changes,
        [
            (0, Change::Opened(Cause::Down)),
            (60, still.clone()),
            (120, still)
        ]
    );
}

#[test]
fn deliveries_overdue_before_an_outage_are_given_up_at_its_second_failure() {
    for failure in [limited(3600), Failure::unreachable("refused")] {
        let mut breaker = CircuitBreaker::default();
        assert!(!may_give_up(&breaker, Timestamp(7)), "it works");
        breaker.failed(&failure, 0, &POLICY, Timestamp(7), 1.0);
        assert!(may_give_up(&breaker, Timestamp(7)) && !may_give_up(&breaker, Timestamp(6)));
        let epoch = breaker.epoch();
        breaker.failed(&failure, epoch, &POLICY, Timestamp(9), 1.0);
        assert!(may_give_up(&breaker, Timestamp(0)));
        breaker.works();
        assert!(!may_give_up(&breaker, Timestamp(9)));
    }
}

#[test]
fn parking_gives_up_nothing_and_is_not_an_outage() {
    let mut breaker = CircuitBreaker::default();
    for failure in [limited(30), Failure::parked("token"), Failure::parked("token")] {
        let epoch = breaker.epoch();
        breaker.failed(&failure, epoch, &POLICY, Timestamp(7), 1.0);
    }
    assert!(!may_give_up(&breaker, Timestamp(99)) && breaker.give_up_from().is_none());
    let epoch = breaker.epoch();
    breaker.failed(&limited(30), epoch, &POLICY, Timestamp(50), 1.0);
    assert!(may_give_up(&breaker, Timestamp(50)) && !may_give_up(&breaker, Timestamp(49)));
    assert_eq!(breaker.open().map(|open| open.failures), Some(4));
}

#[test]
fn a_requested_probe_is_immediate_and_keeps_the_cause() {
    for failure in [Failure::parked("token"), Failure::unreachable("refused")] {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..4 {
            let epoch = breaker.epoch();
            breaker.failed(&failure, epoch, &POLICY, Timestamp(7), 1.0);
        }
        let before = breaker.open().cloned().unwrap();
        breaker.probe(Timestamp(9));
        let after = breaker.open().cloned().unwrap();
        assert_eq!((after.cause, after.since), (before.cause, before.since));
        assert_eq!(after.reason, before.reason);
        assert!(!may_give_up(&breaker, Timestamp(0)), "the outage starts anew");
        assert_eq!(
            (breaker.permits(0, 8, Timestamp(9)), breaker.is_probe_requested()),
            (1, true)
        );
        let change = breaker.failed(&failure, breaker.epoch(), &POLICY, Timestamp(10), 1.0);
        assert_eq!(change, Some(Change::StillOpen(before.cause)));
        let open = breaker.open().unwrap();
        assert_eq!((open.since, open.until), (Timestamp(7), Timestamp(5010)));
        assert!(!breaker.is_probe_requested());
    }
}

#[test]
fn a_fault_survives_a_restart_with_the_end_of_its_pause() {
    let hour = Duration::from_secs(3600);
    for (failure, at, until) in [
        (limited(30), 20_000, 30_007),
        (limited(30), 100_000, 100_000),
        (Failure::parked("token"), 20_000, 20_000),
    ] {
        let mut breaker = CircuitBreaker::default();
        breaker.failed(&failure, 0, &POLICY, Timestamp(7), 1.0);
        let fault = breaker.fault(Timestamp(10_007)).unwrap();
        let restored = CircuitBreaker::restored(fault, Timestamp(at));
        let (before, after) = (breaker.open().unwrap(), restored.open().unwrap());
        assert_eq!((after.cause, after.since), (before.cause, before.since));
        assert_eq!(after.reason, before.reason);
        assert_eq!(after.until, Timestamp(until));
        assert!(restored.is_probe_requested());
    }
    let mut breaker = CircuitBreaker::default();
    breaker.failed(&limited(3600), 0, &POLICY, Timestamp(0), 1.0);
    let fault = breaker.fault(Timestamp(3_000_000)).unwrap();
    let set_back = CircuitBreaker::restored(fault.clone(), Timestamp(-9_000_000));
    let until = set_back.open().map(|open| open.until);
    assert_eq!(
        until,
        Some(Timestamp(-9_000_000 + 600_000)),
        "the remaining duration"
    );
    let earlier = Pause {
        left: hour,
        until: None,
    };
    let former = Fault {
        pause: Some(earlier),
        ..fault
    };
    let until = CircuitBreaker::restored(former, Timestamp(5))
        .open()
        .map(|open| open.until);
    assert_eq!(until, Some(Timestamp(3_600_005)));
    assert_eq!(CircuitBreaker::default().fault(Timestamp(0)), None);
}

#[test]
fn the_backoff_is_not_a_requested_pause() {
    let mut breaker = CircuitBreaker::default();
    for _ in 0..5 {
        let epoch = breaker.epoch();
        breaker.failed(&limited(20), epoch, &POLICY, Timestamp(0), 1.0);
    }
    let open = breaker.open().cloned().unwrap();
    assert_eq!(open.until, Timestamp(80_000), "the backoff");
    assert_eq!(open.pause_until(Timestamp(19_999)), Some(Timestamp(20_000)));
    assert_eq!(open.pause_until(Timestamp(20_000)), None);
    let restored = CircuitBreaker::restored(breaker.fault(Timestamp(0)).unwrap(), Timestamp(0));
    let until = restored.open().map(|open| open.until);
    assert_eq!(
        until,
        Some(Timestamp(20_000)),
        "only the pause survives a restart"
    );
    breaker.probe(Timestamp(30_000));
    assert!(breaker.is_probe_requested());
    assert_eq!(breaker.permits(0, 8, Timestamp(30_000)), 1, "the pause is over");
}

#[test]
fn a_requested_pause_continues_after_another_kind_of_failure() {
    for failure in [Failure::unreachable("refused"), Failure::parked("token")] {
        let mut breaker = CircuitBreaker::default();
        breaker.failed(&limited(600), 0, &POLICY, Timestamp(0), 1.0);
        breaker.failed(&failure, breaker.epoch(), &POLICY, Timestamp(1), 1.0);
        assert_ne!(breaker.open().map(|open| open.cause), Some(Cause::Limited));
        breaker.probe(Timestamp(2));
        assert_eq!(breaker.open().map(|open| open.until), Some(Timestamp(600_000)));
    }
}

#[test]
fn resuming_does_not_end_a_requested_pause_and_gives_up_nothing() {
    let mut breaker = CircuitBreaker::default();
    for _ in 0..2 {
        let epoch = breaker.epoch();
        breaker.failed(&limited(30), epoch, &POLICY, Timestamp(0), 1.0);
    }
    assert!(may_give_up(&breaker, Timestamp(0)));
    breaker.resume(Timestamp(60));
    assert_eq!(breaker.open().map(|open| open.until), Some(Timestamp(30_000)));
    assert!(!may_give_up(&breaker, Timestamp(0)) && breaker.give_up_from().is_none());
    breaker.failed(
        &Failure::unreachable("refused"),
        breaker.epoch(),
        &POLICY,
        Timestamp(30_000),
        1.0,
    );
    breaker.resume(Timestamp(30_060));
    assert_eq!(breaker.open().map(|open| open.cause), Some(Cause::Down));
    assert_eq!(breaker.permits(0, 8, Timestamp(30_060)), 1);
    assert!(breaker.is_probe_requested() && breaker.give_up_from().is_none());
}

#[test]
fn a_probe_requested_during_a_pause_starts_at_its_end() {
    let mut breaker = CircuitBreaker::default();
    for _ in 0..5 {
        let epoch = breaker.epoch();
        breaker.failed(&limited(30), epoch, &POLICY, Timestamp(0), 1.0);
    }
    breaker.probe(Timestamp(1));
    assert_eq!(breaker.permits(0, 8, Timestamp(29_999)), 0);
    assert_eq!(
        breaker.permits(0, 8, Timestamp(30_000)),
        1,
        "not after the backoff"
    );
    assert!(breaker.is_probe_requested());
    assert!(may_give_up(&breaker, Timestamp(0)), "the outage continues");
}

#[test]
fn a_parked_destination_is_probed_at_least_every_five_minutes() {
    let mut breaker = CircuitBreaker::default();
    for _ in 0..20 {
        let epoch = breaker.epoch();
        breaker.failed(&Failure::parked("bad token"), epoch, &POLICY, Timestamp(0), 1.0);
    }
    assert_eq!(breaker.open().map(|open| open.until), Some(Timestamp(300_000)));
}
