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

#[test]
fn a_rate_limit_pauses_the_whole_lane_for_the_requested_time() {
    let mut gate = Gate::default();
    let change = gate.failed(&limited(30), 0, &POLICY, Timestamp(0), 1.0);
    assert_eq!(change, Some(Change::Closed(Cause::Limited)));
    assert_eq!(gate.allows(0, 8, Timestamp(29_999)), 0);
    assert_eq!(gate.allows(0, 8, Timestamp(30_000)), 1, "a single probe");
    assert_eq!(gate.allows(1, 8, Timestamp(30_000)), 0);
    assert_eq!(gate.works(), Some(Change::Opened(Timestamp(0))));
    assert_eq!(gate.allows(1, 8, Timestamp(30_000)), 7);
}

#[test]
fn a_pause_shorter_than_the_backoff_does_not_shorten_it() {
    for asked in [0, 1] {
        let mut gate = Gate::default();
        for seconds in [5, 10, 20, 40] {
            let epoch = gate.epoch();
            gate.failed(&limited(asked), epoch, &POLICY, Timestamp(0), 1.0);
            let until = gate.closed().map(|closed| closed.until);
            assert_eq!(until, Some(Timestamp(seconds * 1000)), "asked for {asked} s");
        }
    }
}

#[test]
fn the_longest_pause_of_concurrent_attempts_counts() {
    let mut gate = Gate::default();
    for seconds in [30, 300, 60] {
        gate.failed(&limited(seconds), 0, &POLICY, Timestamp(0), 1.0);
    }
    assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(300_000)));
    assert_eq!(gate.closed().map(|closed| closed.failures), Some(1));
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
        let mut gate = Gate::default();
        gate.failed(&Failure::unreachable("refused"), 0, &POLICY, Timestamp(0), 1.0);
        let divided = Failure::Divided {
            reason: Reason::default(),
            accepted,
            others: vec![Other {
                recipient: "night@example.com".into(),
                fate,
            }],
        };
        let change = gate.failed(&divided, gate.epoch(), &POLICY, Timestamp(1), 1.0);
        assert_eq!(change.is_some(), opens, "{divided:?}");
        assert_eq!(gate.closed().is_none(), opens, "{divided:?}");
    }
}

#[test]
fn failures_in_a_row_back_off_and_are_logged_once() {
    let mut gate = Gate::default();
    let down = Failure::unreachable("refused");
    assert!(gate.failed(&down, 0, &POLICY, Timestamp(0), 1.0).is_some());
    for n in 1..4 {
        let epoch = gate.epoch();
        assert_eq!(
            gate.failed(&down, epoch, &POLICY, Timestamp(0), 1.0),
            None,
            "failure {n}"
        );
    }
    assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(40_000)));
}

#[test]
fn attempts_started_before_the_breaker_opened_do_not_lengthen_the_wait() {
    let mut gate = Gate::default();
    let down = Failure::unreachable("refused");
    for _ in 0..8 {
        gate.failed(&down, 0, &POLICY, Timestamp(0), 1.0);
    }
    assert_eq!(gate.closed().map(|closed| closed.failures), Some(1));
}

#[test]
fn a_rejected_message_closes_the_breaker() {
    let mut gate = Gate::default();
    gate.failed(&Failure::unreachable("refused"), 0, &POLICY, Timestamp(0), 1.0);
    let epoch = gate.epoch();
    let change = gate.failed(&Failure::permanent("550"), epoch, &POLICY, Timestamp(9), 1.0);
    assert_eq!(change, Some(Change::Opened(Timestamp(0))));
}

#[test]
fn a_breaker_that_stays_open_is_logged_every_hour() {
    let mut gate = Gate::default();
    let down = Failure::unreachable("refused");
    let mut news = Vec::new();
    for minute in 0..130 {
        let epoch = gate.epoch();
        news.extend(
            gate.failed(&down, epoch, &POLICY, Timestamp(minute * 60_000), 1.0)
                .map(|change| (minute, change)),
        );
    }
    let still = Change::Still(Cause::Down);
    assert_eq!(
        news,
        [
            (0, Change::Closed(Cause::Down)),
            (60, still.clone()),
            (120, still)
        ]
    );
}

#[test]
fn deliveries_overdue_before_an_outage_are_given_up_at_its_second_failure() {
    for failure in [limited(3600), Failure::unreachable("refused")] {
        let mut gate = Gate::default();
        assert!(!gate.gives_up(Timestamp(7)), "it works");
        gate.failed(&failure, 0, &POLICY, Timestamp(7), 1.0);
        assert!(gate.gives_up(Timestamp(7)) && !gate.gives_up(Timestamp(6)));
        let epoch = gate.epoch();
        gate.failed(&failure, epoch, &POLICY, Timestamp(9), 1.0);
        assert!(gate.gives_up(Timestamp(0)));
        gate.works();
        assert!(!gate.gives_up(Timestamp(9)));
    }
}

#[test]
fn parking_gives_up_nothing_and_is_not_an_outage() {
    let mut gate = Gate::default();
    for failure in [limited(30), Failure::parked("token"), Failure::parked("token")] {
        let epoch = gate.epoch();
        gate.failed(&failure, epoch, &POLICY, Timestamp(7), 1.0);
    }
    assert!(!gate.gives_up(Timestamp(99)) && !gate.is_out());
    let epoch = gate.epoch();
    gate.failed(&limited(30), epoch, &POLICY, Timestamp(50), 1.0);
    assert!(gate.gives_up(Timestamp(50)) && !gate.gives_up(Timestamp(49)));
    assert_eq!(gate.closed().map(|closed| closed.failures), Some(4));
}

#[test]
fn a_requested_probe_is_immediate_and_keeps_the_cause() {
    for failure in [Failure::parked("token"), Failure::unreachable("refused")] {
        let mut gate = Gate::default();
        for _ in 0..4 {
            let epoch = gate.epoch();
            gate.failed(&failure, epoch, &POLICY, Timestamp(7), 1.0);
        }
        let before = gate.closed().cloned().unwrap();
        gate.probe(Timestamp(9));
        let after = gate.closed().cloned().unwrap();
        assert_eq!((after.cause, after.since), (before.cause, before.since));
        assert_eq!(after.reason, before.reason);
        assert!(!gate.gives_up(Timestamp(0)), "the outage starts anew");
        assert_eq!(
            (gate.allows(0, 8, Timestamp(9)), gate.is_probe_requested()),
            (1, true)
        );
        let change = gate.failed(&failure, gate.epoch(), &POLICY, Timestamp(10), 1.0);
        assert_eq!(change, Some(Change::Still(before.cause)));
        let closed = gate.closed().unwrap();
        assert_eq!((closed.since, closed.until), (Timestamp(7), Timestamp(5010)));
        assert!(!gate.is_probe_requested());
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
        let mut gate = Gate::default();
        gate.failed(&failure, 0, &POLICY, Timestamp(7), 1.0);
        let fault = gate.fault(Timestamp(10_007)).unwrap();
        let restored = Gate::restored(fault, Timestamp(at));
        let (before, after) = (gate.closed().unwrap(), restored.closed().unwrap());
        assert_eq!((after.cause, after.since), (before.cause, before.since));
        assert_eq!(after.reason, before.reason);
        assert_eq!(after.until, Timestamp(until));
        assert!(restored.is_probe_requested());
    }
    let mut gate = Gate::default();
    gate.failed(&limited(3600), 0, &POLICY, Timestamp(0), 1.0);
    let fault = gate.fault(Timestamp(3_000_000)).unwrap();
    let set_back = Gate::restored(fault.clone(), Timestamp(-9_000_000));
    let until = set_back.closed().map(|closed| closed.until);
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
    let until = Gate::restored(former, Timestamp(5))
        .closed()
        .map(|closed| closed.until);
    assert_eq!(until, Some(Timestamp(3_600_005)));
    assert_eq!(Gate::default().fault(Timestamp(0)), None);
}

#[test]
fn the_backoff_is_not_a_requested_pause() {
    let mut gate = Gate::default();
    for _ in 0..5 {
        let epoch = gate.epoch();
        gate.failed(&limited(20), epoch, &POLICY, Timestamp(0), 1.0);
    }
    let closed = gate.closed().cloned().unwrap();
    assert_eq!(closed.until, Timestamp(80_000), "the backoff");
    assert_eq!(closed.pause_until(Timestamp(19_999)), Some(Timestamp(20_000)));
    assert_eq!(closed.pause_until(Timestamp(20_000)), None);
    let restored = Gate::restored(gate.fault(Timestamp(0)).unwrap(), Timestamp(0));
    let until = restored.closed().map(|closed| closed.until);
    assert_eq!(
        until,
        Some(Timestamp(20_000)),
        "only the pause survives a restart"
    );
    gate.probe(Timestamp(30_000));
    assert!(gate.is_probe_requested());
    assert_eq!(gate.allows(0, 8, Timestamp(30_000)), 1, "the pause is over");
}

#[test]
fn a_requested_pause_continues_after_another_kind_of_failure() {
    for failure in [Failure::unreachable("refused"), Failure::parked("token")] {
        let mut gate = Gate::default();
        gate.failed(&limited(600), 0, &POLICY, Timestamp(0), 1.0);
        gate.failed(&failure, gate.epoch(), &POLICY, Timestamp(1), 1.0);
        assert_ne!(gate.closed().map(|closed| closed.cause), Some(Cause::Limited));
        gate.probe(Timestamp(2));
        assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(600_000)));
    }
}

#[test]
fn resuming_does_not_end_a_requested_pause_and_gives_up_nothing() {
    let mut gate = Gate::default();
    for _ in 0..2 {
        let epoch = gate.epoch();
        gate.failed(&limited(30), epoch, &POLICY, Timestamp(0), 1.0);
    }
    assert!(gate.gives_up(Timestamp(0)));
    gate.resume(Timestamp(60));
    assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(30_000)));
    assert!(!gate.gives_up(Timestamp(0)) && !gate.is_out());
    gate.failed(
        &Failure::unreachable("refused"),
        gate.epoch(),
        &POLICY,
        Timestamp(30_000),
        1.0,
    );
    gate.resume(Timestamp(30_060));
    assert_eq!(gate.closed().map(|closed| closed.cause), Some(Cause::Down));
    assert_eq!(gate.allows(0, 8, Timestamp(30_060)), 1);
    assert!(gate.is_probe_requested() && !gate.is_out());
}

#[test]
fn a_probe_requested_during_a_pause_starts_at_its_end() {
    let mut gate = Gate::default();
    for _ in 0..5 {
        let epoch = gate.epoch();
        gate.failed(&limited(30), epoch, &POLICY, Timestamp(0), 1.0);
    }
    gate.probe(Timestamp(1));
    assert_eq!(gate.allows(0, 8, Timestamp(29_999)), 0);
    assert_eq!(gate.allows(0, 8, Timestamp(30_000)), 1, "not after the backoff");
    assert!(gate.is_probe_requested());
    assert!(gate.gives_up(Timestamp(0)), "the outage continues");
}

#[test]
fn a_parked_destination_is_probed_at_least_every_five_minutes() {
    let mut gate = Gate::default();
    for _ in 0..20 {
        let epoch = gate.epoch();
        gate.failed(&Failure::parked("bad token"), epoch, &POLICY, Timestamp(0), 1.0);
    }
    assert_eq!(gate.closed().map(|closed| closed.until), Some(Timestamp(300_000)));
}
