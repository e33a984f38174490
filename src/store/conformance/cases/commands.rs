//! Commands of operators: retry, discard, resend and pause.

use super::*;

pub async fn a_requeued_dead_letter_gets_its_original_position(store: Arc<dyn Store>) {
    let first = accept(&*store, 1, 1, &["desk"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(&died(&claim)).await.unwrap();
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
    store.settle(&delivered(&again)).await.unwrap();
    let second = claim_one(&*store, "desk", FAR).await;
    store.settle(&died(&second)).await.unwrap();
    let all = Selector::Dead(name("desk"));
    assert_eq!(store.requeue(&all, Timestamp(3_000)).await, Ok(requeued(1)));
    let oldest = store.backlog(&name("desk")).await.unwrap().oldest;
    assert_eq!(oldest, Some(Timestamp(3_000)), "pending since the retry");
    assert_adds_up(&*store).await;
}

pub async fn pending_deliveries_are_requeued_but_not_claimed_or_ended_ones(store: Arc<dyn Store>) {
    let mut ids = Vec::new();
    for n in 1..=3 {
        let message = accept(&*store, n, n, &["desk"]).await;
        ids.push(DeliveryId { message, ordinal: 1 });
    }
    let claims = claim(&*store, "desk", FAR).await;
    store.settle(&again(&claims[0], Timestamp(5_000))).await.unwrap();
    store.settle(&delivered(&claims[1])).await.unwrap();
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
        store.settle(&delivered(&claims[2])).await,
        Ok(vec![]),
        "the claimed one is unchanged"
    );
}

pub async fn a_due_time_too_far_ahead_is_brought_forward_with_its_date(store: Arc<dyn Store>) {
    let (now, beyond) = (Timestamp(5), Timestamp(50));
    // One conversation each: due in time, created and due too late, retried too late, claimed, not the first.
    for (n, from) in [(5, 1), (9_000, 2), (3, 3), (60, 4), (9_001, 2)] {
        accept(&*store, n, from, &["desk"]).await;
    }
    let mut all = claim(&*store, "desk", FAR).await;
    all.sort_by_key(|claim| claim.message.id);
    assert_eq!(numbers(&all), [3, 5, 60, 9_000]);
    store.settle(&again(&all[0], Timestamp(8_000))).await.unwrap();
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

pub async fn discarding_skips_claimed_deliveries(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    accept(&*store, 4, 2, &["desk"]).await;
    let claim = store.claim(&name("desk"), FAR, 1).await.unwrap().remove(0);
    let discarded = store
        .discard(&Selector::Pending(name("desk")), Timestamp(9), "operator")
        .await;
    assert_eq!(discarded, Ok(super::discarded(3, 1)));
    assert!(super::claim(&*store, "desk", FAR).await.is_empty());
    assert_eq!(store.settle(&delivered(&claim)).await, Ok(vec![]));
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
        Ok(Discarded::default()),
        "dead deliveries cannot be discarded"
    );
}

pub async fn commands_apply_to_a_long_backlog(store: Arc<dyn Store>) {
    for n in 1..=600 {
        accept(&*store, n, n, &["desk"]).await;
    }
    for _ in 0..6 {
        let claims = claim(&*store, "desk", Timestamp(600)).await;
        let outcomes: Vec<Settlement> = claims.iter().map(died).collect();
        let settled = outcomes.iter().map(|outcome| store.settle(outcome));
        let settled = futures_util::future::join_all(settled).await;
        assert!(settled.len() == 100 && settled.iter().all(Result::is_ok));
    }
    let dead = Selector::Dead(name("desk"));
    assert_eq!(store.requeue(&dead, Timestamp(6_000)).await, Ok(requeued(600)));
    let desk = Selector::Pending(name("desk"));
    assert_eq!(store.requeue(&desk, Timestamp(5_500)).await, Ok(requeued(600)));
    let first = claim(&*store, "desk", Timestamp(5_500)).await;
    assert_eq!(numbers(&first), (1..=100).collect::<Vec<_>>());
    assert_eq!(
        store.discard(&desk, Timestamp(7_000), "no").await,
        Ok(discarded(500, 100))
    );
    assert_adds_up(&*store).await;
}

pub async fn a_stored_message_can_be_resent(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(&delivered(&claim)).await.unwrap();
    let more = ["desk", "room"].map(|to| Delivery::new(claim.delivery.id, name(to), None, Timestamp(5)));
    let ids = store.add_deliveries(id, more.to_vec()).await.unwrap();
    assert_eq!(ids, [2, 3].map(|ordinal| DeliveryId { message: id, ordinal }));
    assert_eq!(claim_one(&*store, "desk", FAR).await.delivery.id, ids[0]);
    assert_eq!(claim_one(&*store, "room", FAR).await.delivery.id, ids[1]);
    let unknown = MessageId(uuid::Uuid::from_u128(9));
    assert_eq!(
        store.add_deliveries(unknown, Vec::new()).await,
        Err(Error::NotFound)
    );
    assert_eq!(assert_adds_up(&*store).await.created, 3);
}

pub async fn a_pause_is_stored_until_it_ends(store: Arc<dyn Store>) {
    for _ in 0..2 {
        store.set_paused(&name("desk"), true).await.unwrap();
    }
    store.set_paused(&name("room"), true).await.unwrap();
    store.set_paused(&name("room"), false).await.unwrap();
    assert_eq!(store.paused().await.unwrap(), [name("desk")]);
    assert_eq!(store.destinations().await.unwrap(), [name("desk")]);
}
