//! Starts with missing, damaged or unfinished files.

use super::*;

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
