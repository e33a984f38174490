//! The position of a delivery in the queue of its destination.

use std::sync::Arc;

use super::super::*;

pub async fn a_pending_delivery_reports_what_precedes_it(store: Arc<dyn Store>) {
    let store = &*store;
    for (n, from) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
        accept(store, n, from, &["desk", "room"]).await;
    }
    let queued = async |n: u128| {
        let mut queued = store.queued(MessageId(uuid::Uuid::from_u128(n))).await.unwrap();
        assert!(queued.iter().all(|queued| queued.id.message.0.as_u128() == n));
        queued.remove(0)
    };
    let ahead = async |n: u128, now: i64| {
        let turn = queued(n).await.turn;
        store.ahead(&name("desk"), turn, Timestamp(now)).await.unwrap()
    };
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
        [
            ahead(1, 1).await,
            ahead(2, 1).await,
            ahead(3, 1).await,
            ahead(4, 1).await
        ],
        [0, 1, 2, 3]
    );
    // The retry delays only its own conversation.
    store.settle(&again(&first, Timestamp(50))).await.unwrap();
    assert_eq!(queued(1).await.claim, None);
    assert_eq!(queued(4).await.turn.due, Timestamp(50));
    assert_eq!(
        [
            ahead(1, 49).await,
            ahead(2, 49).await,
            ahead(3, 49).await,
            ahead(4, 49).await
        ],
        [1, 2, 0, 3]
    );
    assert_eq!(
        [ahead(1, 50).await, ahead(3, 50).await],
        [0, 2],
        "once it is due, it comes before all newer ones"
    );
    let ended = claim_one(store, "desk", Timestamp(49)).await;
    store.settle(&delivered(&ended)).await.unwrap();
    let left = store.queued(ended.message.id).await.unwrap();
    assert_eq!(
        left.iter().map(|queued| queued.id.ordinal).collect::<Vec<_>>(),
        [2]
    );
    assert_eq!((ahead(1, 49).await, ahead(4, 49).await), (0, 2));
    assert_eq!(
        store.queued(MessageId(uuid::Uuid::from_u128(9))).await,
        Ok(Vec::new())
    );
}

pub async fn an_answered_delivery_lets_the_next_of_its_conversation_be_claimed(store: Arc<dyn Store>) {
    let store = &*store;
    for n in 1..=4 {
        accept(store, n, 1, &["desk"]).await;
    }
    let first = claim_one(store, "desk", FAR).await;
    assert!(claim(store, "desk", FAR).await.is_empty());
    assert!(store.answered(&first).await);
    let second = claim_one(store, "desk", FAR).await;
    assert_eq!(numbers(std::slice::from_ref(&second)), [2]);
    assert!(
        claim(store, "desk", FAR).await.is_empty(),
        "only the first was answered"
    );
    // It stays pending until its own outcome is written.
    assert_eq!(store.backlog(&name("desk")).await.unwrap().pending, 4);
    let all = Selector::Pending(name("desk"));
    assert_eq!(
        store
            .discard(&Selector::Ids(vec![first.delivery.id]), Timestamp(9), "no")
            .await,
        Ok(discarded(0, 1))
    );
    assert!(store.answered(&first).await, "a second answer changes nothing");
    assert!(store.answered(&second).await);
    let third = claim_one(store, "desk", FAR).await;
    store.settle(&delivered(&second)).await.unwrap();
    assert!(claim(store, "desk", FAR).await.is_empty(), "the third is claimed");
    store.settle(&again(&third, Timestamp(50))).await.unwrap();
    assert!(
        claim(store, "desk", Timestamp(49)).await.is_empty(),
        "the third failed, and comes before the fourth"
    );
    store.settle(&delivered(&first)).await.unwrap();
    assert_eq!(store.settle(&delivered(&first)).await, Err(Error::LostClaim));
    assert!(claim(store, "desk", Timestamp(49)).await.is_empty());
    let third = claim_one(store, "desk", Timestamp(50)).await;
    assert_eq!(numbers(std::slice::from_ref(&third)), [3]);
    assert_eq!(
        store.discard(&all, Timestamp(9), "no").await,
        Ok(discarded(1, 1)),
        "the fourth"
    );
    assert!(!store.answered(&third).await, "nothing follows");
    assert!(claim(store, "desk", FAR).await.is_empty());
    store.settle(&delivered(&third)).await.unwrap();
    assert!(!store.answered(&third).await, "it is settled");
    assert_eq!(assert_adds_up(store).await.delivered, 3);
}

pub async fn what_is_due_later_can_be_brought_forward(store: Arc<dyn Store>) {
    let store = &*store;
    for (n, from) in [(1, 1), (2, 2), (3, 3), (4, 1)] {
        accept(store, n, from, &["desk", "room"]).await;
    }
    let claims = claim(store, "desk", Timestamp(10)).await;
    assert_eq!(numbers(&claims), [1, 2, 3]);
    store.settle(&again(&claims[0], Timestamp(90_000))).await.unwrap();
    store.settle(&again(&claims[1], Timestamp(15))).await.unwrap();
    let retried = store.retry_now(&name("desk"), Timestamp(20)).await;
    assert_eq!(
        retried,
        Ok(1),
        "one is due, one claimed, and one behind the first"
    );
    assert_eq!(store.retry_now(&name("desk"), Timestamp(20)).await, Ok(0));
    assert_eq!(numbers(&claim(store, "desk", Timestamp(20)).await), [1, 2]);
    store.settle(&died(&claims[2])).await.unwrap();
    assert_eq!(store.retry_now(&name("desk"), Timestamp(20)).await, Ok(0));
    assert_eq!(store.backlog(&name("desk")).await.unwrap().dead, 1);
}
