//! P4 at every single call: each write, sync, rename, unlink, … fails, or is the last call of the process: during
//! normal work, a checkpoint, a change of log segments, a compaction, a backup, a restore, a migration and every kind
//! of start.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::inject::{CALLS, ENDS, Injection};
use super::interrupted::{CASES, Case, Outcome, Stores};
use super::rng::Rng;
use super::{is_long, report, rounds};
use crate::servers::recorder::{Recorder, Reply};

/// The number of concurrent runs, which mostly wait.
fn workers() -> usize {
    if is_long() { 8 } else { 4 }
}

/// The calls and results of a case.
#[derive(Default)]
struct Tally {
    /// The calls of a run without a fault.
    calls: [u64; CALLS.len()],
    runs: [usize; ENDS.len()],
    /// The runs that did not reach the call.
    missed: usize,
    refused: usize,
    failed: usize,
    /// The remaining runs.
    left: usize,
}

impl Tally {
    /// Counts a run, and reports the case after the last one.
    fn add(&mut self, case: Case, injection: Injection, outcome: Option<&Outcome>) {
        let end = ENDS.iter().position(|end| *end == injection.end).unwrap();
        match outcome {
            Some(outcome) if outcome.counts.is_hit => self.runs[end] += 1,
            Some(_) => self.missed += 1,
            None => self.failed += 1,
        }
        self.refused += outcome.map_or(0, |outcome| outcome.refused);
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        let calls = CALLS.iter().zip(self.calls).filter(|(_, count)| *count > 0);
        let calls: Vec<String> = calls.map(|(call, count)| format!("{count} {call}")).collect();
        let runs: Vec<String> = ENDS
            .iter()
            .zip(self.runs)
            .map(|(end, runs)| format!("{runs} {end}"))
            .collect();
        report(
            "P4",
            &format!(
                "{case:?}: {} calls ({}), one of them in {}, {} not made, {} messages refused, {} lost something or needed manual work",
                self.calls.iter().sum::<u64>(),
                calls.join(", "),
                runs.join(", "),
                self.missed,
                self.refused,
                self.failed
            ),
        );
    }
}

/// Runs `job` for each item on several threads. Returns the failures.
fn each<T: Sync + std::fmt::Debug>(jobs: &[T], job: impl Fn(&T) + Sync) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                while let Some(one) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(one))) {
                        let words = panic.downcast_ref::<String>().cloned();
                        let failure = format!("{one:?}: {}", words.unwrap_or_default());
                        println!("FAILED {failure}");
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs gcc: tests/run"]
async fn p4_whichever_call_fails_or_is_the_last_one_nothing_is_lost_unreported() {
    let sink = Recorder::answering(Reply::new(200, "ok")).await;
    let stores = Stores::new(&sink);
    let tallies: Mutex<BTreeMap<Case, Tally>> = Mutex::default();
    let failures = each(&CASES, |&case| {
        let calls = stores.run(case, None).counts.calls;
        tallies.lock().unwrap().entry(case).or_default().calls = calls;
    });
    assert!(failures.is_empty(), "without a fault: {failures:#?}");
    let mut cases: Vec<(Case, Vec<Injection>)> = Vec::new();
    for (case, tally) in tallies.lock().unwrap().iter_mut() {
        let injections = injections(&tally.calls);
        tally.left = injections.len();
        cases.push((*case, injections));
    }
    // The shortest is reported first.
    cases.sort_by_key(|(_, injections)| injections.len());
    let jobs: Vec<(Case, Injection)> = cases
        .into_iter()
        .flat_map(|(case, injections)| injections.into_iter().map(move |injection| (case, injection)))
        .collect();
    let failures = each(&jobs, |&(case, injection)| {
        println!("{case:?}, {injection}");
        let outcome = catch_unwind(AssertUnwindSafe(|| stores.run(case, Some(injection))));
        let mut tallies = tallies.lock().unwrap();
        let tally = tallies.get_mut(&case).unwrap();
        tally.add(case, injection, outcome.as_ref().ok());
        drop(tallies);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
    assert!(
        failures.is_empty(),
        "{} of {}: {failures:#?}",
        failures.len(),
        jobs.len()
    );
    let tallies = tallies.into_inner().unwrap();
    let runs: usize = tallies.values().flat_map(|tally| tally.runs).sum();
    assert!(
        runs > jobs.len() / 2,
        "hardly any call was reached: the test proves nothing"
    );
}

/// Every call of a case with every result, or a selection of them.
fn injections(calls: &[u64; CALLS.len()]) -> Vec<Injection> {
    let mut all: Vec<Injection> = Vec::new();
    for (call, &count) in calls.iter().enumerate() {
        for end in ENDS.into_iter().filter(|end| Injection::is_possible(call, end)) {
            all.extend((1..=count).map(|nth| Injection { call, nth, end }));
        }
    }
    let (count, mut rng) = (rounds(1, usize::MAX), Rng::new());
    while all.len() > count {
        all.swap_remove(rng.below(all.len()));
    }
    all
}
