//! What a store says about the queues of its destinations.

use std::sync::Arc;

use super::super::*;

pub async fn a_pending_delivery_tells_what_comes_before_it(store: Arc<dyn Store>) {
    let store = &*store;
    for (n, from) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
        accept(store, n, from, &["desk", "room"]).await;
    }
    let queued = async |n: u128| {
        let mut queued = store.queued(MessageId(uuid::Uuid::from_u128(n))).await.unwrap();
        assert!(queued.iter().all(|queued| queued.id.message.0.as_u128() == n));
        queued.remove(0)
    };
    let ahead = async |n: u128| store.ahead(&name("desk"), queued(n).await.turn).await.unwrap();
    let behind = |queued: &Queued| queued.behind.map(|id| id.message.0.as_u128());
    let first = claim_one(store, "desk", Timestamp(1)).await;
    assert_eq!(queued(1).await.claim, Some(first.token));
    assert_eq!(
        (behind(&queued(1).await), behind(&queued(2).await)),
        (None, Some(1))
    );
    assert_eq!(
        (behind(&queued(3).await), behind(&queued(4).await)),
        (None, Some(1))
    );
    assert_eq!(
        [ahead(1).await, ahead(2).await, ahead(3).await, ahead(4).await],
        [0, 1, 2, 3]
    );
    // The retry makes its whole conversation wait, and nothing else.
    store.settle(again(&first, Timestamp(50))).await.unwrap();
    assert_eq!(queued(1).await.claim, None);
    assert_eq!(queued(4).await.turn.due, Timestamp(50));
    assert_eq!(
        [ahead(1).await, ahead(2).await, ahead(3).await, ahead(4).await],
        [1, 2, 0, 3]
    );
    let ended = claim_one(store, "desk", Timestamp(49)).await;
    store.settle(delivered(&ended)).await.unwrap();
    let left = store.queued(ended.message.id).await.unwrap();
    assert_eq!(
        left.iter().map(|queued| queued.id.ordinal).collect::<Vec<_>>(),
        [2]
    );
    assert_eq!((ahead(1).await, ahead(4).await), (0, 2));
    assert_eq!(
        store.queued(MessageId(uuid::Uuid::from_u128(9))).await,
        Ok(Vec::new())
    );
}
