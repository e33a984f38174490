//! Counters and stored data for the charts.

use std::sync::Arc;

use super::super::*;
use crate::metrics::series::{Series, Totals};
use crate::model::notices::{Current, Notices, Subject};

pub async fn ended_messages_are_counted_by_result(store: Arc<dyn Store>) {
    let store = &*store;
    let ended = |delivered, dead| assert_eq!(store.ended(), Ended { delivered, dead });
    accept(store, 1, 1, &["desk", "room"]).await;
    accept(store, 2, 2, &["desk"]).await;
    accept(store, 3, 3, &[]).await;
    ended(0, 0);
    let first = claim_one(store, "desk", FAR).await;
    store.settle(&delivered(&first)).await.unwrap();
    ended(0, 0);
    let other = claim_one(store, "room", FAR).await;
    store.settle(&again(&other, Timestamp(5))).await.unwrap();
    let other = claim_one(store, "room", FAR).await;
    store.settle(&delivered(&other)).await.unwrap();
    ended(1, 0);
    let second = claim_one(store, "desk", FAR).await;
    let mut settlement = died(&second);
    let fallback = settlement.delivery.fallback(name("room"), Timestamp(1_000));
    settlement.follow_ups.push(fallback);
    store.settle(&settlement).await.unwrap();
    ended(1, 0);
    let fallback = claim_one(store, "room", FAR).await;
    store.settle(&delivered(&fallback)).await.unwrap();
    ended(2, 0);
    accept(store, 4, 4, &["desk"]).await;
    accept(store, 5, 5, &["desk"]).await;
    let lost = claim_one(store, "desk", FAR).await;
    store.settle(&died(&lost)).await.unwrap();
    ended(2, 1);
    assert_eq!(
        store.discard(&Selector::Pending(name("desk")), FAR, "no").await,
        Ok(discarded(1, 0))
    );
    ended(2, 2);
}

pub async fn messages_without_a_delivery_are_counted(store: Arc<dyn Store>) {
    let store = &*store;
    let counted = |kept, unrouted| assert_eq!(store.undelivered(), Undelivered { kept, unrouted });
    counted(0, 0);
    accept(store, 1, 1, &["desk"]).await;
    let kept = accept(store, 2, 2, &[]).await;
    counted(1, 0);
    for n in 3..=4 {
        let mut unrouted = arrival(n, n, &[]);
        unrouted.message.routes = Vec::new();
        store.accept(unrouted).await.unwrap();
    }
    counted(1, 2);
    let delivery = DeliveryId {
        message: kept,
        ordinal: 0,
    };
    let resent = Delivery::new(delivery, name("desk"), None, Timestamp(5));
    store.add_deliveries(kept, vec![resent]).await.unwrap();
    counted(0, 2);
    prune(
        store,
        RetentionCutoffs {
            purge_before: Some(Timestamp(4)),
            ..cutoffs()
        },
    )
    .await;
    counted(0, 1);
}

pub async fn a_message_that_is_sent_again_is_not_counted_again(store: Arc<dyn Store>) {
    let store = &*store;
    let ended = |delivered, dead| assert_eq!(store.ended(), Ended { delivered, dead });
    let id = accept(store, 1, 1, &["desk"]).await;
    let dead = claim_one(store, "desk", FAR).await;
    let mut settlement = died(&dead);
    let fallback = settlement.delivery.fallback(name("room"), Timestamp(1_000));
    settlement.follow_ups.push(fallback);
    store.settle(&settlement).await.unwrap();
    let fallback = claim_one(store, "room", FAR).await;
    store.settle(&delivered(&fallback)).await.unwrap();
    ended(1, 0);
    // Retried although its fallback delivered the message, and resent.
    let ids = Selector::Ids(vec![dead.delivery.id]);
    assert_eq!(store.requeue(&ids, Timestamp(9)).await, Ok(requeued(1)));
    let again = claim_one(store, "desk", FAR).await;
    store.settle(&delivered(&again)).await.unwrap();
    ended(1, 0);
    for dead in [1, 1] {
        let resent = Delivery::resent(id, name("desk"), None, Timestamp(2_000));
        store.add_deliveries(id, vec![resent]).await.unwrap();
        let claim = claim_one(store, "desk", FAR).await;
        store.settle(&died(&claim)).await.unwrap();
        ended(1, dead);
    }
}

pub async fn the_told_problems_are_stored(store: Arc<dyn Store>) {
    assert_eq!(store.notices().await, Ok(None));
    let mut notices = Notices::default();
    for since in 1..3 {
        let problem = Current {
            subject: Subject::Delivery("desk".parse().unwrap()),
            message: "down".to_owned(),
            since: Some(Timestamp(since)),
            delay: std::time::Duration::ZERO,
            dead: 0,
        };
        notices.observe(vec![problem], Timestamp(since));
        store.set_notices(&notices).await.unwrap();
    }
    assert_eq!(store.notices().await, Ok(Some(notices)));
}

pub async fn the_messages_of_the_last_hour_are_stored(store: Arc<dyn Store>) {
    assert_eq!(store.series().await, Ok(None));
    let series = Series::default();
    for accepted in 0..3 {
        let totals = Totals {
            accepted,
            ..Totals::default()
        };
        series.observe(Timestamp(60_000), totals);
        store.set_series(&series.saved()).await.unwrap();
    }
    assert_eq!(store.series().await, Ok(Some(series.saved())));
}
