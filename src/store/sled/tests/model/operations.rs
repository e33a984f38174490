//! The operations that the model test applies to both stores.

use super::*;

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Accept {
        from: u64,
        provider: u8,
        destinations: Vec<usize>,
        dedup_since: i64,
        words: usize,
    },
    Claim {
        destination: usize,
        now: i64,
        limit: usize,
    },
    GiveUp {
        destination: usize,
        since: (i64, i64),
        limit: usize,
    },
    HandOver {
        from: usize,
        to: usize,
        until: i64,
        limit: usize,
    },
    Settle {
        which: usize,
        outcome: Outcome,
        thread: bool,
    },
    Release {
        which: usize,
    },
    Answered {
        which: usize,
    },
    Requeue {
        selector: Choice,
        now: i64,
    },
    Discard {
        selector: Choice,
    },
    Acknowledge {
        selector: Choice,
        since: Option<i64>,
    },
    Owe {
        message: u64,
        destination: usize,
        due: i64,
    },
    Pause {
        destination: usize,
        paused: bool,
    },
    Prune {
        purge: Option<i64>,
        redact: Option<i64>,
        dedup: i64,
    },
    Reopen,
}

#[derive(Clone, Debug)]
pub(super) enum Choice {
    Ids(Vec<(u64, u16)>),
    Dead(usize),
    Pending(usize),
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let destination = 0..DESTINATIONS.len();
    let time = 0..60i64;
    let choice = prop_oneof![
        prop::collection::vec((1..30u64, 1..4u16), 0..4).prop_map(Choice::Ids),
        destination.clone().prop_map(Choice::Dead),
        destination.clone().prop_map(Choice::Pending),
    ];
    let outcome = prop_oneof![
        3 => Just(Outcome::Delivered),
        2 => time.clone().prop_map(|due| Outcome::Again { due }),
        2 => prop::option::of(destination.clone()).prop_map(|fallback| Outcome::Dead { fallback }),
        2 => (
            prop::collection::vec(prop::option::of(any::<bool>()), RECIPIENTS.len()),
            prop::option::of(destination.clone()),
            time.clone(),
        )
            .prop_map(|(recipients, fallback, due)| Outcome::Divided { recipients, fallback, due }),
    ];
    let words = prop_oneof![9 => Just(1usize), 1 => Just(3_000usize)];
    prop_oneof![
        8 => (0..3u64, 0..12u8, prop::sample::subsequence(vec![0usize, 1, 2], 0..=3), time.clone(), words).prop_map(
            |(from, provider, destinations, dedup_since, words)| {
                Operation::Accept { from, provider, destinations, dedup_since, words }
            }
        ),
        8 => (destination.clone(), time.clone(), 1..4usize)
            .prop_map(|(destination, now, limit)| Operation::Claim { destination, now, limit }),
        2 => (destination.clone(), (time.clone(), time.clone()), 1..4usize)
            .prop_map(|(destination, since, limit)| Operation::GiveUp { destination, since, limit }),
        3 => (destination.clone(), destination.clone(), time.clone(), 1..4usize)
            .prop_map(|(from, to, until, limit)| Operation::HandOver { from, to, until, limit }),
        8 => (any::<usize>(), outcome, any::<bool>())
            .prop_map(|(which, outcome, thread)| Operation::Settle { which, outcome, thread }),
        2 => any::<usize>().prop_map(|which| Operation::Release { which }),
        3 => any::<usize>().prop_map(|which| Operation::Answered { which }),
        2 => (choice.clone(), time.clone()).prop_map(|(selector, now)| Operation::Requeue { selector, now }),
        1 => choice.clone().prop_map(|selector| Operation::Discard { selector }),
        1 => (choice, prop::option::of(time.clone()))
            .prop_map(|(selector, since)| Operation::Acknowledge { selector, since }),
        2 => (1..30u64, destination.clone(), time.clone())
            .prop_map(|(message, destination, due)| Operation::Owe { message, destination, due }),
        1 => (destination, any::<bool>()).prop_map(|(destination, paused)| Operation::Pause { destination, paused }),
        1 => (prop::option::of(time.clone()), prop::option::of(time.clone()), time)
            .prop_map(|(purge, redact, dedup)| Operation::Prune { purge, redact, dedup }),
        1 => Just(Operation::Reopen),
    ]
}
