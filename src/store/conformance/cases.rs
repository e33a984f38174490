//! The cases of the suite: accepting and deduplicating messages here, everything else in the submodules.

use std::sync::Arc;

use super::*;
use crate::model::message::Media;

mod acknowledge;
mod backup;
mod commands;
mod hand_over;
mod order;
mod queue;
mod recipients;
mod retention;
mod search;
mod series;

pub(super) use acknowledge::{
    a_discarded_resend_of_a_delivered_message_leaves_it_delivered,
    a_message_that_a_fallback_delivered_is_delivered,
    a_resend_that_is_delivered_makes_up_for_the_dead_delivery,
    a_successful_fallback_acknowledges_the_dead_delivery,
    acknowledged_deliveries_stay_dead_and_need_no_attention,
    all_dead_deliveries_are_those_that_need_attention,
};
pub(super) use backup::a_backup_contains_everything_accepted_before_it;
pub(super) use commands::*;
pub(super) use hand_over::*;
pub(super) use order::*;
pub(super) use queue::*;
pub(super) use recipients::*;
pub(super) use retention::*;
pub(super) use search::*;
pub(super) use series::{
    a_message_that_is_sent_again_is_not_counted_again, ended_messages_are_counted_by_result,
    messages_without_a_delivery_are_counted, the_messages_of_the_last_hour_are_stored,
    the_told_problems_are_stored,
};

pub(super) async fn an_accepted_message_is_found_and_claimed_as_it_was_received(store: Arc<dyn Store>) {
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

pub(super) async fn a_duplicate_provider_id_is_stored_once(store: Arc<dyn Store>) {
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
        "another source has its own ids"
    );
    assert_eq!(assert_adds_up(&*store).await.accepted, 2);
}

pub(super) async fn fifty_concurrent_duplicates_are_stored_once(store: Arc<dyn Store>) {
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
        "every duplicate names the stored message"
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
    prune(
        &*store,
        RetentionCutoffs {
            dedup_before: Timestamp(10),
            ..cutoffs()
        },
    )
    .await;
    let mut repeated = arrival(4, 1, &[]);
    repeated.message.provider_id = "ref-1".into();
    repeated.dedup_since = Timestamp(10);
    assert_eq!(
        store.accept(repeated).await,
        Ok(Acceptance::New),
        "expired ids are new"
    );
}

pub(super) async fn of_two_messages_with_one_provider_id_the_last_counts(store: Arc<dyn Store>) {
    for (case, destinations) in [(1_000, &[][..]), (2_000, &["desk"])] {
        let repeated = |n: u64, since: u64| {
            let mut repeated = arrival(case + n, 1, if n == 1 { destinations } else { &[] });
            repeated.message.provider_id = format!("ref-{case}");
            repeated.dedup_since = Timestamp((case + since).cast_signed());
            repeated
        };
        let last = repeated(13, 8);
        let expected = Ok(Acceptance::Duplicate(last.message.id));
        assert_eq!(store.accept(repeated(1, 0)).await, Ok(Acceptance::New));
        assert_eq!(store.accept(last).await, Ok(Acceptance::New));
        let both = |dedup: u64| RetentionCutoffs {
            purge_before: Some(Timestamp((case + 14).cast_signed())),
            dedup_before: Timestamp((case + dedup).cast_signed()),
            ..cutoffs()
        };
        // If the first one is still pending, the last one is removed first.
        prune(&*store, both(if destinations.is_empty() { 13 } else { 0 })).await;
        assert_eq!(
            store.accept(repeated(20, 13)).await,
            expected,
            "pending at {destinations:?}"
        );
        for claim in claim(&*store, "desk", FAR).await {
            store.settle(&delivered(&claim)).await.unwrap();
        }
        prune(&*store, both(0)).await;
        assert_eq!(assert_adds_up(&*store).await.messages_purged, case / 1_000 * 2);
        assert_eq!(
            store.accept(repeated(21, 13)).await,
            expected,
            "pending at {destinations:?}"
        );
    }
}

pub(super) async fn messages_without_a_provider_id_are_never_duplicates(store: Arc<dyn Store>) {
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

pub(super) async fn a_message_without_destinations_is_kept(store: Arc<dyn Store>) {
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
    store.settle(&delivered(&claimed)).await.unwrap();
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
    // Once it has a pending delivery, its state is no longer "kept".
    let added = Delivery::new(
        DeliveryId {
            message: arrival(3, 1, &[]).message.id,
            ordinal: 0,
        },
        name("desk"),
        None,
        FAR,
    );
    store.add_deliveries(added.id.message, vec![added]).await.unwrap();
    assert!(ids(&store.messages(&state(MessageState::Kept)).await.unwrap()).is_empty());
    assert_eq!(
        ids(&store.messages(&state(MessageState::Pending)).await.unwrap()),
        [3]
    );
}

pub(super) async fn a_text_of_64_kib_is_stored_and_removed_completely(store: Arc<dyn Store>) {
    let mut long = arrival(1, 1, &["desk"]);
    long.message.text = "0123456789abcdé".repeat(4_096);
    let message = long.message.clone();
    assert!(message.text.len() >= 65_536);
    store.accept(long).await.unwrap();
    let claim = claim_one(&*store, "desk", FAR).await;
    assert_eq!(*claim.message, message);
    store.settle(&delivered(&claim)).await.unwrap();
    prune(
        &*store,
        RetentionCutoffs {
            redact_before: Some(Timestamp(2)),
            ..cutoffs()
        },
    )
    .await;
    assert_eq!(store.find(message.id).await.unwrap().unwrap().message.text, "");
    prune(
        &*store,
        RetentionCutoffs {
            purge_before: Some(Timestamp(2)),
            ..cutoffs()
        },
    )
    .await;
    assert!(store.find(message.id).await.unwrap().is_none());
}

pub(super) async fn the_clock_state_is_stored(store: Arc<dyn Store>) {
    assert_eq!(store.timeline().await, Ok(None));
    let mut timeline = Timeline::new(Timestamp(1), Timestamp(2));
    store.set_timeline(&timeline).await.unwrap();
    assert_eq!(store.timeline().await, Ok(Some(timeline.clone())));
    timeline.observe(Timestamp(1_001), Timestamp(1_002));
    store.set_timeline(&timeline).await.unwrap();
    assert_eq!(store.timeline().await, Ok(Some(timeline)));
}

pub(super) async fn the_states_of_destinations_are_stored(store: Arc<dyn Store>) {
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
    // More than one entry can hold, and then less.
    for count in [200, 2] {
        let standings: Standings = (0..count)
            .map(|n| (name(&format!("d{n}")), standing(n)))
            .collect();
        store.set_standings(&standings).await.unwrap();
        assert_eq!(store.standings().await, Ok(standings));
    }
}
