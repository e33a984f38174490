//! Dead deliveries that need no attention.

use std::sync::Arc;

use super::super::*;
use crate::model::delivery::{AcknowledgedBy, Delivery};

async fn kill(store: &dyn Store, destination: &str, fallback: Option<&str>) -> DeliveryId {
    let claim = claim_one(store, destination, FAR).await;
    let mut settlement = died(&claim);
    let fallback = fallback.map(|fallback| settlement.delivery.fallback(name(fallback), Timestamp(1_000)));
    settlement.follow_ups.extend(fallback);
    store.settle(&settlement).await.unwrap();
    claim.delivery.id
}

async fn delivery(store: &dyn Store, id: DeliveryId) -> Delivery {
    let found = store.find(id.message).await.unwrap().unwrap();
    let mut deliveries = found.deliveries.into_iter();
    deliveries.find(|delivery| delivery.id == id).unwrap()
}

async fn dead(store: &dyn Store, destination: &str) -> (u64, u64) {
    let backlog = store.backlog(&name(destination)).await.unwrap();
    (backlog.dead, backlog.acknowledged)
}

pub async fn acknowledged_deliveries_stay_dead_and_need_no_attention(store: Arc<dyn Store>) {
    let store = &*store;
    for n in 1..=4 {
        accept(store, n, n, &["desk"]).await;
    }
    let first = kill(store, "desk", None).await;
    let second = kill(store, "desk", None).await;
    assert_eq!(dead(store, "desk").await, (2, 0));
    let ids = Selector::Ids(vec![first]);
    assert_eq!(store.acknowledge_dead(&ids, None, Timestamp(5)).await, Ok(1));
    assert_eq!(
        store.acknowledge_dead(&ids, None, Timestamp(6)).await,
        Ok(0),
        "it is acknowledged already"
    );
    assert_eq!(dead(store, "desk").await, (1, 1));
    let acknowledged = delivery(store, first).await;
    assert!(acknowledged.is_dead() && !acknowledged.needs_attention());
    let by = acknowledged.acknowledged.map(|by| (by.at, by.by));
    assert_eq!(by, Some((Timestamp(5), AcknowledgedBy::Operator)));
    let listed = DeliveryQuery {
        destination: Some(name("desk")),
        state: Some(MessageState::Dead),
        limit: 9,
        cursor: None,
    };
    assert_eq!(store.deliveries(&listed).await.unwrap().items.len(), 2);
    let all = Selector::Dead(name("desk"));
    let later = Some(Timestamp(1_001));
    assert_eq!(store.acknowledge_dead(&all, later, Timestamp(7)).await, Ok(0));
    assert_eq!(
        store
            .acknowledge_dead(&all, Some(Timestamp(1_000)), Timestamp(7))
            .await,
        Ok(1)
    );
    assert_eq!(dead(store, "desk").await, (0, 2));
    // Pending ones are skipped; those that an operator discarded need no attention.
    let pending = Selector::Pending(name("desk"));
    assert_eq!(store.acknowledge_dead(&pending, None, Timestamp(7)).await, Ok(0));
    assert_eq!(
        store.discard(&pending, Timestamp(8), "no").await,
        Ok(discarded(2, 0))
    );
    assert_eq!(dead(store, "desk").await, (0, 4));
    // A delivery that is retried and fails again needs attention again.
    assert_eq!(
        store.requeue(&Selector::Ids(vec![second]), Timestamp(9)).await,
        Ok(requeued(1))
    );
    assert_eq!(delivery(store, second).await.acknowledged, None);
    kill(store, "desk", None).await;
    assert_eq!(dead(store, "desk").await, (1, 3));
    assert_adds_up(store).await;
}

pub async fn a_successful_fallback_acknowledges_the_dead_delivery(store: Arc<dyn Store>) {
    let store = &*store;
    accept(store, 1, 1, &["desk"]).await;
    let first = kill(store, "desk", Some("room")).await;
    assert_eq!(dead(store, "desk").await, (1, 0));
    let second = kill(store, "room", Some("hook")).await;
    assert_eq!(
        (dead(store, "desk").await, dead(store, "room").await),
        ((1, 0), (1, 0))
    );
    let claim = claim_one(store, "hook", FAR).await;
    store.settle(&delivered(&claim)).await.unwrap();
    assert_eq!(
        (dead(store, "desk").await, dead(store, "room").await),
        ((0, 1), (0, 1))
    );
    for id in [first, second] {
        let by = delivery(store, id).await.acknowledged.map(|by| by.by);
        assert_eq!(by, Some(AcknowledgedBy::Fallback));
    }
    assert_eq!(
        store
            .acknowledge_dead(&Selector::Ids(vec![first]), None, FAR)
            .await,
        Ok(0)
    );
    // After another failed attempt, the fallback still counts.
    assert_eq!(
        store.requeue(&Selector::Ids(vec![first]), Timestamp(9)).await,
        Ok(requeued(1))
    );
    kill(store, "desk", Some("room")).await;
    assert_eq!(dead(store, "desk").await, (0, 1));
    assert_adds_up(store).await;
}

/// The message's state, verified with every search by state.
async fn state(store: &dyn Store, id: MessageId) -> MessageState {
    let state = store.find(id).await.unwrap().unwrap().state();
    for wanted in [MessageState::Pending, MessageState::Delivered, MessageState::Dead] {
        let query = Query {
            state: Some(wanted),
            limit: 9,
            ..Query::default()
        };
        let found = store.messages(&query).await.unwrap().items;
        let is_found = found.iter().any(|found| found.message.id == id);
        assert_eq!(is_found, wanted == state, "{state:?} by a search for {wanted:?}");
    }
    state
}

pub async fn a_message_that_a_fallback_delivered_is_delivered(store: Arc<dyn Store>) {
    let store = &*store;
    let id = accept(store, 1, 1, &["desk", "crm"]).await;
    let desk = kill(store, "desk", Some("room")).await;
    let crm = kill(store, "crm", None).await;
    assert_eq!(state(store, id).await, MessageState::Pending);
    // With and without an earlier acknowledgement by an operator, the fallback delivers the message.
    let ids = Selector::Ids(vec![desk]);
    assert_eq!(store.acknowledge_dead(&ids, None, Timestamp(5)).await, Ok(1));
    store
        .settle(&delivered(&claim_one(store, "room", FAR).await))
        .await
        .unwrap();
    assert!(delivery(store, desk).await.is_delivered_otherwise());
    assert_eq!(
        state(store, id).await,
        MessageState::Dead,
        "the other one has no fallback"
    );
    assert_eq!(
        store.ended(),
        Ended {
            delivered: 0,
            dead: 1
        }
    );

    let again = Selector::Ids(vec![crm]);
    assert_eq!(store.requeue(&again, Timestamp(6)).await, Ok(requeued(1)));
    store
        .settle(&delivered(&claim_one(store, "crm", FAR).await))
        .await
        .unwrap();
    assert_eq!(state(store, id).await, MessageState::Delivered);
    assert_eq!(
        store.ended(),
        Ended {
            delivered: 1,
            dead: 1
        }
    );
    assert!(delivery(store, desk).await.is_dead(), "the delivery stays dead");

    // After a retry it is pending. When it fails again, the fallback counts again.
    assert_eq!(store.requeue(&ids, Timestamp(9)).await, Ok(requeued(1)));
    assert_eq!(state(store, id).await, MessageState::Pending);
    kill(store, "desk", Some("room")).await;
    assert_eq!(state(store, id).await, MessageState::Delivered);

    let id = accept(store, 2, 2, &["desk"]).await;
    kill(store, "desk", None).await;
    assert_eq!(
        store
            .acknowledge_dead(&Selector::Dead(name("desk")), None, FAR)
            .await,
        Ok(1)
    );
    assert_eq!(
        state(store, id).await,
        MessageState::Dead,
        "an acknowledgement by an operator is not a delivery"
    );
    assert_adds_up(store).await;
}

async fn resend(store: &dyn Store, id: MessageId, destination: &str, at: i64) -> DeliveryId {
    let resent = Delivery::resent(id, name(destination), None, Timestamp(at));
    store.add_deliveries(id, vec![resent]).await.unwrap().remove(0)
}

pub async fn a_resend_that_is_delivered_makes_up_for_the_dead_delivery(store: Arc<dyn Store>) {
    let store = &*store;
    let id = accept(store, 1, 1, &["desk", "room"]).await;
    let first = kill(store, "desk", None).await;
    let room = kill(store, "room", None).await;
    // With and without an earlier acknowledgement by an operator.
    let ids = Selector::Ids(vec![room]);
    assert_eq!(store.acknowledge_dead(&ids, None, Timestamp(5)).await, Ok(1));
    for destination in ["desk", "room"] {
        resend(store, id, destination, 10).await;
        assert_eq!(state(store, id).await, MessageState::Pending);
        let claim = claim_one(store, destination, FAR).await;
        assert!(claim.delivery.is_resent);
        store.settle(&delivered(&claim)).await.unwrap();
        assert_eq!(dead(store, destination).await, (0, 1));
    }
    assert_eq!(state(store, id).await, MessageState::Delivered);
    for id in [first, room] {
        let by = delivery(store, id).await.acknowledged.map(|by| by.by);
        assert_eq!(by, Some(AcknowledgedBy::Delivery));
    }
    // A resend that fails after the delivery needs attention.
    resend(store, id, "desk", 2_000).await;
    kill(store, "desk", None).await;
    assert_eq!(dead(store, "desk").await, (1, 1));
    assert_eq!(state(store, id).await, MessageState::Dead);
    // Seen by an operator, it leaves the message delivered.
    let all = Selector::Dead(name("desk"));
    assert_eq!(store.acknowledge_dead(&all, None, Timestamp(3_000)).await, Ok(1));
    assert_eq!(dead(store, "desk").await, (0, 2));
    assert_eq!(state(store, id).await, MessageState::Delivered);
    // Of two concurrent requests, the one that fails last is covered by the other one.
    let id = accept(store, 2, 2, &["desk"]).await;
    let first = kill(store, "desk", None).await;
    resend(store, id, "desk", 10).await;
    let claim = claim_one(store, "desk", FAR).await;
    assert_eq!(
        store.requeue(&Selector::Ids(vec![first]), Timestamp(20)).await,
        Ok(requeued(1))
    );
    store.settle(&delivered(&claim)).await.unwrap();
    kill(store, "desk", None).await;
    assert_eq!(state(store, id).await, MessageState::Delivered);
    assert_adds_up(store).await;
}

pub async fn a_discarded_resend_of_a_delivered_message_leaves_it_delivered(store: Arc<dyn Store>) {
    let store = &*store;
    let id = accept(store, 1, 1, &["desk"]).await;
    store
        .settle(&delivered(&claim_one(store, "desk", FAR).await))
        .await
        .unwrap();
    let resent = resend(store, id, "desk", 2_000).await;
    let pending = Selector::Pending(name("desk"));
    assert_eq!(store.discard(&pending, FAR, "no").await, Ok(discarded(1, 0)));
    assert_eq!(state(store, id).await, MessageState::Delivered);
    assert_eq!(dead(store, "desk").await, (0, 1));
    let by = delivery(store, resent).await.acknowledged.map(|by| by.by);
    assert_eq!(by, Some(AcknowledgedBy::Delivery));
    // The destination of this one never got the message.
    let id = accept(store, 2, 2, &["desk"]).await;
    kill(store, "desk", None).await;
    resend(store, id, "desk", 2_000).await;
    assert_eq!(store.discard(&pending, FAR, "no").await, Ok(discarded(1, 0)));
    assert_eq!(state(store, id).await, MessageState::Dead);
    assert_eq!(dead(store, "desk").await, (1, 2));
    assert_adds_up(store).await;
}

pub async fn all_dead_deliveries_are_those_that_need_attention(store: Arc<dyn Store>) {
    let store = &*store;
    for n in 1..=3 {
        accept(store, n, n, &["desk"]).await;
    }
    let acknowledged = kill(store, "desk", None).await;
    let ids = Selector::Ids(vec![acknowledged]);
    assert_eq!(store.acknowledge_dead(&ids, None, Timestamp(5)).await, Ok(1));
    kill(store, "desk", Some("room")).await;
    store
        .settle(&delivered(&claim_one(store, "room", FAR).await))
        .await
        .unwrap();
    let third = kill(store, "desk", None).await;
    assert_eq!(dead(store, "desk").await, (1, 2));
    let all = Selector::Dead(name("desk"));
    assert_eq!(store.requeue(&all, Timestamp(9)).await, Ok(requeued(1)));
    assert!(delivery(store, third).await.is_waiting());
    assert_eq!(dead(store, "desk").await, (0, 2));
    // By its id, any dead delivery is retried.
    assert_eq!(store.requeue(&ids, Timestamp(9)).await, Ok(requeued(1)));
    assert_adds_up(store).await;
}
