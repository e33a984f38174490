//! Backups.

use std::sync::Arc;

use super::*;
use crate::store::backup::{Part, Position, Record, digest};

/// More messages than one part can hold.
const TEXTS: u64 = 450;

pub(in crate::store::conformance) async fn a_backup_contains_everything_accepted_before_it(
    store: Arc<dyn Store>,
) {
    fill(&store).await;
    let (sums, kept) = (assert_adds_up(&*store).await, everything(&*store).await);
    assert_eq!(kept.len() as u64, TEXTS - 1);

    let (mut records, mut position) = store.export(Position::default()).await.unwrap();
    // Messages accepted from here on are not included.
    accept(&*store, 9_999, 77, &["desk"]).await;
    let mut parts = 1;
    while let Some(from) = position {
        let (more, next): Part = store.export(from).await.unwrap();
        assert!(more.len() < kept.len(), "the size of a part is limited");
        records.extend(more);
        position = next;
        parts += 1;
        assert!(parts < 100, "the backup does not end");
    }

    assert_eq!(
        records.first(),
        Some(&Record::Sums(sums)),
        "the counters come first"
    );
    let mut rest = records.into_iter().skip(1);
    assert_eq!(rest.next(), Some(Record::Paused(name("room"))));
    let (mut found, mut others, mut seqs) = (Vec::new(), Vec::new(), Vec::new());
    for record in rest {
        match record {
            Record::Message {
                seq,
                message,
                deliveries,
            } => {
                seqs.push(seq);
                found.push((message, deliveries));
            }
            other => others.push(other),
        }
    }
    assert!(seqs.is_sorted_by(|earlier, later| earlier < later));
    assert!(found == kept, "the backup contains each message once, as stored");
    assert_eq!(others, forgotten_and_thread());
}

/// Deliveries in every state, one of them with a thread; a paused destination; a removed message whose provider id
/// is still known.
async fn fill(store: &Arc<dyn Store>) {
    accept(&**store, 1, 1, &[]).await;
    let writers: Vec<_> = (0..9)
        .map(|writer| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for n in (2..=TEXTS).filter(|n| n % 9 == writer) {
                    accept(&*store, n, n, &["desk", "room"]).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let thread = Some("1700.42".to_owned());
    let mut at_the_desk = claim(&**store, "desk", Timestamp(20)).await;
    at_the_desk.sort_by_key(|claim| claim.message.id);
    let [first, second, third, ..] = at_the_desk.as_slice() else {
        panic!("too few deliveries are due");
    };
    assert_eq!(numbers(&at_the_desk)[0], 2);
    store
        .settle(&Settlement {
            thread,
            ..delivered(first)
        })
        .await
        .unwrap();
    store
        .settle(&Settlement {
            follow_ups: vec![second.delivery.split("a@example.com")],
            ..died(second)
        })
        .await
        .unwrap();
    store.settle(&again(third, FAR)).await.unwrap();
    store.set_paused(&name("room"), true).await.unwrap();
    let cutoffs = RetentionCutoffs {
        purge_before: Some(Timestamp(2)),
        ..cutoffs()
    };
    prune(&**store, cutoffs).await;
}

/// All stored messages, oldest first.
async fn everything(store: &dyn Store) -> Vec<(Message, Vec<Delivery>)> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        // The size of a page depends on the speed of the machine.
        let query = Query {
            limit: 10_000,
            cursor,
            ..Query::default()
        };
        let page = store.messages(&query).await.unwrap();
        all.extend(
            page.items
                .into_iter()
                .map(|found| (found.message, found.deliveries)),
        );
        cursor = page.next;
        if cursor.is_none() {
            all.reverse();
            return all;
        }
    }
}

fn forgotten_and_thread() -> Vec<Record> {
    let conversation = arrival(2, 2, &[]).message.conversation();
    vec![
        Record::Seen {
            digest: digest(&name("carrier"), "ref-1"),
            id: MessageId(uuid::Uuid::from_u128(1)),
            seq: 1,
            received_at: Timestamp(1),
        },
        Record::Thread {
            destination: name("desk"),
            conversation: conversation.0,
            thread: "1700.42".to_owned(),
            // The end of its attempt.
            at: Timestamp(1_003),
        },
    ]
}
