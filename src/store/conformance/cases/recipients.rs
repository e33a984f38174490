//! Deliveries for single recipients, and fallbacks.

use super::*;

pub async fn a_fallback_is_created_with_the_next_ordinal(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk", "room"]).await;
    accept(&*store, 2, 1, &["mail"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    let fallback = Delivery::new(claim.delivery.id, name("mail"), None, Timestamp(50));
    let settlement = Settlement {
        follow_ups: vec![fallback],
        ..died(&claim)
    };
    store.settle(&settlement).await.unwrap();
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
        "the older message is first there too"
    );
    store.settle(&delivered(&next)).await.unwrap();
    assert_eq!(numbers(&super::claim(&*store, "mail", FAR).await), [2]);
    assert_eq!(assert_adds_up(&*store).await.created, 4);
}

/// Ends a delivery for the recipients that accepted it, and creates deliveries for these other ones.
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

/// The number of the message and the recipient of each claim.
fn shares(claims: &[Claim]) -> Vec<(u128, Option<&str>)> {
    let share = |claim: &'_ Claim| claim.message.id.0.as_u128();
    claims
        .iter()
        .map(|claim| (share(claim), claim.delivery.recipient.as_deref()))
        .collect()
}

pub async fn a_pending_recipient_does_not_delay_others(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    for n in 2..=3 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    let (desk, recipients) = (name("desk"), ["a", "b", "c"].map(str::to_owned));
    let conversation = arrival(1, 1, &[]).message.conversation();
    let held = async || store.held(&desk, conversation, &recipients).await.unwrap();
    let first = claim_one(&*store, "desk", Timestamp(1_000)).await;
    let ids = store.settle(&divided(&first, &["b", "c"])).await.unwrap();
    assert_eq!(ids.iter().map(|id| id.ordinal).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(held().await, ["b", "c"]);
    assert!(
        store
            .held(&name("room"), conversation, &recipients)
            .await
            .unwrap()
            .is_empty(),
        "no recipient is pending at other destinations"
    );

    let second = claim_one(&*store, "desk", Timestamp(1_000)).await;
    assert_eq!(shares(std::slice::from_ref(&second)), [(2, None)]);
    store.settle(&divided(&second, &["b"])).await.unwrap();
    let due = claim(&*store, "desk", Timestamp(1_500)).await;
    assert_eq!(
        shares(&due),
        [(1, Some("b")), (1, Some("c")), (3, None)],
        "the first of each recipient, and the next message for all"
    );
    assert_eq!(due[0].delivery.key(), first.delivery.id);
    assert_eq!(held().await, ["b", "c"], "also while they are claimed");
    for claim in &due[..2] {
        store.settle(&delivered(claim)).await.unwrap();
    }
    assert_eq!(held().await, ["b"]);
    assert_eq!(shares(&claim(&*store, "desk", FAR).await), [(2, Some("b"))]);
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!(found.state(), MessageState::Delivered);
    let counts = assert_adds_up(&*store).await;
    assert_eq!((counts.created, counts.delivered, counts.pending), (6, 4, 2));
}

pub async fn a_delivery_that_no_recipient_accepted_becomes_that_of_its_first_recipient(
    store: Arc<dyn Store>,
) {
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
    let ids = store.settle(&settlement).await.unwrap();
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

pub async fn recipients_that_fail_one_by_one_cause_one_fallback(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", FAR).await;
    store.settle(&divided(&first, &["a", "b"])).await.unwrap();
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
        store.settle(&settlement).await.unwrap();
        assert_eq!(fallbacks().await, expected);
    }
    let taken_over = claim_one(&*store, "room", FAR).await;
    assert_eq!(taken_over.delivery.origin, Some(1));
    store.settle(&died(&taken_over)).await.unwrap();
    // The fallback failed. A retry of one recipient that fails again creates another fallback.
    store
        .requeue(&Selector::Dead(name("desk")), Timestamp(60))
        .await
        .unwrap();
    let again = claim(&*store, "desk", FAR).await;
    let settlement = Settlement {
        follow_ups: vec![again[0].delivery.fallback(name("room"), Timestamp(70))],
        ..died(&again[0])
    };
    store.settle(&settlement).await.unwrap();
    assert_eq!(fallbacks().await, 2);
    assert_adds_up(&*store).await;
}

pub async fn a_destination_that_has_a_message_does_not_get_it_as_a_fallback(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk", "mail", "room"]).await;
    let settle = async |from: &str, to: &str| {
        let claim = claim_one(&*store, from, FAR).await;
        let settlement = Settlement {
            follow_ups: vec![claim.delivery.fallback(name(to), Timestamp(50))],
            ..died(&claim)
        };
        store.settle(&settlement).await.unwrap().len()
    };
    // The message is pending for `mail`, and is delivered there later.
    assert_eq!(settle("desk", "mail").await, 0);
    let mail = claim_one(&*store, "mail", FAR).await;
    store.settle(&delivered(&mail)).await.unwrap();
    assert_eq!(settle("room", "mail").await, 0);
    // A dead delivery at the fallback destination is retried.
    store
        .requeue(&Selector::Dead(name("room")), Timestamp(60))
        .await
        .unwrap();
    assert_eq!(settle("room", "desk").await, 1);
    let found = store.find(id).await.unwrap().unwrap();
    assert_eq!(found.deliveries.len(), 4);
    assert_adds_up(&*store).await;
}
