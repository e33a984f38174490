//! A full or slow disk, failed changes, and the limits of the queue of the writer.

use super::*;
use crate::store::sled::threads::WAITING_MAX;

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
        matches!(&refused, Err(Error::Full(words)) if words.contains(&u64::MAX.to_string())),
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
