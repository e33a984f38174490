//! Tests of what only this store has: a disk, and its failures.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::model::delivery::State;
use crate::store::conformance::{
    FAR, accept, again, arrival, assert_adds_up, claim, claim_one, delivered, died, name, numbers, requeued,
};
use crate::store::{MessageState, Store};

mod damage;
mod failures;
mod model;
mod recovery;

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
