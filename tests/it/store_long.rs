//! The store on disk with more messages than in unit tests.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::fixtures::arrival;
use smsbridge::model::message::{MessageId, Timestamp};
use smsbridge::store::backup::{Position, Record};
use smsbridge::store::sled::{Import, ImportError, Options, Sled};
use smsbridge::store::{Query, Store};

const DAY: i64 = 86_400_000;

#[tokio::test]
async fn a_search_in_the_past_finds_the_same_as_reading_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sled::open(&Options::new(folder.path(), 0)).unwrap();
    for n in 0..600 {
        // A clock that is wrong by up to half a day in both directions.
        let at = i64::try_from(n).unwrap() * DAY / 10 + i64::try_from(n * 7 % 13).unwrap() * DAY / 26;
        store.accept(arrival(n, at)).await.unwrap();
    }
    let everything = all(&store, &Query::default()).await;
    assert_eq!(everything.len(), 600);
    for day in [-1, 0, 1, 20, 59, 60, 61, 90] {
        let until = Some(Timestamp(day * DAY));
        let found = all(
            &store,
            &Query {
                until,
                ..Query::default()
            },
        )
        .await;
        let expected = everything
            .iter()
            .filter(|(_, received_at)| *received_at < Timestamp(day * DAY));
        assert!(found.iter().eq(expected), "day {day}");
    }
}

/// Every page of a search: a slow machine gets fewer on each.
async fn all(store: &Sled, query: &Query) -> Vec<(MessageId, Timestamp)> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = store
            .messages(&Query {
                limit: 1_000,
                cursor,
                ..query.clone()
            })
            .await
            .unwrap();
        let shown = page.items.iter();
        all.extend(shown.map(|found| (found.message.id, found.message.received_at)));
        cursor = page.next;
        if cursor.is_none() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_everything_accepted_before_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path().join("one"), 0);
    let store = Arc::new(Sled::open(&options).unwrap());
    for n in 0..1_000 {
        store.accept(arrival(n, 1)).await.unwrap();
    }
    let load = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 1_000..2_000 {
                store.accept(arrival(n, 1)).await.unwrap();
            }
        })
    };
    let mut records = Vec::new();
    let mut position = Some(Position::default());
    while let Some(from) = position {
        let (part, next) = store.export(from).await.unwrap();
        records.extend(part);
        position = next;
    }
    load.await.unwrap();
    let ids: BTreeSet<u128> = records
        .iter()
        .filter_map(|record| match record {
            Record::Message { message, .. } => Some(message.id.0.as_u128()),
            _ => None,
        })
        .collect();
    assert!((0..1_000).all(|n| ids.contains(&n)));

    assert!(
        matches!(Import::begin(&options), Err(ImportError::Open(_))),
        "it is in use"
    );
    let fresh = Options::new(folder.path().join("two"), 0);
    let mut import = Import::begin(&fresh).unwrap();
    for record in records {
        import.add(record).unwrap();
    }
    let restored = ids.len() as u64;
    assert_eq!(import.finish().unwrap(), (restored, restored));
    let copy = Sled::open(&fresh).unwrap();
    assert_eq!(copy.health().findings, Vec::<String>::new(), "it adds up");
    assert_eq!(copy.counts().await.unwrap().pending, restored);
    let desk = "desk".parse().unwrap();
    assert_eq!(
        copy.claim(&desk, Timestamp(2), 100).await.unwrap().len(),
        50,
        "one of each conversation"
    );
    copy.close().await.unwrap();
    drop(copy);
    assert!(matches!(Import::begin(&fresh), Err(ImportError::NotEmpty(_))));
}
