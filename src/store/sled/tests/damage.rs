//! Random damage to the files of the database.

use super::*;

/// Sixty messages in several of sled's segments, some delivered.
async fn sixty(folder: &Folder) {
    let store = folder.open();
    for n in 1..=60 {
        let mut large = arrival(n, n % 20, &["desk"]);
        large.message.text = text(n);
        store.accept(large).await.unwrap();
    }
    for claim in claim(&store, "desk", FAR).await {
        store.settle(&delivered(&claim)).await.unwrap();
    }
}

fn text(n: u64) -> String {
    format!("text {n} ").repeat(2_000)
}

/// Checks that after damage every pending message is intact, all other messages are correct, and the store is usable.
/// Returns the number of messages.
async fn assert_honest(folder: &Folder, what: &str) -> usize {
    let store = folder.open();
    assert_eq!(
        assert_adds_up(&store).await.pending,
        40,
        "{what}: {}",
        findings(&store)
    );
    until("the history", || !folder.path().join("recovering").exists());
    let found = store
        .messages(&Query {
            limit: 100,
            ..Query::default()
        })
        .await
        .unwrap()
        .items;
    for found in &found {
        assert_eq!(
            found.message.text,
            text(found.message.received_at.0.cast_unsigned()),
            "{what}"
        );
    }
    let counts = assert_adds_up(&store).await;
    let whole = (found.len(), counts.delivered, counts.pending) == (60, 20, 40);
    assert!(
        whole || !findings(&store).is_empty(),
        "{what}: {counts:?} was not reported"
    );
    assert_eq!(
        store.accept(arrival(1_000, 1, &["room"])).await,
        Ok(Acceptance::New),
        "{what}"
    );
    let told = findings(&store);
    drop(store);
    let store = folder.open();
    assert_eq!(
        findings(&store),
        told,
        "{what}: it is reported until it is acknowledged"
    );
    assert_eq!(claim(&store, "room", FAR).await.len(), 1, "{what}");
    found.len()
}

/// sled arranges its log differently every time, so several stores are tested.
#[tokio::test]
async fn a_flipped_bit_or_a_lost_page_in_the_database_loses_no_pending_message() {
    let (mut damages, mut kept) = (0, 0);
    for snapshot in [false, true] {
        let folder = Folder::new();
        sixty(&folder).await;
        if snapshot {
            drop(folder.open());
        }
        let log = std::fs::read(folder.path().join("sled/db")).unwrap();
        let used = log.iter().rposition(|byte| *byte != 0).unwrap();
        for step in 1..12 {
            let copy = Folder::new();
            copy_all(&folder.path(), &copy.path());
            let mut damaged = log.clone();
            let at = used * step / 12;
            match step % 3 {
                0 => damaged[at..(at + 4096).min(used)].fill(0),
                1 => damaged.truncate(at),
                _ => damaged[at] ^= 4,
            }
            std::fs::write(copy.path().join("sled/db"), damaged).unwrap();
            kept += assert_honest(&copy, &format!("snapshot {snapshot}, step {step}, byte {at}")).await;
            damages += 1;
        }
    }
    println!(
        "{kept} of {} messages are there after {damages} damages",
        60 * damages
    );
}

/// Half of the messages of a database are read from its files after its log was lost too.
#[tokio::test]
async fn history_is_recovered_from_the_files_of_a_damaged_database() {
    let folder = Folder::new();
    sixty(&folder).await;
    let store = folder.open();
    store.checkpoint();
    drop(store);
    // A log that begins later contains no delivered messages.
    folder.tamper(|db| flip(db, keys::LEDGER));
    let log = folder.path().join("log");
    let store = folder.open();
    until("the history", || !folder.path().join("recovering").exists());
    assert_eq!(assert_adds_up(&store).await.delivered, 20);
    assert!(log.exists());
}
