//! Removing and redacting messages.

use super::*;

pub async fn pruning_keeps_pending_messages(store: Arc<dyn Store>) {
    for n in 1..=4 {
        accept(&*store, n, n, &["desk"]).await;
    }
    let claims = claim(&*store, "desk", FAR).await;
    store.settle(&delivered(&claims[0])).await.unwrap();
    store.settle(&died(&claims[1])).await.unwrap();
    store.settle(&delivered(&claims[3])).await.unwrap();
    prune(
        &*store,
        RetentionCutoffs {
            purge_before: Some(Timestamp(4)),
            ..cutoffs()
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
    assert_eq!(left, [4, 3], "3 is still pending, 4 is not old enough");
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
    assert_eq!(store.settle(&delivered(&claims[2])).await, Ok(vec![]));
    let mut repeated = arrival(9, 1, &[]);
    repeated.message.provider_id = "ref-1".into();
    let known = store.accept(repeated).await;
    assert_eq!(
        known,
        Ok(Acceptance::Duplicate(claims[0].message.id)),
        "its provider id is still known"
    );
}

pub async fn redaction_removes_text_and_numbers_and_keeps_the_rest(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let waiting = accept(&*store, 2, 2, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(&delivered(&claim)).await.unwrap();
    prune(
        &*store,
        RetentionCutoffs {
            redact_before: Some(Timestamp(5)),
            ..cutoffs()
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
        store.find(waiting).await.unwrap().unwrap().message.text,
        "text 2",
        "still pending"
    );
}

pub async fn a_redacted_message_is_not_requeued(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, n, &["desk", "ops"]).await;
    }
    for destination in ["desk", "ops"] {
        for claim in &claim(&*store, destination, FAR).await {
            store.settle(&died(claim)).await.unwrap();
        }
    }
    let cutoffs = RetentionCutoffs {
        redact_before: Some(Timestamp(3)),
        ..cutoffs()
    };
    prune(&*store, cutoffs).await;
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
