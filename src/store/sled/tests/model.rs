//! Random operations must have the same results on this store and on the one in memory.

use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::*;
use crate::model::delivery::Verdict;
use crate::store::conformance::attempt;
use crate::store::memory::Memory;

mod operations;

use operations::{Choice, Operation, operation};

const DESTINATIONS: [&str; 3] = ["desk", "room", "mail"];

#[derive(Clone, Debug)]
enum Outcome {
    Delivered,
    Again {
        due: i64,
    },
    Dead {
        fallback: Option<usize>,
    },
    /// By recipient: `None` if it accepted the message, otherwise whether the failure is permanent.
    Divided {
        recipients: Vec<Option<bool>>,
        fallback: Option<usize>,
        due: i64,
    },
}

const RECIPIENTS: [&str; 3] = ["a@example.com", "b@example.com", "c@example.com"];

/// Both stores, and the claims that both have returned.
struct Pair {
    folder: Folder,
    memory: Memory,
    sled: Option<Sled>,
    claims: Vec<(Claim, Claim)>,
    /// The tokens, in memory, of those whose destination has answered.
    answered: std::collections::BTreeSet<u64>,
    forgotten_before: Timestamp,
    step: u64,
}

impl Pair {
    fn new() -> Self {
        let folder = Folder::new();
        let sled = Some(Self::open(&folder));
        Self {
            folder,
            memory: Memory::new(),
            sled,
            claims: Vec::new(),
            answered: std::collections::BTreeSet::new(),
            forgotten_before: Timestamp(0),
            step: 0,
        }
    }

    /// Skips the sync, which is not tested here and would take most of the time.
    fn open(folder: &Folder) -> Sled {
        Sled::open(&Options {
            skip_sync: true,
            ..folder.options()
        })
        .unwrap()
    }

    fn sled(&self) -> &Sled {
        self.sled.as_ref().unwrap()
    }

    async fn apply(&mut self, operation: Operation) {
        self.step += 1;
        match operation {
            Operation::Accept {
                from,
                provider,
                destinations,
                dedup_since,
                words,
            } => {
                let destinations: Vec<&str> = destinations
                    .into_iter()
                    .map(|index| DESTINATIONS[index])
                    .collect();
                let mut arrival = arrival(self.step, from, &destinations);
                arrival.message.provider_id = if provider == 0 {
                    String::new()
                } else {
                    format!("ref-{provider}")
                };
                arrival.message.text = "word ".repeat(words);
                // The window never begins before the time up to which provider ids were pruned.
                arrival.dedup_since = Timestamp(dedup_since).max(self.forgotten_before);
                assert_eq!(
                    self.memory.accept(arrival.clone()).await,
                    self.sled().accept(arrival).await
                );
            }
            Operation::Claim {
                destination,
                now,
                limit,
            } => self.claim(DESTINATIONS[destination], now, limit).await,
            Operation::GiveUp {
                destination,
                since: (first, last),
                limit,
            } => {
                let pending_since = Timestamp(first)..=Timestamp(last);
                self.give_up(DESTINATIONS[destination], pending_since, limit)
                    .await;
            }
            Operation::HandOver {
                from,
                to,
                until,
                limit,
            } => {
                self.hand_over(DESTINATIONS[from], DESTINATIONS[to], until, limit)
                    .await;
            }
            Operation::Settle {
                which,
                outcome,
                thread,
            } => self.settle(which, outcome, thread).await,
            Operation::Release { which } => {
                let which = which.checked_rem(self.claims.len()).unwrap_or_default();
                let claim = self.claims.get(which);
                if claim.is_some_and(|(ours, _)| !self.answered.contains(&ours.token)) {
                    let (ours, theirs) = self.claims.swap_remove(which);
                    self.memory.release(ours).await;
                    self.sled().release(theirs).await;
                }
            }
            Operation::Answered { which } => {
                let which = which.checked_rem(self.claims.len()).unwrap_or_default();
                if let Some((ours, theirs)) = self.claims.get(which) {
                    let is_followed = self.memory.answered(ours).await;
                    assert_eq!(self.sled().answered(theirs).await, is_followed);
                    if is_followed {
                        self.answered.insert(ours.token);
                    }
                }
            }
            Operation::Requeue { selector, now } => {
                let (selector, now) = (selected(selector), Timestamp(now));
                assert_eq!(
                    self.memory.requeue(&selector, now).await,
                    self.sled().requeue(&selector, now).await
                );
            }
            Operation::Discard { selector } => {
                let (selector, now) = (selected(selector), Timestamp(self.step.cast_signed()));
                let ours = self.memory.discard(&selector, now, "operator").await;
                assert_eq!(ours, self.sled().discard(&selector, now, "operator").await);
            }
            Operation::Acknowledge { selector, since } => {
                let (selector, now) = (selected(selector), Timestamp(self.step.cast_signed()));
                let since = since.map(Timestamp);
                let ours = self.memory.acknowledge_dead(&selector, since, now).await;
                assert_eq!(ours, self.sled().acknowledge_dead(&selector, since, now).await);
            }
            Operation::Owe {
                message,
                destination,
                due,
            } => {
                let message = MessageId(uuid::Uuid::from_u128(message.into()));
                let id = DeliveryId { message, ordinal: 0 };
                let added = Delivery {
                    is_resent: due % 2 == 0,
                    ..Delivery::new(id, name(DESTINATIONS[destination]), None, Timestamp(due))
                };
                let added = vec![added];
                assert_eq!(
                    self.memory.add_deliveries(message, added.clone()).await,
                    self.sled().add_deliveries(message, added).await
                );
            }
            Operation::Pause { destination, paused } => {
                let destination = name(DESTINATIONS[destination]);
                self.memory.set_paused(&destination, paused).await.unwrap();
                self.sled().set_paused(&destination, paused).await.unwrap();
            }
            Operation::Prune { purge, redact, dedup } => {
                let cutoffs = RetentionCutoffs {
                    purge_before: purge.map(Timestamp),
                    redact_before: redact.map(Timestamp),
                    dedup_before: Timestamp(dedup),
                };
                self.forgotten_before = self.forgotten_before.max(cutoffs.dedup_before);
                while self.memory.prune(&cutoffs, Timestamp(77)).await.unwrap() {}
                while self.sled().prune(&cutoffs, Timestamp(77)).await.unwrap() {}
            }
            Operation::Reopen => self.reopen().await,
        }
    }

    async fn claim(&mut self, destination: &str, now: i64, limit: usize) {
        let (destination, now) = (name(destination), Timestamp(now));
        assert_eq!(
            self.memory.next_due(&destination, now).await,
            self.sled().next_due(&destination, now).await
        );
        let ours = self.memory.claim(&destination, now, limit).await.unwrap();
        let theirs = self.sled().claim(&destination, now, limit).await.unwrap();
        assert_eq!(shown(&ours), shown(&theirs));
        self.claims.extend(ours.into_iter().zip(theirs));
    }

    async fn give_up(&mut self, destination: &str, pending_since: RangeInclusive<Timestamp>, limit: usize) {
        let destination = name(destination);
        let ours = self
            .memory
            .claim_overdue(&destination, pending_since.clone(), limit);
        let ours = ours.await.unwrap();
        let theirs = self.sled().claim_overdue(&destination, pending_since, limit);
        let theirs = theirs.await.unwrap();
        assert_eq!(ours.len(), theirs.len());
        let at = Timestamp(self.step.cast_signed());
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            assert_eq!(ours.delivery, theirs.delivery);
            let settlement = |token| Settlement {
                token,
                delivery: ours.delivery.clone().dead(None, at, "given up"),
                follow_ups: Vec::new(),
                thread: None,
            };
            let ids = self.memory.settle(&settlement(ours.token)).await;
            assert_eq!(self.sled().settle(&settlement(theirs.token)).await, ids);
        }
    }

    /// Two steps, the second from where the first ended.
    async fn hand_over(&mut self, from: &str, to: &str, until: i64, limit: usize) {
        let mut request = HandOver {
            destination: name(from),
            fallback: name(to),
            until: Timestamp(until),
            after: None,
            limit,
            late: "late".to_owned(),
            outage: None,
            is_hold: false,
            now: Timestamp(self.step.cast_signed()),
        };
        for _ in 0..2 {
            let ours = self.memory.hand_over(&request).await.unwrap();
            let theirs = self.sled().hand_over(&request).await.unwrap();
            assert_eq!(ours, theirs);
            request.after = ours.and_then(|handed| handed.last);
        }
    }

    async fn settle(&mut self, which: usize, outcome: Outcome, thread: bool) {
        if self.claims.is_empty() {
            return;
        }
        let (ours, theirs) = self.claims.swap_remove(which % self.claims.len());
        let (outcome, thread) = match self.answered.remove(&ours.token) {
            true => (Outcome::Delivered, false),
            false => (outcome, thread),
        };
        let delivery = ours.delivery.clone();
        let at = Timestamp(self.step.cast_signed());
        let fallback = |index: usize| delivery.fallback(name(DESTINATIONS[index]), at);
        let dead = |delivery: Delivery| delivery.dead(Some(attempt(Verdict::Permanent)), at, "no");
        let again = |delivery: Delivery, due| delivery.retry(attempt(Verdict::Transient), Timestamp(due));
        let (settled, follow_ups) = match outcome {
            Outcome::Delivered => (
                delivery.clone().delivered(attempt(Verdict::Delivered)),
                Vec::new(),
            ),
            Outcome::Again { due } => (again(delivery.clone(), due), Vec::new()),
            Outcome::Dead { fallback: to } => {
                let follow_ups = to.map(fallback).into_iter().collect();
                (dead(delivery.clone()), follow_ups)
            }
            Outcome::Divided { .. } if delivery.recipient.is_some() => (
                delivery.clone().delivered(attempt(Verdict::Delivered)),
                Vec::new(),
            ),
            Outcome::Divided {
                recipients,
                fallback: to,
                due,
            } => {
                let accepted = recipients.iter().any(Option::is_none);
                let others = RECIPIENTS.iter().zip(recipients);
                let mut shares = others.filter_map(|(recipient, never)| {
                    let own = delivery.split(recipient);
                    never.map(|never| if never { dead(own) } else { again(own, due) })
                });
                let settled = match (accepted, shares.next()) {
                    (false, Some(first)) => Delivery {
                        id: delivery.id,
                        origin: delivery.origin,
                        ..first
                    },
                    (_, first) => {
                        let rest: Vec<Delivery> = first.into_iter().chain(shares).collect();
                        let settled = delivery.clone().delivered(attempt(Verdict::Delivered));
                        return self.settle_as((ours, theirs), settled, rest, thread).await;
                    }
                };
                (settled, shares.chain(to.map(fallback)).collect())
            }
        };
        self.settle_as((ours, theirs), settled, follow_ups, thread).await;
    }

    async fn settle_as(
        &mut self,
        (ours, theirs): (Claim, Claim),
        delivery: Delivery,
        follow_ups: Vec<Delivery>,
        thread: bool,
    ) {
        let thread = thread.then(|| format!("thread {}", self.step));
        let settlement = |token| Settlement {
            token,
            delivery: delivery.clone(),
            follow_ups: follow_ups.clone(),
            thread: thread.clone(),
        };
        let ids = self.memory.settle(&settlement(ours.token)).await;
        assert!(ids.is_ok());
        assert_eq!(self.sled().settle(&settlement(theirs.token)).await, ids);
        let (destination, conversation) = (&delivery.destination, ours.message.conversation());
        let recipients = RECIPIENTS.map(str::to_owned);
        assert_eq!(
            self.memory.held(destination, conversation, &recipients).await,
            self.sled().held(destination, conversation, &recipients).await
        );
    }

    async fn reopen(&mut self) {
        self.answered.clear();
        for (ours, _) in self.claims.drain(..) {
            self.memory.release(ours).await;
        }
        self.sled = None;
        self.sled = Some(Self::open(&self.folder));
        assert_eq!(findings(self.sled()), "");
    }

    async fn compare(&self) {
        let (memory, sled) = (&self.memory, self.sled());
        assert_eq!(memory.counts().await, sled.counts().await);
        assert_adds_up(sled).await;
        assert_eq!(memory.destinations().await, sled.destinations().await);
        assert_eq!(memory.paused().await, sled.paused().await);
        for destination in DESTINATIONS.map(name) {
            assert_eq!(
                memory.backlog(&destination).await,
                sled.backlog(&destination).await,
                "{destination}"
            );
        }
        let (all, each) = (
            Query {
                limit: 500,
                ..Query::default()
            },
            DeliveryQuery {
                limit: 500,
                ..DeliveryQuery::default()
            },
        );
        for state in [MessageState::Pending, MessageState::Delivered, MessageState::Dead] {
            let query = Query {
                state: Some(state),
                ..all.clone()
            };
            let [ours, theirs] = [memory.messages(&query).await, sled.messages(&query).await].map(|page| {
                let items = page.unwrap().items.into_iter();
                items.map(|found| found.message.id).collect::<Vec<_>>()
            });
            assert_eq!(ours, theirs, "{state:?}");
        }
        let found = |page: Page<Found>| {
            page.items
                .into_iter()
                .map(|found| (found.message, found.deliveries))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            found(memory.messages(&all).await.unwrap()),
            found(sled.messages(&all).await.unwrap())
        );
        assert_eq!(
            memory.deliveries(&each).await.unwrap().items,
            sled.deliveries(&each).await.unwrap().items
        );
    }
}

fn selected(choice: Choice) -> Selector {
    let id = |(message, ordinal): (u64, u16)| DeliveryId {
        message: MessageId(uuid::Uuid::from_u128(message.into())),
        ordinal,
    };
    match choice {
        Choice::Ids(ids) => Selector::Ids(ids.into_iter().map(id).collect()),
        Choice::Dead(destination) => Selector::Dead(name(DESTINATIONS[destination])),
        Choice::Pending(destination) => Selector::Pending(name(DESTINATIONS[destination])),
    }
}

fn shown(claims: &[Claim]) -> Vec<(&Delivery, &crate::model::message::Message, Option<&str>)> {
    claims
        .iter()
        .map(|claim| (&claim.delivery, &*claim.message, claim.thread.as_deref()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_come_to_the_same_as_in_memory(operations in prop::collection::vec(operation(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new();
            for operation in operations {
                pair.apply(operation).await;
                pair.compare().await;
            }
            pair.reopen().await;
            pair.compare().await;
        });
    }
}
