//! Searching and listing messages and deliveries.

use super::*;

pub async fn messages_are_searched_newest_first_and_page_by_page(store: Arc<dyn Store>) {
    for n in 1..=6 {
        accept(&*store, n, n % 2, &["desk"]).await;
    }
    let all = Query {
        limit: 4,
        ..Query::default()
    };
    let first = store.messages(&all).await.unwrap();
    assert_eq!(ids(&first), [6, 5, 4, 3]);
    let second = store
        .messages(&Query {
            cursor: first.next,
            ..all
        })
        .await
        .unwrap();
    assert_eq!((ids(&second), second.next), (vec![2, 1], None));

    let settled = store.claim(&name("desk"), FAR, 1).await.unwrap().remove(0);
    store.settle(&delivered(&settled)).await.unwrap();
    let base = Query {
        limit: 9,
        ..Query::default()
    };
    let pattern = |text| Some(Pattern::parse(text).unwrap());
    let unrouted = Some(MessageState::Unrouted);
    for (query, expected) in [
        (
            Query {
                from: pattern("*0001"),
                ..base.clone()
            },
            vec![5, 3, 1],
        ),
        (
            Query {
                to: pattern("+13038670000"),
                text: Some("TEXT 3".into()),
                ..base.clone()
            },
            vec![3],
        ),
        (
            Query {
                to: pattern("+1999*"),
                ..base.clone()
            },
            vec![],
        ),
        (
            Query {
                source: Some(name("other")),
                ..base.clone()
            },
            vec![],
        ),
        (
            Query {
                since: Some(Timestamp(3)),
                until: Some(Timestamp(5)),
                ..base.clone()
            },
            vec![4, 3],
        ),
        (
            Query {
                state: Some(MessageState::Delivered),
                ..base.clone()
            },
            vec![1],
        ),
        (
            Query {
                state: Some(MessageState::Pending),
                since: Some(Timestamp(5)),
                ..base.clone()
            },
            vec![6, 5],
        ),
        (
            Query {
                state: unrouted,
                ..base.clone()
            },
            vec![],
        ),
    ] {
        assert_eq!(ids(&store.messages(&query).await.unwrap()), expected, "{query:?}");
    }
}

pub async fn deliveries_are_listed_newest_first_and_page_by_page(store: Arc<dyn Store>) {
    for n in 1..=3 {
        accept(&*store, n, n, &["desk", "room"]).await;
    }
    let claims = claim(&*store, "room", FAR).await;
    store.settle(&died(&claims[0])).await.unwrap();
    store.settle(&died(&claims[1])).await.unwrap();
    for (destination, state, expected) in [
        (None, None, vec![(3, 2), (3, 1), (2, 2), (2, 1), (1, 2), (1, 1)]),
        (Some("room"), None, vec![(3, 2), (2, 2), (1, 2)]),
        (Some("room"), Some(MessageState::Dead), vec![(2, 2), (1, 2)]),
        (
            None,
            Some(MessageState::Pending),
            vec![(3, 2), (3, 1), (2, 1), (1, 1)],
        ),
        (Some("desk"), Some(MessageState::Delivered), vec![]),
    ] {
        let mut query = DeliveryQuery {
            destination: destination.map(name),
            state,
            limit: 1,
            cursor: None,
        };
        let mut listed = Vec::new();
        for _ in 0..=expected.len() {
            let page = store.deliveries(&query).await.unwrap();
            listed.extend(
                page.items
                    .iter()
                    .map(|item| (item.id.message.0.as_u128(), item.id.ordinal)),
            );
            query.cursor = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(listed, expected, "{destination:?} {state:?}");
    }
}
