//! A backup of each kind of store, restored into each other.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Address, Import, Pool, Postgres, SynchronousCommit, testing};
use crate::model::message::Timestamp;
use crate::store::backup::{Position, Record};
use crate::store::conformance::{accept, again, arrival, claim, delivered, died};
use crate::store::memory::Memory;
use crate::store::sled;
use crate::store::{Acceptance, Counts, MessageState, Query, Settlement, Store};

async fn records(store: &dyn Store) -> Vec<Record> {
    let (mut records, mut next) = (Vec::new(), Some(Position::default()));
    while let Some(from) = next {
        let (part, after) = store.export(from).await.unwrap();
        records.extend(part);
        next = after;
    }
    records
}

/// Pending, delivered, dead, kept and unrouted messages, a thread and a paused destination.
async fn fill(store: &dyn Store) {
    for n in 1..=40 {
        accept(store, n, n % 7, if n % 10 == 0 { &[] } else { &["desk", "room"] }).await;
    }
    for (n, one) in claim(store, "desk", Timestamp(100)).await.iter().enumerate() {
        let settlement = match n % 3 {
            0 => Settlement {
                thread: Some("root\0".to_owned()),
                ..delivered(one)
            },
            1 => died(one),
            _ => again(one, Timestamp(1_000_000)),
        };
        store.settle(&settlement).await.unwrap();
    }
    store.set_paused(&"room".parse().unwrap(), true).await.unwrap();
}

async fn into_database(records: &[Record]) -> Arc<Postgres> {
    let url = testing::database();
    let pool = Pool::new(
        Address::parse(&url, None).unwrap(),
        "one",
        SynchronousCommit::On,
        4,
    );
    let mut import = Import::begin(&pool).await.unwrap();
    for record in records {
        import.add(record.clone()).await.unwrap();
    }
    assert_eq!(import.finish().await.unwrap().0, messages(records));
    assert!(Import::begin(&pool).await.is_err(), "it is not empty any more");
    testing::open(&url, "one", Duration::from_secs(10)).await
}

fn into_folder(records: &[Record]) -> (tempfile::TempDir, sled::Sled) {
    let folder = tempfile::tempdir().unwrap();
    let options = sled::Options::new(folder.path().join("store"), 0);
    let mut import = sled::Import::begin(&options).unwrap();
    for record in records {
        import.add(record.clone()).unwrap();
    }
    import.finish().unwrap();
    let store = sled::Sled::open(&options).unwrap();
    (folder, store)
}

fn messages(records: &[Record]) -> u64 {
    records
        .iter()
        .filter(|record| matches!(record, Record::Message { .. }))
        .count() as u64
}

/// The data that must be the same in every store.
async fn facts(store: &dyn Store) -> (Vec<Record>, Counts, Vec<usize>) {
    let mut kept = records(store).await;
    kept.retain(|record| !matches!(record, Record::Sums(_)));
    // The store in memory does not sort threads.
    kept.sort_by_key(|record| match record {
        Record::Thread { conversation, .. } => Some(*conversation),
        _ => None,
    });
    let mut found = Vec::new();
    for state in [
        MessageState::Pending,
        MessageState::Dead,
        MessageState::Kept,
        MessageState::Unrouted,
    ] {
        let query = Query {
            state: Some(state),
            limit: 100,
            ..Query::default()
        };
        found.push(store.messages(&query).await.unwrap().items.len());
    }
    (kept, store.counts().await.unwrap(), found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_backup_of_one_kind_of_store_is_restored_into_another() {
    let memory: Arc<dyn Store> = Arc::new(Memory::new());
    fill(&*memory).await;
    let expected = facts(&*memory).await;
    assert_eq!(expected.0.len(), 40 + 1 + 3, "messages, a pause and threads");
    let from_memory = into_database(&records(&*memory).await).await;
    assert_eq!(facts(&*from_memory).await, expected);
    let (_folder, folder) = into_folder(&records(&*from_memory).await);
    assert_eq!(facts(&folder).await, expected);
    let from_folder = into_database(&records(&folder).await).await;
    assert_eq!(facts(&*from_folder).await, expected);
    // A message that was stored before is still recognised, and a new one gets a later number.
    accept(&*from_folder, 41, 1, &["desk"]).await;
    let mut repeated = arrival(50, 1, &["desk"]);
    repeated.message.provider_id = "ref-3".to_owned();
    let acceptance = from_folder.accept(repeated).await.unwrap();
    assert!(matches!(acceptance, Acceptance::Duplicate(_)), "{acceptance:?}");
    let newest = from_folder
        .messages(&Query {
            limit: 1,
            ..Query::default()
        })
        .await
        .unwrap();
    assert_eq!(newest.items[0].message.id.0.as_u128(), 41);
}
