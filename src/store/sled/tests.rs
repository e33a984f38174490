//! Tests of what only this store has: a disk, and its failures.

use super::threads::WAITING_MAX;
use super::*;
use crate::model::delivery::State;
use crate::store::conformance::{
    FAR, accept, again, arrival, assert_adds_up, claim, claim_one, delivered, died, name, numbers, requeued,
};
use crate::store::{MessageState, Store};

mod model;

pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn options(&self) -> Options {
        Options::new(self.0.path().join("store"), 0)
    }

    pub(super) fn open(&self) -> Sled {
        Sled::open(&self.options()).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// Accesses the entries directly, to simulate a bad disk.
    fn tamper(&self, change: impl FnOnce(&::sled::Db)) {
        let config = ::sled::Config::new()
            .path(self.path().join("sled"))
            .flush_every_ms(None);
        // A process started by another test at this moment holds the lock until it calls `exec`.
        let db = database::patiently(|| config.clone().open(), database::is_locked).unwrap();
        change(&db);
        db.flush().unwrap();
    }

    fn named(&self, start: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start))
            .collect()
    }
}

fn flip(db: &::sled::Db, key: &[u8]) {
    let mut value = db.get(key).unwrap().unwrap().to_vec();
    let last = value.len() - 1;
    value[last] ^= 1;
    db.insert(key, value).unwrap();
}

fn place(seq: u64, ordinal: u16) -> keys::Place {
    keys::Place { seq, ordinal }
}

impl Sled {
    /// Waits until the database contains all commits.
    pub(super) fn checkpoint(&self) {
        self.shared.progress.renewed(self.shared.progress.renewed_from());
        until("the checkpoint", || {
            self.shared.overlay.bytes().1 == 0 || self.health().failed.is_some()
        });
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn findings(store: &Sled) -> String {
    store.health().findings.join("; ")
}

/// Three messages of one conversation: the first delivered, the second dead, the third pending.
async fn three(store: &Sled) {
    for n in 1..=3 {
        accept(store, n, 1, &["desk"]).await;
    }
    let first = claim_one(store, "desk", FAR).await;
    store
        .settle(&Settlement {
            thread: Some("root".into()),
            ..delivered(&first)
        })
        .await
        .unwrap();
    store
        .settle(&died(&claim_one(store, "desk", FAR).await))
        .await
        .unwrap();
    store.set_paused(&name("room"), true).await.unwrap();
}

async fn assert_three(store: &Sled) {
    let backlog = Backlog {
        pending: 1,
        dead: 1,
        acknowledged: 0,
        oldest: Some(Timestamp(3)),
    };
    assert_eq!(store.backlog(&name("desk")).await, Ok(backlog));
    assert_eq!(store.paused().await.unwrap(), [name("room")]);
    let third = claim_one(store, "desk", FAR).await;
    assert_eq!(
        (third.message.text.as_str(), third.thread.as_deref()),
        ("text 3", Some("root"))
    );
    store.release(third).await;
    let counts = assert_adds_up(store).await;
    assert_eq!(
        (counts.accepted, counts.delivered, counts.dead, counts.pending),
        (3, 1, 1, 1)
    );
    assert_eq!(findings(store), "");
}

#[tokio::test]
async fn a_reopened_store_has_all_data_and_no_leases() {
    let folder = Folder::new();
    let store = folder.open();
    three(&store).await;
    claim_one(&store, "desk", FAR).await;
    store.close().await.unwrap();
    assert!(matches!(store.counts().await, Ok(counts) if counts.accepted == 3));
    assert!(
        matches!(store.accept(arrival(9, 9, &[])).await, Err(Error::Failed(_))),
        "it is closed"
    );
    drop(store);
    for _ in 0..2 {
        assert_three(&folder.open()).await;
    }
}

#[tokio::test]
async fn a_reopened_store_distinguishes_kept_and_delivered_messages_without_reading_them() {
    let folder = Folder::new();
    let store = folder.open();
    accept(&store, 1, 1, &["desk"]).await;
    let claimed = claim_one(&store, "desk", FAR).await;
    store.settle(&delivered(&claimed)).await.unwrap();
    accept(&store, 2, 1, &[]).await;
    store.close().await.unwrap();
    drop(store);
    let store = folder.open();
    let table = store.shared.index.table();
    let may_be = |state| [1, 2].map(|seq| table.get(seq).unwrap().may_be(state));
    assert_eq!(may_be(MessageState::Delivered), [true, false]);
    assert_eq!(may_be(MessageState::Kept), [false, true]);
    assert_eq!((table.undelivered().kept, table.undelivered().unrouted), (1, 0));
}

#[tokio::test]
async fn a_reopened_store_distinguishes_dead_messages_and_those_delivered_by_a_fallback_without_reading_them()
{
    let folder = Folder::new();
    let store = folder.open();
    for n in [1, 2] {
        accept(&store, n, n, &["desk"]).await;
        let mut dead = died(&claim_one(&store, "desk", FAR).await);
        let fallback = dead.delivery.fallback(name("room"), Timestamp(9));
        dead.follow_ups.push(fallback);
        store.settle(&dead).await.unwrap();
    }
    let first = claim_one(&store, "room", FAR).await;
    store.settle(&delivered(&first)).await.unwrap();
    store
        .settle(&died(&claim_one(&store, "room", FAR).await))
        .await
        .unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = folder.open();
    let table = store.shared.index.table();
    let may_be = |state| [1, 2].map(|seq| table.get(seq).unwrap().may_be(state));
    assert_eq!(may_be(MessageState::Delivered), [true, false]);
    assert_eq!(may_be(MessageState::Dead), [false, true]);
}

#[tokio::test]
async fn acknowledged_messages_are_on_disk_without_closing_the_store() {
    let folder = Folder::new();
    let store = folder.open();
    three(&store).await;
    let copy = Folder::new();
    copy_all(&folder.path(), &copy.path());
    assert_three(&copy.open()).await;
    assert_three(&store).await;
}

#[tokio::test]
async fn a_claim_needs_the_disk_only_for_older_messages_and_threads() {
    let folder = Folder::new();
    let store = folder.open();
    let is_recent = |store: &Sled| {
        let slots = store.shared.hold_due(&name("desk"), FAR, 9);
        assert_eq!(slots.len(), 1);
        let is_recent = store.shared.are_recent(&slots);
        store.shared.leases.free(&slots[0].queue);
        store.shared.index.free(&[slots[0].queue.clone()]);
        is_recent
    };
    accept(&store, 1, 1, &["desk", "room"]).await;
    assert!(is_recent(&store));
    let settlement = |claim: &Claim| Settlement {
        thread: Some("1.2".to_owned()),
        ..delivered(claim)
    };
    let at_room = claim_one(&store, "room", FAR).await;
    store.settle(&settlement(&at_room)).await.unwrap();
    assert!(is_recent(&store), "only the other destination has threads");
    store.close().await.unwrap();
    drop(store);
    let store = folder.open();
    assert!(!is_recent(&store));
    let first = claim_one(&store, "desk", FAR).await;
    store.settle(&settlement(&first)).await.unwrap();
    accept(&store, 2, 1, &["desk"]).await;
    assert!(is_recent(&store), "its thread is recent as well");
    store.close().await.unwrap();
    drop(store);
    let store = folder.open();
    let second = claim_one(&store, "desk", FAR).await;
    assert_eq!(second.thread.as_deref(), Some("1.2"));
    store.settle(&delivered(&second)).await.unwrap();
    accept(&store, 3, 1, &["desk"]).await;
    assert!(!is_recent(&store), "its thread is not");
    assert_eq!(
        claim_one(&store, "desk", FAR).await.thread.as_deref(),
        Some("1.2")
    );
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A damaged record of the database is recovered from the log, and reported until the operator acknowledges it.
#[tokio::test]
async fn a_damaged_record_is_recovered_and_reported_until_it_is_acknowledged() {
    for key in [
        keys::part(&keys::message(4), 2),
        keys::message(3),
        keys::delivery(place(1, 1)),
        keys::LEDGER.to_vec(),
    ] {
        let folder = Folder::new();
        let store = folder.open();
        three(&store).await;
        let mut long = arrival(4, 1, &["room"]);
        long.message.text = "x".repeat(20_000);
        let id = long.message.id;
        store.accept(long).await.unwrap();
        drop(store);
        folder.tamper(|db| flip(db, &key));
        for _ in 0..2 {
            let store = folder.open();
            assert!(
                findings(&store).contains("the database was damaged (a record is damaged)"),
                "{}",
                findings(&store)
            );
            until("the history", || !folder.path().join("recovering").exists());
            assert_eq!(store.find(id).await.unwrap().unwrap().message.text.len(), 20_000);
            let counts = assert_adds_up(&store).await;
            assert_eq!(
                (counts.accepted, counts.delivered, counts.dead, counts.pending),
                (4, 1, 1, 2)
            );
            assert_eq!(numbers(&claim(&store, "desk", FAR).await), [3]);
        }
        assert_eq!(
            folder.named("damaged-store").len(),
            1,
            "the damaged database is kept"
        );
        let store = folder.open();
        assert_eq!(store.acknowledge().await, Ok(2));
        assert_eq!(findings(&store), "");
        drop(store);
        assert_eq!(findings(&folder.open()), "");
    }
}

#[tokio::test]
async fn missing_records_are_detected_and_recovered_from_the_log() {
    for key in [
        keys::message(3),
        keys::delivery(place(2, 1)),
        keys::LEDGER.to_vec(),
    ] {
        let folder = Folder::new();
        three(&folder.open()).await;
        folder.tamper(|db| assert!(db.remove(&key).unwrap().is_some()));
        let store = folder.open();
        assert!(
            findings(&store).contains("where there should be"),
            "{}",
            findings(&store)
        );
        until("the history", || !folder.path().join("recovering").exists());
        store.acknowledge().await.unwrap();
        assert_three(&store).await;
    }
}

#[tokio::test]
async fn a_missing_or_outdated_database_is_recovered_from_the_log() {
    let folder = Folder::new();
    let store = folder.open();
    accept(&store, 1, 1, &["desk"]).await;
    drop(store);
    let older = Folder::new();
    copy_all(&folder.path().join("sled"), &older.path());
    three_more(&folder.open()).await;
    for database in [None, Some(older.path())] {
        let copy = Folder::new();
        copy_all(&folder.path(), &copy.path());
        std::fs::remove_dir_all(copy.path().join("sled")).unwrap();
        if let Some(older) = database {
            copy_all(&older, &copy.path().join("sled"));
        }
        let store = copy.open();
        assert_eq!(findings(&store), "", "the log has all of it");
        assert_eq!(assert_adds_up(&store).await.pending, 4);
    }
}

async fn three_more(store: &Sled) {
    for n in 2..=4 {
        accept(store, n, n, &["desk"]).await;
    }
}

/// Damage of the log is harmless while the database is sound, and the log is complete again afterwards.
#[tokio::test]
async fn a_damaged_log_is_rewritten_from_the_database() {
    for damage in 0..3 {
        let folder = Folder::new();
        three(&folder.open()).await;
        let segment = &files(&folder.path().join("log"))[0];
        match damage {
            0 => std::fs::remove_file(segment).unwrap(),
            1 => std::fs::write(segment, vec![0; 4 << 20]).unwrap(),
            _ => {
                let mut bytes = std::fs::read(segment).unwrap();
                bytes[300] ^= 1;
                std::fs::write(segment, bytes).unwrap();
            }
        }
        let store = folder.open();
        assert!(
            findings(&store).contains("the log was damaged"),
            "{}",
            findings(&store)
        );
        until("the renewal", || store.shared.progress.renewed_from() > 0);
        store.acknowledge().await.unwrap();
        assert_three(&store).await;
        drop(store);
        std::fs::remove_dir_all(folder.path().join("sled")).unwrap();
        let store = folder.open();
        assert_eq!(
            assert_adds_up(&store).await.pending,
            1,
            "damage {damage}: {}",
            findings(&store)
        );
        let third = claim_one(&store, "desk", FAR).await;
        assert_eq!(
            (third.message.text.as_str(), third.thread.as_deref()),
            ("text 3", Some("root"))
        );
        assert_eq!(store.paused().await.unwrap(), [name("room")]);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// A dead delivery may be retried long after its message was removed from the log.
#[tokio::test]
async fn a_message_that_is_pending_again_is_in_the_log_again() {
    let folder = Folder::new();
    let store = folder.open();
    three(&store).await;
    let first = store
        .find(MessageId(uuid::Uuid::from_u128(1)))
        .await
        .unwrap()
        .unwrap()
        .message
        .id;
    let renew = |store: &Sled| {
        let before = store.shared.progress.renewed_from();
        let requests = store.threads.requests.clone();
        let renewal = std::thread::spawn(move || {
            let renewal = requests.ask(|batch| batch.begin_renewal()).unwrap();
            assert_eq!(requests.ask(move |batch| batch.renew(renewal, 0)).unwrap(), None);
            renewal.first
        });
        let from = renewal.join().unwrap();
        assert!(from > before);
        store.shared.progress.renewed(from);
        until("the old segments to go", || {
            files(&folder.path().join("log")).len() <= 2
        });
    };
    renew(&store);
    let requeued = store
        .requeue(&Selector::Dead(name("desk")), Timestamp(5))
        .await
        .unwrap();
    assert_eq!(requeued.touched, 1);
    let again = Delivery::new(
        DeliveryId {
            message: first,
            ordinal: 0,
        },
        name("mail"),
        None,
        Timestamp(9),
    );
    store.add_deliveries(first, vec![again]).await.unwrap();
    for lost in [false, true] {
        if lost {
            renew(&store);
        }
        store.checkpoint();
        let copy = Folder::new();
        copy_all(&folder.path(), &copy.path());
        std::fs::remove_dir_all(copy.path().join("sled")).unwrap();
        let store = copy.open();
        assert_eq!(assert_adds_up(&store).await.pending, 3);
        assert_eq!(numbers(&claim(&store, "desk", FAR).await), [2]);
        let mail = claim_one(&store, "mail", FAR).await;
        assert_eq!(
            (mail.message.text.as_str(), mail.delivery.id.ordinal),
            ("text 1", 2)
        );
    }
}

/// A record that the database has lost is only in older segments of the log, so these must not be removed.
#[tokio::test]
async fn a_renewal_that_finds_damage_fails_the_store_and_keeps_the_log() {
    let folder = Folder::new();
    let store = folder.open();
    three(&store).await;
    store.checkpoint();
    flip(&store.shared.overlay.db(), &keys::message(3));
    let requests = store.threads.requests.clone();
    let renewed = std::thread::spawn(move || {
        let renewal = requests.ask(|batch| batch.begin_renewal()).unwrap();
        requests.ask(move |batch| batch.renew(renewal, 0))
    });
    assert!(matches!(renewed.join().unwrap(), Err(Error::Failed(_))));
    drop(store);
    let store = folder.open();
    assert_eq!(assert_adds_up(&store).await.pending, 1);
    assert_eq!(claim_one(&store, "desk", FAR).await.message.text, "text 3");
}

#[tokio::test]
async fn a_damaged_message_found_at_run_time_blocks_its_conversation_and_is_reported() {
    let folder = Folder::new();
    let store = folder.open();
    accept(&store, 1, 1, &["desk"]).await;
    accept(&store, 2, 1, &["desk"]).await;
    accept(&store, 3, 2, &["desk"]).await;
    store.checkpoint();
    flip(&store.shared.overlay.db(), &keys::message(1));
    assert_eq!(numbers(&claim(&store, "desk", FAR).await), [3]);
    assert!(
        findings(&store).contains("message 1 cannot be read"),
        "{}",
        findings(&store)
    );
    drop(store);
    assert_eq!(numbers(&claim(&folder.open(), "desk", FAR).await), [1, 3]);
}

#[tokio::test]
async fn a_provider_id_is_kept_for_the_deduplication_window_after_its_message_is_removed() {
    let folder = Folder::new();
    let store = folder.open();
    let original = arrival(1, 1, &[]);
    let id = original.message.id;
    store.accept(original).await.unwrap();
    accept(&store, 2, 1, &[]).await;
    let cutoffs = RetentionCutoffs {
        purge_before: Some(Timestamp(100)),
        redact_before: None,
        dedup_before: Timestamp(0),
    };
    while store.prune(&cutoffs, Timestamp(200)).await.unwrap() {}
    let assert_known = async |store: &Sled| {
        assert!(store.find(id).await.unwrap().is_none());
        assert_eq!(
            store.accept(arrival(1, 1, &[])).await,
            Ok(Acceptance::Duplicate(id))
        );
    };
    assert_known(&store).await;
    drop(store);
    let store = folder.open();
    assert_known(&store).await;
    let later = RetentionCutoffs {
        dedup_before: Timestamp(100),
        ..cutoffs
    };
    while store.prune(&later, Timestamp(200)).await.unwrap() {}
    store.checkpoint();
    assert_eq!(store.shared.overlay.db().scan_prefix([keys::SEEN]).count(), 0);
    assert_eq!(store.accept(arrival(1, 1, &[])).await, Ok(Acceptance::New));
}

#[tokio::test]
async fn a_store_in_use_is_not_opened_twice() {
    let folder = Folder::new();
    let _store = folder.open();
    let error = Sled::open(&folder.options()).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_store_is_rejected() {
    let folder = Folder::new();
    drop(folder.open());
    let format = folder.path().join("format");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "smsbridge store 4\n");
    std::fs::write(&format, "smsbridge store 5\n").unwrap();
    let error = Sled::open(&folder.options()).err().unwrap();
    assert!(
        error
            .to_string()
            .ends_with("has format 5, this version reads up to 4: use the newer version"),
        "{error}"
    );
}

#[tokio::test]
async fn a_full_disk_rejects_only_new_messages() {
    let folder = Folder::new();
    let store = folder.open();
    for n in 1..=3 {
        accept(&store, n, n, &["desk"]).await;
    }
    drop(store);
    let store = Sled::open(&Options {
        min_free: u64::MAX,
        ..folder.options()
    })
    .unwrap();
    assert!(store.health().full);
    let refused = store.accept(arrival(4, 1, &["desk"])).await;
    assert!(
        matches!(refused, Err(Error::Full { needed: u64::MAX, .. })),
        "{refused:?}"
    );
    let known = store.accept(arrival(1, 1, &["desk"])).await;
    assert!(
        matches!(known, Ok(Acceptance::Duplicate(_))),
        "a stored message is acknowledged as a duplicate"
    );
    let claims = claim(&store, "desk", FAR).await;
    store.settle(&delivered(&claims[0])).await.unwrap();
    store.settle(&again(&claims[1], Timestamp(2_000))).await.unwrap();
    store.settle(&died(&claims[2])).await.unwrap();
    assert_eq!(
        store.requeue(&Selector::Dead(name("desk")), Timestamp(5)).await,
        Ok(requeued(1))
    );
    assert_eq!(assert_adds_up(&store).await.accepted, 3);
}

#[tokio::test]
async fn an_incomplete_snapshot_is_removed_and_a_damaged_one_set_aside() {
    let folder = Folder::new();
    three(&folder.open()).await;
    drop(folder.open());
    let sled = folder.path().join("sled");
    std::fs::write(sled.join("snap.000000000000FFFF.generating"), "half").unwrap();
    let store = folder.open();
    assert_three(&store).await;
    drop(store);
    assert!(!sled.join("snap.000000000000FFFF.generating").exists());

    let snapshots: Vec<_> = std::fs::read_dir(&sled)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let snapshots: Vec<_> = snapshots
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains("/snap."))
        .collect();
    assert!(!snapshots.is_empty());
    for snapshot in snapshots {
        let mut bytes = std::fs::read(&snapshot).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&snapshot, bytes).unwrap();
    }
    let store = folder.open();
    until("the history", || !folder.path().join("recovering").exists());
    store.acknowledge().await.unwrap();
    assert_three(&store).await;
}

#[tokio::test]
async fn after_a_failure_every_operation_is_an_error() {
    let folder = Folder::new();
    let store = folder.open();
    accept(&store, 1, 1, &["desk"]).await;
    let held = claim_one(&store, "desk", FAR).await;
    let before = (store.counts().await, store.backlog(&name("desk")).await);
    let failed = store
        .threads
        .write(|batch| -> Result<(), Error> {
            batch.accept(incoming(arrival(2, 2, &["desk"])))?;
            Err(Error::Failed("the disk is gone".into()))
        })
        .await;
    let expected = Error::Failed("the disk is gone".into());
    assert_eq!(failed, Err(expected.clone()));
    assert_eq!(
        store.accept(arrival(2, 2, &["desk"])).await,
        Err(expected.clone())
    );
    assert_eq!(store.settle(&delivered(&held)).await, Err(expected.clone()));
    assert!(matches!(store.claim(&name("desk"), FAR, 1).await, Err(error) if error == expected));
    assert_eq!(store.health().failed.as_deref(), Some("the disk is gone"));
    let after = (store.counts().await, store.backlog(&name("desk")).await);
    assert_eq!(after, before, "what is not on disk is not counted");
    drop(store);
    assert_eq!(numbers(&claim(&folder.open(), "desk", FAR).await), [1]);
}

#[tokio::test]
async fn a_failed_change_fails_its_whole_group() {
    let folder = Folder::new();
    let store = Arc::new(folder.open());
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let blocker = Arc::clone(&store);
    let blocker = tokio::spawn(async move {
        blocker
            .threads
            .write(move |_| {
                let _ = held.recv();
                Ok(())
            })
            .await
    });
    while store.health().commit_running.is_none() {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (1..=3)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.accept(arrival(n, n, &["desk"])).await })
        })
        .collect();
    let failing = Arc::clone(&store);
    let failing = tokio::spawn(async move {
        failing
            .threads
            .write(|_| -> Result<(), Error> { Err(Error::Failed("no".into())) })
            .await
    });
    while store.threads.requests().unwrap().capacity() > WAITING_MAX - 4 {
        tokio::task::yield_now().await;
    }
    drop(hold);
    blocker.await.unwrap().unwrap();
    assert!(failing.await.unwrap().is_err());
    for other in others {
        assert_eq!(other.await.unwrap(), Err(Error::Failed("no".into())));
    }
    drop(store);
    assert_eq!(assert_adds_up(&folder.open()).await.accepted, 0);
}

#[tokio::test]
async fn a_slow_commit_times_out_and_a_full_queue_is_an_error() {
    let folder = Folder::new();
    let store = Sled::open(&Options {
        commit_deadline: Duration::from_millis(50),
        ..folder.options()
    })
    .unwrap();
    let store = Arc::new(store);
    let (hold, held) = std::sync::mpsc::channel::<()>();
    assert_eq!(
        store
            .threads
            .write(move |_| {
                let _ = held.recv();
                Ok(())
            })
            .await,
        Err(Error::Slow)
    );
    assert!(store.health().commit_running.is_some());
    let waiting: Vec<_> = (1..=WAITING_MAX as u64)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.accept(arrival(n, n % 100, &[])).await })
        })
        .collect();
    while store.threads.requests().unwrap().capacity() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.accept(arrival(5_000, 1, &[])).await, Err(Error::Busy));
    assert_eq!(
        store.set_paused(&name("desk"), true).await,
        Err(Error::Busy),
        "the writer did not get the request"
    );
    for accept in waiting {
        assert_eq!(accept.await.unwrap(), Err(Error::Slow));
    }
    drop(hold);
    drop(store);
    assert_eq!(
        assert_adds_up(&folder.open()).await.accepted,
        WAITING_MAX as u64,
        "the request was executed"
    );
}

#[tokio::test]
async fn no_entry_is_large_enough_for_a_blob_file_of_sled() {
    let folder = Folder::new();
    let store = folder.open();
    let mut large = arrival(1, 1, &[]);
    large.message.text = "x".repeat(65_536);
    large.message.extra = [("field".to_owned(), "y".repeat(65_536))].into();
    let id = large.message.id;
    store.accept(large).await.unwrap();
    let mut delivery = Delivery::new(
        DeliveryId {
            message: id,
            ordinal: 1,
        },
        name("desk"),
        None,
        Timestamp(1),
    );
    delivery.progress = (0..500).map(|n| format!("recipient-{n}@example.com")).collect();
    delivery.state = State::Waiting { due: Timestamp(1) };
    store.add_deliveries(id, vec![delivery.clone()]).await.unwrap();
    assert_eq!(store.find(id).await.unwrap().unwrap().deliveries, [delivery]);
    store.checkpoint();
    for entry in store.shared.overlay.db().iter() {
        let (key, value) = entry.unwrap();
        assert!(key.len() + value.len() <= 4_096, "{key:?}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path().join("sled/blobs"))
            .unwrap()
            .count(),
        0
    );
}

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

/// Messages are added and removed while the log is copied; the result must be the same as without the copy.
#[tokio::test]
async fn a_mostly_empty_log_is_compacted_while_the_store_is_in_use() {
    let folder = Folder::new();
    let options = Options {
        skip_sync: true,
        ..folder.options()
    };
    let store = Sled::open(&options).unwrap();
    let fill = async |range: std::ops::Range<u64>, text: &str| {
        for n in range {
            let mut large = arrival(n, n % 50, &["desk"]);
            large.message.text = text.to_owned();
            store.accept(large).await.unwrap();
        }
    };
    fill(1..1_000, &"x".repeat(60_000)).await;
    store.checkpoint();
    let size = || std::fs::metadata(folder.path().join("sled/db")).unwrap().len();
    let peak = size();
    assert!(peak > 48 << 20, "{peak}");
    loop {
        let claims = claim(&store, "desk", FAR).await;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            store.settle(&delivered(&claim)).await.unwrap();
        }
    }
    fill(1_000..1_400, "pending").await;
    let cutoffs = RetentionCutoffs {
        purge_before: Some(Timestamp(900)),
        redact_before: None,
        dedup_before: Timestamp(900),
    };
    while store.prune(&cutoffs, Timestamp(2_000)).await.unwrap() {}
    // Begins with the next checkpoint, before the size of small messages is estimated from that of the removed ones.
    store.checkpoint();
    let mut n = 2_000;
    while folder.path().join("sled.compacting").exists()
        || !std::fs::metadata(folder.path().join("sled/db")).is_ok_and(|log| log.len() < peak / 2)
    {
        fill(n..n + 1, "meanwhile").await;
        let claims = store.claim(&name("desk"), FAR, 1).await.unwrap();
        store.settle(&delivered(&claims[0])).await.unwrap();
        n += 1;
        assert!(n < 60_000, "the log is not compacted");
    }
    let left = std::fs::metadata(folder.path().join("sled/db")).unwrap().len();
    assert!(left < peak / 2, "{left} of {peak} bytes");
    fill(n..n + 10, "afterwards").await;
    let counts = assert_adds_up(&store).await;
    assert_eq!(counts.accepted, 999 + 400 + (n - 2_000) + 10);
    drop(store);
    let store = Sled::open(&options).unwrap();
    assert_eq!(findings(&store), "");
    assert_eq!(assert_adds_up(&store).await, counts);
    assert!(folder.named("sled.").is_empty());
}

#[tokio::test]
async fn a_damaged_format_file_is_rewritten() {
    let folder = Folder::new();
    three(&folder.open()).await;
    let format = folder.path().join("format");
    std::fs::write(&format, b"smsbridge st\xffre 3\n").unwrap();
    assert_three(&folder.open()).await;
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "smsbridge store 4\n");
}

#[tokio::test]
async fn damaged_settings_of_sled_are_rewritten() {
    let damages: [(&[u8], usize); 4] = [
        (b"segment_size: \xff24288\n", 1),
        (b"segment_size: 524289\n", 1),
        // As left by a crash.
        (b"", 0),
        (b"segment_size: 52", 0),
    ];
    for (damage, told) in damages {
        let folder = Folder::new();
        three(&folder.open()).await;
        let settings = folder.path().join("sled/conf");
        let sound = std::fs::read(&settings).unwrap();
        std::fs::write(&settings, damage).unwrap();
        let store = folder.open();
        assert_eq!(assert_adds_up(&store).await.accepted, 3);
        let findings = store.health().findings;
        assert_eq!(findings.len(), told, "{findings:?}");
        assert!(
            findings
                .iter()
                .all(|finding| finding.contains("conf was damaged"))
        );
        assert_eq!(std::fs::read(&settings).unwrap(), sound);
    }
}

#[tokio::test]
async fn an_outcome_whose_fallback_cannot_be_recorded_changes_nothing_and_can_be_recorded_later() {
    let folder = Folder::new();
    let store = folder.open();
    accept(&store, 1, 1, &["desk"]).await;
    let held = claim_one(&store, "desk", FAR).await;
    let fallback = Delivery::new(held.delivery.id, name("front"), None, Timestamp(5));
    let settlement = Settlement {
        follow_ups: vec![fallback],
        ..died(&held)
    };
    store.checkpoint();
    let db = store.shared.overlay.db();
    let message = db.get(keys::message(1)).unwrap().unwrap();
    for damaged in [true, false] {
        if damaged {
            flip(&db, &keys::message(1));
        } else {
            db.remove(keys::message(1)).unwrap();
        }
        assert_eq!(store.settle(&settlement).await, Err(Error::NotFound));
        assert_eq!(store.health().failed, None, "damaged: {damaged}");
        let backlog = store.backlog(&name("desk")).await.unwrap();
        assert_eq!((backlog.pending, backlog.dead), (1, 0), "damaged: {damaged}");
        db.insert(keys::message(1), message.clone()).unwrap();
    }
    let found = store.find(held.message.id).await.unwrap().unwrap();
    assert_eq!(found.deliveries, std::slice::from_ref(&held.delivery));
    store.settle(&settlement).await.unwrap();
    assert_eq!(claim_one(&store, "front", FAR).await.delivery.id.ordinal, 2);
    let counts = assert_adds_up(&store).await;
    assert_eq!((counts.dead, counts.pending), (1, 1));
}

#[tokio::test]
async fn the_queue_of_the_writer_is_limited_in_bytes() {
    let folder = Folder::new();
    let store = Arc::new(folder.open());
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let blocker = Arc::clone(&store);
    let blocker = tokio::spawn(async move {
        let wait = move |_: &mut WriteBatch<'_>| {
            let _ = held.recv();
            Ok(())
        };
        blocker.threads.write(wait).await
    });
    while store.health().commit_running.is_none() {
        tokio::task::yield_now().await;
    }
    let large = |n| {
        let mut arrival = arrival(n, n, &["desk"]);
        arrival.message.text = "x".repeat(1 << 20);
        arrival
    };
    let waiting: Vec<_> = (1..=20)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { (n, store.accept(large(n)).await) })
        })
        .collect();
    // A message above the limit is rejected immediately; small messages still fit.
    let (mut kept, mut refused) = (Vec::new(), 0);
    while refused < 5 {
        tokio::task::yield_now().await;
        refused = waiting.iter().filter(|accept| accept.is_finished()).count();
    }
    let small = Arc::clone(&store);
    let small = tokio::spawn(async move { small.accept(arrival(30, 30, &["desk"])).await });
    tokio::task::yield_now().await;
    drop(hold);
    blocker.await.unwrap().unwrap();
    for accept in waiting {
        match accept.await.unwrap() {
            (n, Ok(Acceptance::New)) => kept.push(n),
            (_, refused) => assert_eq!(refused, Err(Error::Busy)),
        }
    }
    assert_eq!(small.await.unwrap(), Ok(Acceptance::New));
    assert_eq!(kept.len(), 15, "a little more than a MiB each");
    assert_eq!(
        store.accept(large(40)).await,
        Ok(Acceptance::New),
        "the space is available again"
    );
    assert_eq!(assert_adds_up(&*store).await.accepted, 17);
}
