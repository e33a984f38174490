//! Late deliveries that are handed over to the fallback.

use std::sync::Arc;

use super::*;

/// Those of `desk` that are pending since `until` or longer, at most `limit`.
fn request(until: i64, after: Option<LatePosition>, limit: usize) -> HandOver {
    HandOver {
        destination: name("desk"),
        fallback: name("room"),
        until: Timestamp(until),
        after,
        limit,
        late: "not delivered within 5m".to_owned(),
        outage: None,
        is_hold: false,
        now: Timestamp(100),
    }
}

async fn hand_over(store: &dyn Store, request: HandOver) -> HandedOver {
    store.hand_over(&request).await.unwrap().unwrap()
}

/// The numbers of the messages, with the ordinals of both deliveries.
fn handed(handed: &HandedOver) -> Vec<(u128, u16, u16)> {
    let all = handed.deliveries.iter();
    all.map(|(id, added)| {
        assert_eq!(id.message, added.message);
        (id.message.0.as_u128(), id.ordinal, added.ordinal)
    })
    .collect()
}

pub async fn late_deliveries_are_handed_over_once_claimed_or_not(store: Arc<dyn Store>) {
    // The first two are one conversation. The fourth has no delivery to `desk`, and the fifth one to the fallback.
    for (n, from, to) in [
        (1, 1, &["desk"][..]),
        (2, 1, &["desk"]),
        (3, 2, &["mail", "desk"]),
        (4, 3, &["mail"]),
        (5, 4, &["desk", "room"]),
        (6, 5, &["desk"]),
        (9, 6, &["desk"]),
    ] {
        accept(&*store, n, from, to).await;
    }
    let [first, third] = claim(&*store, "desk", Timestamp(3)).await.try_into().unwrap();
    let desk = store.backlog(&name("desk")).await.unwrap();
    assert_eq!(
        hand_over(&*store, request(0, None, 9)).await,
        HandedOver {
            next: Some(Timestamp(1)),
            ..HandedOver::default()
        }
    );
    let step = hand_over(&*store, request(6, None, 2)).await;
    assert_eq!(
        (handed(&step), step.next),
        (vec![(1, 1, 2), (2, 1, 2)], Some(Timestamp(3)))
    );
    // After a crash it begins again.
    let again = hand_over(&*store, request(6, None, 2)).await;
    assert_eq!(
        (handed(&again), again.next, again.last),
        (vec![], step.next, step.last)
    );
    let step = hand_over(&*store, request(6, step.last, 9)).await;
    assert_eq!(
        (handed(&step), step.next),
        (vec![(3, 2, 3), (6, 1, 2)], Some(Timestamp(9)))
    );
    let last = hand_over(&*store, request(8, step.last, 9)).await;
    assert_eq!(
        (handed(&last), last.next, last.last),
        (vec![], Some(Timestamp(9)), None)
    );
    assert_eq!(
        store.backlog(&name("desk")).await.unwrap(),
        desk,
        "the originals stay pending"
    );

    let mut at_room = claim(&*store, "room", FAR).await;
    assert_eq!(numbers(&at_room), [1, 3, 5, 6]);
    let fallback = at_room.remove(0);
    let late = Some("not delivered within 5m: no attempt has ended yet".to_owned());
    assert_eq!(
        (&fallback.delivery.handed_over, fallback.delivery.origin),
        (&late, Some(1))
    );
    // The claims are still valid. A dead original has no second fallback, and is acknowledged once that has delivered it.
    store.settle(&delivered(&third)).await.unwrap();
    let dead = Settlement {
        follow_ups: vec![first.delivery.fallback(name("room"), Timestamp(110))],
        ..died(&first)
    };
    assert_eq!(store.settle(&dead).await, Ok(vec![]));
    store.settle(&delivered(&fallback)).await.unwrap();
    let found = store.find(first.message.id).await.unwrap().unwrap();
    assert_eq!(found.deliveries.len(), 2);
    assert_eq!(found.state(), MessageState::Delivered);
    // Retried after the fallback has the message: it is not handed over again.
    store
        .requeue(&Selector::Ids(vec![first.delivery.id]), Timestamp(120))
        .await
        .unwrap();
    let retried = hand_over(&*store, request(200, None, 9)).await;
    assert_eq!(handed(&retried), [(9, 1, 2)]);
    assert_adds_up(&*store).await;
}

pub async fn a_late_delivery_that_ends_meanwhile_is_not_handed_over(store: Arc<dyn Store>) {
    let id = accept(&*store, 1, 1, &["desk"]).await;
    accept(&*store, 2, 2, &["desk"]).await;
    let [ended, again_later] = claim(&*store, "desk", FAR).await.try_into().unwrap();
    store.settle(&delivered(&ended)).await.unwrap();
    store
        .settle(&again(&again_later, Timestamp(5_000)))
        .await
        .unwrap();
    let step = hand_over(&*store, request(9, None, 9)).await;
    assert_eq!((handed(&step), step.next), (vec![(2, 1, 2)], None));
    assert_eq!(store.find(id).await.unwrap().unwrap().deliveries.len(), 1);
    accept(&*store, 8, 8, &["mail"]).await;
    let held = HandOver {
        destination: name("mail"),
        is_hold: true,
        ..request(9, None, 9)
    };
    assert_eq!(
        handed(&hand_over(&*store, held).await),
        [],
        "time intervals hold it"
    );
    let room = claim_one(&*store, "room", FAR).await;
    let late = "not delivered within 5m: answer";
    assert_eq!(room.delivery.handed_over.as_deref(), Some(late));
    // Recipients with deliveries of their own have one fallback together, which is not handed over for each.
    accept(&*store, 3, 3, &["desk"]).await;
    let third = claim_one(&*store, "desk", Timestamp(3)).await;
    let parts = ["a", "b"].map(|recipient| third.delivery.split(recipient));
    let divided = Settlement {
        follow_ups: parts.into(),
        ..delivered(&third)
    };
    store.settle(&divided).await.unwrap();
    let step = hand_over(&*store, request(9, None, 9)).await;
    assert_eq!(handed(&step), [(3, 2, 4)]);
    assert_adds_up(&*store).await;
}
