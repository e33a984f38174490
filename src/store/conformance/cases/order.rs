//! Claims: the order within a conversation, and the independence of destinations.

use std::ops::RangeInclusive;

use super::*;

pub async fn messages_of_a_conversation_are_claimed_in_order_one_at_a_time(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    accept(&*store, 4, 2, &["desk"]).await;
    let first = claim(&*store, "desk", FAR).await;
    assert_eq!(numbers(&first), [1, 4], "the first of each conversation");
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "the others are pending"
    );
    store.settle(&delivered(&first[0])).await.unwrap();
    let second = claim(&*store, "desk", FAR).await;
    assert_eq!(numbers(&second), [2]);
    store.settle(&died(&second[0])).await.unwrap();
    assert_eq!(
        numbers(&claim(&*store, "desk", FAR).await),
        [3],
        "a dead letter does not block the conversation"
    );
}

pub async fn a_later_message_never_overtakes_one_that_is_retried(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", Timestamp(5)).await;
    store.settle(&again(&first, Timestamp(1_000))).await.unwrap();
    assert!(
        claim(&*store, "desk", Timestamp(999)).await.is_empty(),
        "the second is due, but not the first of its conversation"
    );
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(Some(Timestamp(1_000)))
    );
    let first = claim_one(&*store, "desk", Timestamp(1_000)).await;
    assert_eq!(numbers(std::slice::from_ref(&first)), [1]);
    assert_eq!(first.delivery.attempts_made, 1);
    store.settle(&delivered(&first)).await.unwrap();
    assert_eq!(numbers(&claim(&*store, "desk", Timestamp(1_000)).await), [2]);
}

pub async fn one_destination_does_not_delay_another(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk", "room"]).await;
    accept(&*store, 2, 1, &["desk", "room"]).await;
    let at_desk = claim_one(&*store, "desk", FAR).await;
    let at_room = claim_one(&*store, "room", FAR).await;
    assert_eq!((at_desk.delivery.id.ordinal, at_room.delivery.id.ordinal), (1, 2));
    store.settle(&delivered(&at_room)).await.unwrap();
    assert_eq!(numbers(&claim(&*store, "room", FAR).await), [2]);
    assert!(claim(&*store, "desk", FAR).await.is_empty());
}

pub async fn due_deliveries_are_claimed_in_the_order_of_acceptance(store: Arc<dyn Store>) {
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

pub async fn a_claimed_delivery_is_not_claimed_again_until_released(store: Arc<dyn Store>) {
    accept(&*store, 1, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", FAR).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty());
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(None),
        "everything is claimed"
    );
    store.release(first.clone()).await;
    let second = claim_one(&*store, "desk", FAR).await;
    assert_eq!(
        store.settle(&delivered(&first)).await,
        Err(Error::LostClaim),
        "the first claim was released"
    );
    store.release(first).await;
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "an old claim releases nothing"
    );
    assert_eq!(store.settle(&delivered(&second)).await, Ok(vec![]));
    assert_eq!(
        store.settle(&delivered(&second)).await,
        Err(Error::LostClaim),
        "it was settled already"
    );
    assert_eq!(assert_adds_up(&*store).await.delivered, 1);
}

pub async fn next_due_is_the_time_of_the_next_claim(store: Arc<dyn Store>) {
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
    store.settle(&delivered(&first)).await.unwrap();
    assert_eq!(
        store.next_due(&name("desk"), Timestamp(1)).await,
        Ok(Some(Timestamp(9)))
    );
    assert_eq!(store.next_due(&name("room"), Timestamp(1)).await, Ok(None));
}

pub async fn overdue_deliveries_are_claimed_by_their_age_alone(store: Arc<dyn Store>) {
    for (n, from) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4)] {
        accept(&*store, n, from, &["desk", "room"]).await;
    }
    let overdue = async |since: RangeInclusive<i64>, limit: usize| {
        let since = Timestamp(*since.start())..=Timestamp(*since.end());
        let overdue = store.claim_overdue(&name("desk"), since, limit).await.unwrap();
        let number = |overdue: &Overdue| overdue.delivery.id.message.0.as_u128();
        let numbers = overdue.iter().map(number).collect::<Vec<_>>();
        (overdue, numbers)
    };
    let first = claim_one(&*store, "desk", Timestamp(1)).await;
    assert_eq!(
        overdue(1..=2, 9).await.1,
        [0; 0],
        "the first is claimed, and before the second"
    );
    store.settle(&again(&first, Timestamp(9_000))).await.unwrap();
    assert_eq!(
        overdue(6..=9_000, 9).await.1,
        [0; 0],
        "the age counts, not the due time"
    );
    let (given_up, numbers) = overdue(1..=4, 2).await;
    assert_eq!(numbers, [1, 3]);
    assert_eq!(given_up[0].delivery.attempts.len(), 1, "as stored");
    let (fourth, numbers) = overdue(1..=4, 9).await;
    assert_eq!(numbers, [4], "claimed ones are not claimed again");
    assert_eq!(claim(&*store, "desk", FAR).await.len(), 1, "the fifth is left");
    for Overdue { delivery, token } in given_up.into_iter().chain(fourth) {
        let settlement = Settlement {
            token,
            delivery: delivery.dead(None, Timestamp(10_000), "given up"),
            follow_ups: Vec::new(),
            thread: None,
        };
        assert_eq!(store.settle(&settlement).await, Ok(vec![]));
        assert_eq!(store.settle(&settlement).await, Err(Error::LostClaim));
    }
    assert_eq!(store.backlog(&name("desk")).await.unwrap().dead, 3);
    let dead = Selector::Dead(name("desk"));
    assert_eq!(store.requeue(&dead, Timestamp(10_001)).await, Ok(requeued(3)));
    assert_eq!(
        overdue(1..=10_000, 9).await.1,
        [0; 0],
        "its age counts from the retry"
    );
    assert_eq!(overdue(10_001..=10_001, 9).await.1, [1, 3, 4]);
    assert_eq!(claim(&*store, "room", Timestamp(5)).await.len(), 4);
    assert_adds_up(&*store).await;
}

pub async fn an_older_message_resent_later_is_claimed_before_newer_ones(store: Arc<dyn Store>) {
    let first = accept(&*store, 1, 1, &["room"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    accept(&*store, 3, 1, &["desk"]).await;
    let second = claim_one(&*store, "desk", FAR).await;
    let id = DeliveryId {
        message: first,
        ordinal: 0,
    };
    store
        .add_deliveries(first, vec![Delivery::new(id, name("desk"), None, Timestamp(9))])
        .await
        .unwrap();
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "one message of a conversation at a time"
    );
    store.settle(&again(&second, Timestamp(10))).await.unwrap();
    for expected in [1, 2, 3] {
        let claim = claim_one(&*store, "desk", FAR).await;
        assert_eq!(claim.message.id.0.as_u128(), expected);
        store.settle(&delivered(&claim)).await.unwrap();
    }
    assert_eq!(assert_adds_up(&*store).await.pending, 1, "the one for the room");
}

pub async fn concurrent_writers_lose_nothing(store: Arc<dyn Store>) {
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
            store.settle(&delivered(&claim)).await.unwrap();
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

pub async fn large_messages_limit_pages_and_claims(store: Arc<dyn Store>) {
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

pub async fn a_thread_belongs_to_a_conversation_at_a_destination(store: Arc<dyn Store>) {
    for n in 1..=2 {
        accept(&*store, n, 1, &["desk", "room"]).await;
    }
    accept(&*store, 3, 2, &["desk"]).await;
    let first = store.claim(&name("desk"), FAR, 1).await.unwrap().remove(0);
    let begun = Settlement {
        thread: Some("1700.42".into()),
        ..delivered(&first)
    };
    store.settle(&begun).await.unwrap();
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

pub async fn backlogs_and_destinations_report_pending_deliveries(store: Arc<dyn Store>) {
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
    store.settle(&died(&claim)).await.unwrap();
    let desk = Backlog {
        pending: 1,
        dead: 1,
        acknowledged: 0,
        oldest: Some(Timestamp(6)),
    };
    assert_eq!(store.backlog(&name("desk")).await, Ok(desk));
}

pub async fn the_oldest_pending_delivery_is_that_of_the_first_message(store: Arc<dyn Store>) {
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
    store.settle(&delivered(&claims[0])).await.unwrap();
    assert_eq!((oldest("desk").await, oldest("room").await), (Some(2), Some(1)));
}

pub async fn the_messages_behind_a_claimed_one_can_be_claimed_with_it(store: Arc<dyn Store>) {
    for n in 1..=5 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    accept(&*store, 6, 2, &["desk"]).await;
    let [first, other] = claim(&*store, "desk", FAR).await.try_into().unwrap();
    let following = async |claim: &Claim, now, limit| {
        let now = Timestamp(now);
        store.claim_following(claim, now, limit).await.unwrap()
    };
    assert!(following(&other, 100, 9).await.is_empty(), "nothing is behind it");
    assert!(following(&first, 1, 9).await.is_empty(), "those are due later");
    let mut behind = following(&first, 4, 2).await;
    assert_eq!(numbers(&behind), [2, 3]);
    assert!(following(&first, 9, 9).await.is_empty(), "those are claimed");
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "the conversation is blocked"
    );
    let discarded_now = store
        .discard(&Selector::Pending(name("desk")), Timestamp(1_000), "operator")
        .await;
    assert_eq!(discarded_now, Ok(discarded(2, 4)));
    // They failed, the last one first. The conversation is free once the first has its outcome.
    store.settle(&again(&behind[1], Timestamp(2_000))).await.unwrap();
    store.settle(&again(&behind[0], Timestamp(2_000))).await.unwrap();
    assert!(claim(&*store, "desk", FAR).await.is_empty());
    store.settle(&again(&first, Timestamp(2_000))).await.unwrap();
    let first = claim_one(&*store, "desk", Timestamp(2_000)).await;
    assert_eq!(first.message.id.0.as_u128(), 1);
    // One is released, and one delivered before the first is.
    behind = following(&first, 2_000, 9).await;
    assert_eq!(numbers(&behind), [2, 3]);
    store.release(behind.remove(1)).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty());
    store.settle(&delivered(&behind[0])).await.unwrap();
    store.settle(&delivered(&first)).await.unwrap();
    assert_eq!(numbers(&claim(&*store, "desk", FAR).await), [3]);
    assert_adds_up(&*store).await;
}
