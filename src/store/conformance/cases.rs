//! The cases of the suite, by their claims.

use std::sync::Arc;

use super::*;
use crate::model::message::Media;

mod acknowledge;
mod backup;
mod queue;
mod series;

pub(super) use acknowledge::{
    a_fallback_that_delivered_leaves_nothing_to_attend_to, a_message_that_a_fallback_delivered_is_delivered,
    acknowledged_deliveries_stay_dead_and_need_no_attention,
};
pub(super) use backup::the_parts_of_a_backup_have_all_that_was_accepted_before_it;
pub(super) use queue::*;
pub(super) use series::{
    messages_that_ended_are_counted_by_how, the_messages_of_the_last_hour_are_remembered,
};

pub(super) async fn an_accepted_text_is_found_and_claimed_as_it_was_received(store: Arc<dyn Store>) {
    let mut arrival = arrival(1, 1, &["desk"]);
    arrival.message.media = vec![Media {
        link: "https://example.com/1".into(),
        content_type: None,
        filename: None,
    }];
    let (message, deliveries) = (arrival.message.clone(), arrival.deliveries.clone());
    store.accept(arrival).await.unwrap();
    let found = store.find(message.id).await.unwrap().unwrap();
    assert_eq!((&found.message, &found.deliveries), (&message, &deliveries));
    let claim = claim_one(&*store, "desk", Timestamp(1)).await;
    assert_eq!(
        (&*claim.message, &claim.delivery, claim.thread),
        (&message, &deliveries[0], None)
    );
    assert!(
        store
            .find(MessageId(uuid::Uuid::from_u128(2)))
            .await
            .unwrap()
            .is_none()
    );
}

pub(super) async fn a_repeated_provider_id_is_stored_once(store: Arc<dyn Store>) {
    let first = accept(&*store, 1, 1, &["desk"]).await;
    let mut repeated = arrival(2, 1, &["desk"]);
    repeated.message.provider_id = "ref-1".into();
    assert_eq!(
        store.accept(repeated.clone()).await,
        Ok(Acceptance::Duplicate(first))
    );
    repeated.message.source = name("other");
    assert_eq!(
        store.accept(repeated).await,
        Ok(Acceptance::New),
        "another source has ids of its own"
    );
    assert_eq!(assert_adds_up(&*store).await.accepted, 2);
}

pub(super) async fn fifty_copies_at_once_are_stored_once(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (1..=50)
        .map(|n| {
            let store = Arc::clone(&store);
            let mut copy = arrival(n, 1, &["desk"]);
            copy.message.provider_id = "the same".into();
            tokio::spawn(async move { (n, store.accept(copy).await.unwrap()) })
        })
        .collect();
    let (mut new, mut duplicates) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            (n, Acceptance::New) => new.push(MessageId(uuid::Uuid::from_u128(n.into()))),
            (_, Acceptance::Duplicate(id)) => duplicates.push(id),
        }
    }
    assert_eq!((new.len(), duplicates.len()), (1, 49));
    assert!(
        duplicates.iter().all(|id| *id == new[0]),
        "all name the stored one"
    );
    assert_eq!(claim(&*store, "desk", FAR).await.len(), 1);
}

pub(super) async fn a_provider_id_counts_only_within_the_window(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &[]).await;
    for (n, since, expected) in [(2, 1, false), (3, 2, true)] {
        let mut repeated = arrival(n, 1, &[]);
        repeated.message.provider_id = "ref-1".into();
        repeated.dedup_since = Timestamp(since);
        assert_eq!(
            store.accept(repeated).await == Ok(Acceptance::New),
            expected,
            "since {since}"
        );
    }
    forget(
        &*store,
        Horizon {
            dedup_before: Timestamp(10),
            ..horizon()
        },
    )
    .await;
    let mut repeated = arrival(4, 1, &[]);
    repeated.message.provider_id = "ref-1".into();
    repeated.dedup_since = Timestamp(10);
    assert_eq!(
        store.accept(repeated).await,
        Ok(Acceptance::New),
        "forgotten ids are new"
    );
}

pub(super) async fn of_two_texts_with_one_provider_id_the_last_is_remembered(store: Arc<dyn Store>) {
    for (case, owed) in [(1_000, &[][..]), (2_000, &["desk"])] {
        let repeated = |n: u64, since: u64| {
            let mut repeated = arrival(case + n, 1, if n == 1 { owed } else { &[] });
            repeated.message.provider_id = format!("ref-{case}");
            repeated.dedup_since = Timestamp((case + since).cast_signed());
            repeated
        };
        let last = repeated(13, 8);
        let expected = Ok(Acceptance::Duplicate(last.message.id));
        assert_eq!(store.accept(repeated(1, 0)).await, Ok(Acceptance::New));
        assert_eq!(store.accept(last).await, Ok(Acceptance::New));
        let both = |dedup: u64| Horizon {
            purge_before: Some(Timestamp((case + 14).cast_signed())),
            dedup_before: Timestamp((case + dedup).cast_signed()),
            ..horizon()
        };
        // The last one goes first where the first one is still owed.
        forget(&*store, both(if owed.is_empty() { 13 } else { 0 })).await;
        assert_eq!(store.accept(repeated(20, 13)).await, expected, "owed to {owed:?}");
        for claim in claim(&*store, "desk", FAR).await {
            store.settle(delivered(&claim)).await.unwrap();
        }
        forget(&*store, both(0)).await;
        assert_eq!(assert_adds_up(&*store).await.messages_purged, case / 1_000 * 2);
        assert_eq!(store.accept(repeated(21, 13)).await, expected, "owed to {owed:?}");
    }
}

pub(super) async fn texts_without_a_provider_id_are_all_new(store: Arc<dyn Store>) {
    for n in 1..=2 {
        let mut nameless = arrival(n, 1, &[]);
        nameless.message.provider_id = String::new();
        assert_eq!(store.accept(nameless).await, Ok(Acceptance::New));
    }
}

fn ids(page: &Page<Found>) -> Vec<u128> {
    let ids = page.items.iter().map(|found| found.message.id.0.as_u128());
    ids.collect()
}

pub(super) async fn a_text_owed_to_nobody_is_kept(store: Arc<dyn Store>) {
    let mut nobody = arrival(1, 1, &[]);
    nobody.message.text = String::new();
    nobody.message.routes = Vec::new();
    let id = nobody.message.id;
    store.accept(nobody).await.unwrap();
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!((found.message.text.as_str(), found.deliveries.len()), ("", 0));
    assert_eq!(found.state(), MessageState::Unrouted);
    accept(&*store, 2, 1, &["desk"]).await;
    let claimed = claim_one(&*store, "desk", FAR).await;
    store.settle(delivered(&claimed)).await.unwrap();
    store.accept(arrival(3, 1, &[])).await.unwrap();
    let state = |state| Query {
        state: Some(state),
        limit: 9,
        ..Query::default()
    };
    for (wanted, expected) in [
        (MessageState::Unrouted, vec![1]),
        (MessageState::Delivered, vec![2]),
        (MessageState::Kept, vec![3]),
        (MessageState::Pending, vec![]),
    ] {
        let page = store.messages(&state(wanted)).await.unwrap();
        assert_eq!(ids(&page), expected, "{wanted:?}");
        assert!(
            page.items.iter().all(|found| found.state() == wanted),
            "{wanted:?}"
        );
    }
    // Once it is owed, it is kept no more.
    let owed = Delivery::new(
        DeliveryId {
            message: arrival(3, 1, &[]).message.id,
            ordinal: 0,
        },
        name("desk"),
        None,
        FAR,
    );
    store.owe(owed.id.message, vec![owed]).await.unwrap();
    assert!(ids(&store.messages(&state(MessageState::Kept)).await.unwrap()).is_empty());
    assert_eq!(
        ids(&store.messages(&state(MessageState::Pending)).await.unwrap()),
        [3]
    );
}

pub(super) async fn a_text_of_64_kib_is_kept_whole_and_goes_whole(store: Arc<dyn Store>) {
    let mut long = arrival(1, 1, &["desk"]);
    long.message.text = "0123456789abcdé".repeat(4_096);
    let message = long.message.clone();
    assert!(message.text.len() >= 65_536);
    store.accept(long).await.unwrap();
    let claim = claim_one(&*store, "desk", FAR).await;
    assert_eq!(*claim.message, message);
    store.settle(delivered(&claim)).await.unwrap();
    forget(
        &*store,
        Horizon {
            redact_before: Some(Timestamp(2)),
            ..horizon()
        },
    )
    .await;
    assert_eq!(store.find(message.id).await.unwrap().unwrap().message.text, "");
    forget(
        &*store,
        Horizon {
            purge_before: Some(Timestamp(2)),
            ..horizon()
        },
    )
    .await;
    assert!(store.find(message.id).await.unwrap().is_none());
}

pub(super) async fn texts_of_a_conversation_go_in_order_one_at_a_time(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    accept(&*store, 4, 2, &["desk"]).await;
    let first = claim(&*store, "desk", FAR).await;
    assert_eq!(numbers(&first), [1, 4], "the first of each conversation");
    assert!(claim(&*store, "desk", FAR).await.is_empty(), "the others wait");
    store.settle(delivered(&first[0])).await.unwrap();
    let second = claim(&*store, "desk", FAR).await;
    assert_eq!(numbers(&second), [2]);
    store.settle(died(&second[0])).await.unwrap();
    assert_eq!(
        numbers(&claim(&*store, "desk", FAR).await),
        [3],
        "a dead text is out of the way"
    );
}

pub(super) async fn a_later_text_never_overtakes_one_that_is_retried(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", Timestamp(5)).await;
    store.settle(again(&first, Timestamp(1_000))).await.unwrap();
    assert!(
        claim(&*store, "desk", Timestamp(999)).await.is_empty(),
        "the second is due, but not first"
    );
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(Some(Timestamp(1_000)))
    );
    let first = claim_one(&*store, "desk", Timestamp(1_000)).await;
    assert_eq!(numbers(std::slice::from_ref(&first)), [1]);
    assert_eq!(first.delivery.attempts_made, 1);
    store.settle(delivered(&first)).await.unwrap();
    assert_eq!(numbers(&claim(&*store, "desk", Timestamp(1_000)).await), [2]);
}

pub(super) async fn one_destination_does_not_hold_up_another(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk", "room"]).await;
    accept(&*store, 2, 1, &["desk", "room"]).await;
    let at_desk = claim_one(&*store, "desk", FAR).await;
    let at_room = claim_one(&*store, "room", FAR).await;
    assert_eq!((at_desk.delivery.id.ordinal, at_room.delivery.id.ordinal), (1, 2));
    store.settle(delivered(&at_room)).await.unwrap();
    assert_eq!(numbers(&claim(&*store, "room", FAR).await), [2]);
    assert!(claim(&*store, "desk", FAR).await.is_empty());
}

pub(super) async fn what_is_due_is_claimed_in_the_order_of_acceptance(store: Arc<dyn Store>) {
    for n in 1..=5 {
        accept(&*store, 10 - n, n, &["desk"]).await;
    }
    let due = store.claim(&name("desk"), Timestamp(7), 2).await.unwrap();
    assert_eq!(numbers(&due), [7, 6], "two of three, the first accepted first");
    assert_eq!(numbers(&claim(&*store, "desk", Timestamp(7)).await), [5]);
    for claim in due {
        store.release(claim).await;
    }
    assert_eq!(numbers(&claim(&*store, "desk", FAR).await), [9, 8, 7, 6]);
    assert!(store.claim(&name("desk"), FAR, 0).await.unwrap().is_empty());
}

pub(super) async fn a_claimed_delivery_is_not_given_again_until_released(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", FAR).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty());
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(None),
        "nothing is unclaimed"
    );
    store.release(first.clone()).await;
    let second = claim_one(&*store, "desk", FAR).await;
    assert_eq!(
        store.settle(delivered(&first)).await,
        Err(Error::LostClaim),
        "the first claim is over"
    );
    store.release(first).await;
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "an old claim releases nothing"
    );
    assert_eq!(store.settle(delivered(&second)).await, Ok(vec![]));
    assert_eq!(
        store.settle(delivered(&second)).await,
        Err(Error::LostClaim),
        "it is settled already"
    );
    assert_eq!(assert_adds_up(&*store).await.delivered, 1);
}

pub(super) async fn next_due_tells_when_to_come_back(store: Arc<dyn Store>) {
    assert_eq!(store.next_due(&name("desk"), Timestamp(1)).await, Ok(None));
    accept(&*store, 7, 1, &["desk"]).await;
    accept(&*store, 9, 2, &["desk"]).await;
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(Some(Timestamp(7)))
    );
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(8)).await,
        Ok(Some(Timestamp(8))),
        "due already"
    );
    let first = claim_one(&*store, "desk", Timestamp(8)).await;
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(Some(Timestamp(9)))
    );
    store.settle(delivered(&first)).await.unwrap();
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(Some(Timestamp(9)))
    );
    assert_eq!(store.next_due(&name("room"), Timestamp(1)).await, Ok(None));
}

pub(super) async fn a_fallback_is_owed_with_the_next_ordinal(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk", "room"]).await;
    accept(&*store, 2, 1, &["mail"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    let fallback = Delivery::new(claim.delivery.id, name("mail"), None, Timestamp(50));
    let settlement = Settlement {
        follow_ups: vec![fallback],
        ..died(&claim)
    };
    store.settle(settlement).await.unwrap();
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!(
        found
            .deliveries
            .iter()
            .map(|delivery| delivery.id.ordinal)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(found.deliveries[2].destination, name("mail"));
    let next = claim_one(&*store, "mail", FAR).await;
    assert_eq!(
        next.delivery.id,
        DeliveryId {
            message: id,
            ordinal: 3
        },
        "the older text goes first there too"
    );
    store.settle(delivered(&next)).await.unwrap();
    assert_eq!(numbers(&super::claim(&*store, "mail", FAR).await), [2]);
    assert_eq!(assert_adds_up(&*store).await.owed, 4);
}

/// A delivery that ends for the recipients that took it, and goes on for these.
fn divided(claim: &Claim, others: &[&str]) -> Settlement {
    let later = |recipient: &&str| {
        let own = claim.delivery.split(recipient);
        own.retry(attempt(Verdict::Transient), Timestamp(1_500))
    };
    Settlement {
        follow_ups: others.iter().map(later).collect(),
        ..delivered(claim)
    }
}

/// What is claimed: the number of the message, and the recipient.
fn shares(claims: &[Claim]) -> Vec<(u128, Option<&str>)> {
    let share = |claim: &'_ Claim| claim.message.id.0.as_u128();
    claims
        .iter()
        .map(|claim| (share(claim), claim.delivery.recipient.as_deref()))
        .collect()
}

pub(super) async fn a_recipient_that_waits_holds_up_nobody_else(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    for n in 2..=3 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    let (desk, recipients) = (name("desk"), ["a", "b", "c"].map(str::to_owned));
    let conversation = arrival(1, 1, &[]).message.conversation();
    let held = async || store.held(&desk, conversation, &recipients).await.unwrap();
    let first = claim_one(&*store, "desk", Timestamp(1_000)).await;
    let ids = store.settle(divided(&first, &["b", "c"])).await.unwrap();
    assert_eq!(ids.iter().map(|id| id.ordinal).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(held().await, ["b", "c"]);
    assert!(
        store
            .held(&name("room"), conversation, &recipients)
            .await
            .unwrap()
            .is_empty(),
        "elsewhere nobody waits"
    );

    let second = claim_one(&*store, "desk", Timestamp(1_000)).await;
    assert_eq!(shares(std::slice::from_ref(&second)), [(2, None)]);
    store.settle(divided(&second, &["b"])).await.unwrap();
    let due = claim(&*store, "desk", Timestamp(1_500)).await;
    assert_eq!(
        shares(&due),
        [(1, Some("b")), (1, Some("c")), (3, None)],
        "each recipient's first, and the next message of all"
    );
    assert_eq!(due[0].delivery.key(), first.delivery.id);
    assert_eq!(held().await, ["b", "c"], "also while they are claimed");
    for claim in &due[..2] {
        store.settle(delivered(claim)).await.unwrap();
    }
    assert_eq!(held().await, ["b"]);
    assert_eq!(shares(&claim(&*store, "desk", FAR).await), [(2, Some("b"))]);
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!(found.state(), MessageState::Delivered);
    let counts = assert_adds_up(&*store).await;
    assert_eq!((counts.owed, counts.delivered, counts.pending), (6, 4, 2));
}

pub(super) async fn a_delivery_that_nobody_took_becomes_that_of_its_first_recipient(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", FAR).await;
    let own = first
        .delivery
        .split("a")
        .retry(attempt(Verdict::Transient), Timestamp(1_500));
    let dead = first.delivery.split("b").dead(None, Timestamp(1_000), "no");
    let settlement = Settlement {
        token: first.token,
        delivery: Delivery {
            id: first.delivery.id,
            origin: None,
            ..own
        },
        follow_ups: vec![dead],
        thread: None,
    };
    let ids = store.settle(settlement).await.unwrap();
    assert_eq!(ids[0].ordinal, 2);
    let conversation = first.message.conversation();
    let held = store
        .held(&name("desk"), conversation, &["a".to_owned(), "b".to_owned()])
        .await;
    assert_eq!(held.unwrap(), ["a"]);
    let backlog = store.backlog(&name("desk")).await.unwrap();
    assert_eq!((backlog.pending, backlog.dead), (2, 1));
    let mut due = claim(&*store, "desk", FAR).await;
    due.sort_by_key(|claim| claim.message.id);
    assert_eq!(shares(&due), [(1, Some("a")), (2, None)]);
    assert_eq!(due[0].delivery.id, first.delivery.id);

    let requeued = store.requeue(&Selector::Ids(ids), Timestamp(2_000)).await;
    assert_eq!(requeued.unwrap().touched, 1);
    assert_eq!(shares(&claim(&*store, "desk", FAR).await), [(1, Some("b"))]);
    assert_adds_up(&*store).await;
}

pub(super) async fn recipients_that_end_dead_one_by_one_bring_one_fallback(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", FAR).await;
    store.settle(divided(&first, &["a", "b"])).await.unwrap();
    let fallbacks = async || {
        let found = store.find(id).await.unwrap().unwrap();
        let at_room = found
            .deliveries
            .iter()
            .filter(|delivery| delivery.destination == name("room"));
        at_room.count()
    };
    for (claim, expected) in claim(&*store, "desk", FAR).await.iter().zip([1, 1]) {
        let settlement = Settlement {
            follow_ups: vec![claim.delivery.fallback(name("room"), Timestamp(50))],
            ..died(claim)
        };
        store.settle(settlement).await.unwrap();
        assert_eq!(fallbacks().await, expected);
    }
    let taken_over = claim_one(&*store, "room", FAR).await;
    assert_eq!(taken_over.delivery.origin, Some(1));
    store.settle(died(&taken_over)).await.unwrap();
    // The fallback could not help; whoever is tried again in vain tries it again, too.
    store
        .requeue(&Selector::Dead(name("desk")), Timestamp(60))
        .await
        .unwrap();
    let again = claim(&*store, "desk", FAR).await;
    let settlement = Settlement {
        follow_ups: vec![again[0].delivery.fallback(name("room"), Timestamp(70))],
        ..died(&again[0])
    };
    store.settle(settlement).await.unwrap();
    assert_eq!(fallbacks().await, 2);
    assert_adds_up(&*store).await;
}

pub(super) async fn a_destination_that_has_a_message_gets_it_as_no_fallback(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk", "mail", "room"]).await;
    let settle = async |from: &str, to: &str| {
        let claim = claim_one(&*store, from, FAR).await;
        let settlement = Settlement {
            follow_ups: vec![claim.delivery.fallback(name(to), Timestamp(50))],
            ..died(&claim)
        };
        store.settle(settlement).await.unwrap().len()
    };
    // It is pending for the mail, and then it was delivered there.
    assert_eq!(settle("desk", "mail").await, 0);
    let mail = claim_one(&*store, "mail", FAR).await;
    store.settle(delivered(&mail)).await.unwrap();
    assert_eq!(settle("room", "mail").await, 0);
    // Where it is dead it is tried again.
    store
        .requeue(&Selector::Dead(name("room")), Timestamp(60))
        .await
        .unwrap();
    assert_eq!(settle("room", "desk").await, 1);
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!(found.deliveries.len(), 4);
    assert_adds_up(&*store).await;
}

pub(super) async fn the_dead_come_back_when_requeued_and_in_their_old_place(store: Arc<dyn Store>) {
    let first = accept(&*store, 1, 1, &["desk"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(died(&claim)).await.unwrap();
    assert_eq!(store.backlog(&name("desk")).await.unwrap().dead, 1);
    let touched = store
        .requeue(&Selector::Dead(name("desk")), Timestamp(2_000))
        .await;
    assert_eq!(touched, Ok(requeued(1)));
    let backlog = store.backlog(&name("desk")).await.unwrap();
    assert_eq!(
        backlog,
        Backlog {
            pending: 2,
            dead: 0,
            acknowledged: 0,
            oldest: Some(Timestamp(2))
        }
    );
    assert!(
        super::claim(&*store, "desk", Timestamp(1_999)).await.is_empty(),
        "the first is not due yet"
    );
    let again = claim_one(&*store, "desk", Timestamp(2_000)).await;
    assert_eq!((again.message.id, again.delivery.attempts_made), (first, 1));
    let delivery = &again.delivery;
    assert_eq!(delivery.created_at, Timestamp(1), "it was not created anew");
    assert_eq!(delivery.retried_at, Some(Timestamp(2_000)));
    store.settle(delivered(&again)).await.unwrap();
    let second = claim_one(&*store, "desk", FAR).await;
    store.settle(died(&second)).await.unwrap();
    let all = Selector::Dead(name("desk"));
    assert_eq!(store.requeue(&all, Timestamp(3_000)).await, Ok(requeued(1)));
    let oldest = store.backlog(&name("desk")).await.unwrap().oldest;
    assert_eq!(oldest, Some(Timestamp(3_000)), "pending since the retry");
    assert_adds_up(&*store).await;
}

pub(super) async fn waiting_ones_are_requeued_sooner_but_not_claimed_or_ended_ones(store: Arc<dyn Store>) {
    let mut ids = Vec::new();
    for n in 1..=3 {
        let message = accept(&*store, n, n, &["desk"]).await;
        ids.push(DeliveryId { message, ordinal: 1 });
    }
    let claims = claim(&*store, "desk", FAR).await;
    store.settle(again(&claims[0], Timestamp(5_000))).await.unwrap();
    store.settle(delivered(&claims[1])).await.unwrap();
    ids.push(DeliveryId {
        message: MessageId(uuid::Uuid::from_u128(99)),
        ordinal: 1,
    });
    assert_eq!(
        store.requeue(&Selector::Ids(ids.clone()), Timestamp(100)).await,
        Ok(Requeued {
            touched: 1,
            claimed: 1,
            ..Requeued::default()
        })
    );
    assert_eq!(
        store
            .requeue(&Selector::Pending(name("desk")), Timestamp(100))
            .await,
        Ok(Requeued {
            due: 1,
            claimed: 1,
            ..Requeued::default()
        }),
        "due already"
    );
    assert_eq!(numbers(&claim(&*store, "desk", Timestamp(100)).await), [1]);
    assert_eq!(
        store.settle(delivered(&claims[2])).await,
        Ok(vec![]),
        "the claimed one was left alone"
    );
}

pub(super) async fn what_is_due_too_far_ahead_is_brought_forward_with_its_date(store: Arc<dyn Store>) {
    let (now, beyond) = (Timestamp(5), Timestamp(50));
    // Of one conversation each: due in time, created and due too late, retried too late, claimed, not the first.
    for (n, from) in [(5, 1), (9_000, 2), (3, 3), (60, 4), (9_001, 2)] {
        accept(&*store, n, from, &["desk"]).await;
    }
    let mut all = claim(&*store, "desk", FAR).await;
    all.sort_by_key(|claim| claim.message.id);
    assert_eq!(numbers(&all), [3, 5, 60, 9_000]);
    store.settle(again(&all[0], Timestamp(8_000))).await.unwrap();
    for held in [&all[1], &all[3]] {
        store.release(held.clone()).await;
    }
    assert_eq!(store.advance(beyond, now).await, Ok(3), "60 is claimed");
    assert_eq!(store.advance(beyond, now).await, Ok(0));
    assert_eq!(
        numbers(&claim(&*store, "desk", now).await),
        [5, 9_000, 3],
        "by acceptance"
    );
    for (n, created_at) in [(3, 3), (5, 5), (60, 60), (9_000, 5), (9_001, 5)] {
        let id = MessageId(uuid::Uuid::from_u128(n));
        let found = store.find(id).await.unwrap().unwrap();
        assert_eq!(found.deliveries[0].created_at, Timestamp(created_at), "{n}");
    }
    let backlog = store.backlog(&name("desk")).await.unwrap();
    assert_eq!((backlog.pending, backlog.oldest), (5, Some(Timestamp(3))));
    assert_adds_up(&*store).await;
}

pub(super) async fn what_is_known_about_time_is_remembered(store: Arc<dyn Store>) {
    assert_eq!(store.timeline().await, Ok(None));
    let mut timeline = Timeline::new(Timestamp(1), Timestamp(2));
    store.set_timeline(&timeline).await.unwrap();
    assert_eq!(store.timeline().await, Ok(Some(timeline.clone())));
    timeline.observe(Timestamp(1_001), Timestamp(1_002));
    store.set_timeline(&timeline).await.unwrap();
    assert_eq!(store.timeline().await, Ok(Some(timeline)));
}

pub(super) async fn the_oldest_pending_delivery_is_that_of_the_first_message(store: Arc<dyn Store>) {
    assert_eq!(store.oldest_pending(&name("desk")).await, Ok(None));
    for n in 1..=3 {
        accept(&*store, n, n, &["desk", "room"]).await;
    }
    let oldest = async |to: &str| {
        let oldest = store.oldest_pending(&name(to)).await.unwrap();
        oldest.map(|delivery| delivery.id.message.0.as_u128())
    };
    assert_eq!(oldest("desk").await, Some(1));
    let claims = claim(&*store, "desk", Timestamp(9)).await;
    assert_eq!(oldest("desk").await, Some(1), "a claimed one is pending");
    store.settle(delivered(&claims[0])).await.unwrap();
    assert_eq!((oldest("desk").await, oldest("room").await), (Some(2), Some(1)));
}

pub(super) async fn how_destinations_stood_is_remembered(store: Arc<dyn Store>) {
    assert_eq!(store.standings().await, Ok(Standings::default()));
    let fault = |n: u32| Fault {
        cause: Cause::Parked,
        reason: format!("HTTP 403 of destination {n}").into(),
        since: Timestamp(7),
        pause: None,
    };
    let standing = |n: u32| Standing {
        is_tested: n > 0,
        delivered_at: Some(Timestamp(5)),
        fault: Some(fault(n)),
    };
    // More than fits into one entry, and then less.
    for count in [200, 2] {
        let standings: Standings = (0..count)
            .map(|n| (name(&format!("d{n}")), standing(n)))
            .collect();
        store.set_standings(&standings).await.unwrap();
        assert_eq!(store.standings().await, Ok(standings));
    }
}

pub(super) async fn discarding_spares_what_is_claimed(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    accept(&*store, 4, 2, &["desk"]).await;
    let claim = store.claim(&name("desk"), FAR, 1).await.unwrap().remove(0);
    let discarded = store
        .discard(&Selector::Pending(name("desk")), Timestamp(9), "operator")
        .await;
    assert_eq!(discarded, Ok(3));
    assert!(super::claim(&*store, "desk", FAR).await.is_empty());
    assert_eq!(store.settle(delivered(&claim)).await, Ok(vec![]));
    let counts = assert_adds_up(&*store).await;
    assert_eq!((counts.delivered, counts.dead, counts.pending), (1, 3, 0));
    let query = DeliveryQuery {
        state: Some(MessageState::Dead),
        limit: 9,
        ..DeliveryQuery::default()
    };
    let dead = store.deliveries(&query).await.unwrap().items;
    assert!(dead.iter().all(|delivery| {
        delivery.state
            == State::Dead {
                at: Timestamp(9),
                reason: "operator".into(),
            }
    }));
    assert_eq!(
        store.discard(&Selector::Dead(name("desk")), FAR, "").await,
        Ok(0),
        "the dead are dead"
    );
}

pub(super) async fn commands_reach_a_long_backlog(store: Arc<dyn Store>) {
    for n in 1..=600 {
        accept(&*store, n, n % 7, &["desk"]).await;
    }
    let desk = Selector::Pending(name("desk"));
    assert_eq!(store.discard(&desk, Timestamp(5_000), "no").await, Ok(600));
    assert_eq!(
        store
            .requeue(&Selector::Dead(name("desk")), Timestamp(6_000))
            .await,
        Ok(requeued(600))
    );
    assert_eq!(store.requeue(&desk, Timestamp(5_500)).await, Ok(requeued(600)));
    let first = claim(&*store, "desk", Timestamp(5_500)).await;
    assert_eq!(numbers(&first), [1, 2, 3, 4, 5, 6, 7]);
    assert_adds_up(&*store).await;
}

pub(super) async fn a_stored_text_is_owed_again(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(delivered(&claim)).await.unwrap();
    let more = ["desk", "room"].map(|to| Delivery::new(claim.delivery.id, name(to), None, Timestamp(5)));
    let ids = store.owe(id, more.to_vec()).await.unwrap();
    assert_eq!(ids, [2, 3].map(|ordinal| DeliveryId { message: id, ordinal }));
    assert_eq!(claim_one(&*store, "desk", FAR).await.delivery.id, ids[0]);
    assert_eq!(claim_one(&*store, "room", FAR).await.delivery.id, ids[1]);
    let unknown = MessageId(uuid::Uuid::from_u128(9));
    assert_eq!(store.owe(unknown, Vec::new()).await, Err(Error::NotFound));
    assert_eq!(assert_adds_up(&*store).await.owed, 3);
}

pub(super) async fn an_older_text_owed_later_goes_before_newer_ones(store: Arc<dyn Store>) {
    let first = accept(&*store, 1, 1, &["room"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    accept(&*store, 3, 1, &["desk"]).await;
    let second = claim_one(&*store, "desk", FAR).await;
    let id = DeliveryId {
        message: first,
        ordinal: 0,
    };
    store
        .owe(first, vec![Delivery::new(id, name("desk"), None, Timestamp(9))])
        .await
        .unwrap();
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "one text of a conversation at a time"
    );
    store.settle(again(&second, Timestamp(10))).await.unwrap();
    for expected in [1, 2, 3] {
        let claim = claim_one(&*store, "desk", FAR).await;
        assert_eq!(claim.message.id.0.as_u128(), expected);
        store.settle(delivered(&claim)).await.unwrap();
    }
    assert_eq!(assert_adds_up(&*store).await.pending, 1, "the one at the room");
}

pub(super) async fn backlogs_and_destinations_tell_what_is_owed(store: Arc<dyn Store>) {
    assert_eq!(store.backlog(&name("desk")).await, Ok(Backlog::default()));
    accept(&*store, 5, 1, &["desk", "room"]).await;
    accept(&*store, 6, 1, &["desk"]).await;
    assert_eq!(store.destinations().await.unwrap(), [name("desk"), name("room")]);
    let desk = Backlog {
        pending: 2,
        dead: 0,
        acknowledged: 0,
        oldest: Some(Timestamp(5)),
    };
    assert_eq!(store.backlog(&name("desk")).await, Ok(desk));
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(died(&claim)).await.unwrap();
    let desk = Backlog {
        pending: 1,
        dead: 1,
        acknowledged: 0,
        oldest: Some(Timestamp(6)),
    };
    assert_eq!(store.backlog(&name("desk")).await, Ok(desk));
}

pub(super) async fn a_pause_is_remembered_until_it_ends(store: Arc<dyn Store>) {
    for _ in 0..2 {
        store.set_paused(&name("desk"), true).await.unwrap();
    }
    store.set_paused(&name("room"), true).await.unwrap();
    store.set_paused(&name("room"), false).await.unwrap();
    assert_eq!(store.paused().await.unwrap(), [name("desk")]);
    assert_eq!(store.destinations().await.unwrap(), [name("desk")]);
}

pub(super) async fn a_thread_belongs_to_a_conversation_at_a_destination(store: Arc<dyn Store>) {
    for n in 1..=2 {
        accept(&*store, n, 1, &["desk", "room"]).await;
    }
    accept(&*store, 3, 2, &["desk"]).await;
    let first = store.claim(&name("desk"), FAR, 1).await.unwrap().remove(0);
    let begun = Settlement {
        thread: Some("1700.42".into()),
        ..delivered(&first)
    };
    store.settle(begun).await.unwrap();
    for (destination, expected) in [("desk", [None, Some("1700.42")].as_slice()), ("room", &[None])] {
        let mut threads: Vec<_> = claim(&*store, destination, FAR)
            .await
            .into_iter()
            .map(|claim| claim.thread)
            .collect();
        threads.sort();
        assert_eq!(
            threads.iter().map(Option::as_deref).collect::<Vec<_>>(),
            expected,
            "{destination}"
        );
    }
}

pub(super) async fn pruning_keeps_what_is_owed(store: Arc<dyn Store>) {
    for n in 1..=4 {
        accept(&*store, n, n, &["desk"]).await;
    }
    let claims = claim(&*store, "desk", FAR).await;
    store.settle(delivered(&claims[0])).await.unwrap();
    store.settle(died(&claims[1])).await.unwrap();
    store.settle(delivered(&claims[3])).await.unwrap();
    forget(
        &*store,
        Horizon {
            purge_before: Some(Timestamp(4)),
            ..horizon()
        },
    )
    .await;
    let page = store
        .messages(&Query {
            limit: 9,
            ..Query::default()
        })
        .await
        .unwrap();
    let left: Vec<_> = page
        .items
        .iter()
        .map(|found| found.message.id.0.as_u128())
        .collect();
    assert_eq!(left, [4, 3], "3 is still owed, 4 is not old enough");
    let counts = assert_adds_up(&*store).await;
    assert_eq!(
        (counts.accepted, counts.messages_purged, counts.purged),
        (4, 2, 2)
    );
    let query = DeliveryQuery {
        destination: Some(name("desk")),
        state: Some(MessageState::Dead),
        limit: 9,
        ..DeliveryQuery::default()
    };
    assert!(store.deliveries(&query).await.unwrap().items.is_empty());
    assert_eq!(store.settle(delivered(&claims[2])).await, Ok(vec![]));
    let mut repeated = arrival(9, 1, &[]);
    repeated.message.provider_id = "ref-1".into();
    let known = store.accept(repeated).await;
    assert_eq!(
        known,
        Ok(Acceptance::Duplicate(claims[0].message.id)),
        "its provider id is still known"
    );
}

pub(super) async fn redaction_forgets_the_words_and_keeps_the_facts(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let owed = accept(&*store, 2, 2, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(delivered(&claim)).await.unwrap();
    forget(
        &*store,
        Horizon {
            redact_before: Some(Timestamp(5)),
            ..horizon()
        },
    )
    .await;
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!(
        (
            found.message.text.as_str(),
            found.message.from.to_string().as_str()
        ),
        ("", "+1***01")
    );
    assert_eq!(found.message.redacted_at, Some(Timestamp(9_999)));
    assert!(found.message.extra.is_empty());
    assert!(matches!(found.deliveries[0].state, State::Delivered { .. }));
    assert_eq!(
        store.find(owed).await.unwrap().unwrap().message.text,
        "text 2",
        "still owed"
    );
}

pub(super) async fn what_is_redacted_is_not_requeued(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, n, &["desk", "ops"]).await;
    }
    for destination in ["desk", "ops"] {
        for claim in &claim(&*store, destination, FAR).await {
            store.settle(died(claim)).await.unwrap();
        }
    }
    let horizon = Horizon {
        redact_before: Some(Timestamp(3)),
        ..horizon()
    };
    forget(&*store, horizon).await;
    let desk = Selector::Dead(name("desk"));
    let ids = (1..=3).map(|n| DeliveryId {
        message: MessageId(uuid::Uuid::from_u128(n)),
        ordinal: 2,
    });
    for selector in [desk, Selector::Ids(ids.collect())] {
        assert_eq!(
            store.requeue(&selector, Timestamp(5)).await,
            Ok(Requeued {
                touched: 1,
                redacted: 2,
                ..Requeued::default()
            }),
            "{selector:?}"
        );
    }
    assert_eq!(numbers(&claim(&*store, "desk", FAR).await), [3]);
    assert_adds_up(&*store).await;
}

pub(super) async fn messages_are_searched_newest_first_and_page_by_page(store: Arc<dyn Store>) {
    for n in 1..=6 {
        accept(&*store, n, n % 2, &["desk"]).await;
    }
    let all = Query {
        limit: 4,
        ..Query::default()
    };
    let first = store.messages(&all).await.unwrap();
    assert_eq!(ids(&first), [6, 5, 4, 3]);
    let second = store
        .messages(&Query {
            cursor: first.next,
            ..all
        })
        .await
        .unwrap();
    assert_eq!((ids(&second), second.next), (vec![2, 1], None));

    let settled = store.claim(&name("desk"), FAR, 1).await.unwrap().remove(0);
    store.settle(delivered(&settled)).await.unwrap();
    let base = Query {
        limit: 9,
        ..Query::default()
    };
    let pattern = |text| Some(Pattern::parse(text).unwrap());
    let unrouted = Some(MessageState::Unrouted);
    for (query, expected) in [
        (
            Query {
                from: pattern("*0001"),
                ..base.clone()
            },
            vec![5, 3, 1],
        ),
        (
            Query {
                to: pattern("+13038670000"),
                text: Some("TEXT 3".into()),
                ..base.clone()
            },
            vec![3],
        ),
        (
            Query {
                to: pattern("+1999*"),
                ..base.clone()
            },
            vec![],
        ),
        (
            Query {
                source: Some(name("other")),
                ..base.clone()
            },
            vec![],
        ),
        (
            Query {
                since: Some(Timestamp(3)),
                until: Some(Timestamp(5)),
                ..base.clone()
            },
            vec![4, 3],
        ),
        (
            Query {
                state: Some(MessageState::Delivered),
                ..base.clone()
            },
            vec![1],
        ),
        (
            Query {
                state: Some(MessageState::Pending),
                since: Some(Timestamp(5)),
                ..base.clone()
            },
            vec![6, 5],
        ),
        (
            Query {
                state: unrouted,
                ..base.clone()
            },
            vec![],
        ),
    ] {
        assert_eq!(ids(&store.messages(&query).await.unwrap()), expected, "{query:?}");
    }
}

pub(super) async fn deliveries_are_listed_newest_first_and_page_by_page(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, n, &["desk", "room"]).await;
    }
    let claims = claim(&*store, "room", FAR).await;
    store.settle(died(&claims[0])).await.unwrap();
    store.settle(died(&claims[1])).await.unwrap();
    for (destination, state, expected) in [
        (None, None, vec![(3, 2), (3, 1), (2, 2), (2, 1), (1, 2), (1, 1)]),
        (Some("room"), None, vec![(3, 2), (2, 2), (1, 2)]),
        (Some("room"), Some(MessageState::Dead), vec![(2, 2), (1, 2)]),
        (
            None,
            Some(MessageState::Pending),
            vec![(3, 2), (3, 1), (2, 1), (1, 1)],
        ),
        (Some("desk"), Some(MessageState::Delivered), vec![]),
    ] {
        let mut query = DeliveryQuery {
            destination: destination.map(name),
            state,
            limit: 1,
            cursor: None,
        };
        let mut listed = Vec::new();
        for _ in 0..=expected.len() {
            let page = store.deliveries(&query).await.unwrap();
            listed.extend(
                page.items
                    .iter()
                    .map(|item| (item.id.message.0.as_u128(), item.id.ordinal)),
            );
            query.cursor = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(listed, expected, "{destination:?} {state:?}");
    }
}

pub(super) async fn large_messages_make_short_pages_and_few_claims(store: Arc<dyn Store>) {
    let length = 600_000;
    for n in 1..=9 {
        let mut arrival = arrival(n, n, &["desk"]);
        arrival.message.text = "x".repeat(length);
        store.accept(arrival).await.unwrap();
    }
    let mut listed = Vec::new();
    let mut query = Query {
        limit: 100,
        ..Query::default()
    };
    loop {
        let page = store.messages(&query).await.unwrap();
        let ids = page.items.iter().map(|found| found.message.id.0.as_u128());
        listed.extend(ids);
        assert!((1..=PAGE_BYTES / length + 1).contains(&page.items.len()));
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, [9, 8, 7, 6, 5, 4, 3, 2, 1]);

    let mut claimed = Vec::new();
    loop {
        let claims = claim(&*store, "desk", FAR).await;
        assert!(claims.len() <= CLAIM_BYTES / length + 1, "{}", claims.len());
        if claims.is_empty() {
            break;
        }
        claimed.extend(numbers(&claims));
    }
    assert_eq!(claimed, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

pub(super) async fn many_writers_at_once_leave_nothing_out(store: Arc<dyn Store>) {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 1..=50 {
                    accept(&*store, writer * 1_000 + n, writer, &["desk"]).await;
                }
            })
        })
        .collect();
    let mut order: Vec<u128> = Vec::new();
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(60) {
        for claim in claim(&*store, "desk", FAR).await {
            order.push(claim.message.id.0.as_u128());
            store.settle(delivered(&claim)).await.unwrap();
        }
        if order.len() == 400 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(order.len(), 400);
    for writer in 0..8 {
        assert!(
            order.iter().filter(|n| **n / 1_000 == writer).is_sorted(),
            "one conversation stays in order"
        );
    }
    assert_eq!(assert_adds_up(&*store).await.delivered, 400);
}
