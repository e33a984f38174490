//! Faults of the server, of a connection and of single records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::cluster;
use super::super::testing::{database, fresh, open};
use super::super::*;
use super::nodes::{base, until};
use crate::store::conformance::{
    FAR, accept, again, arrival, assert_adds_up, claim, claim_one, delivered, name, numbers,
};

const LEASE: Duration = Duration::from_secs(4);

/// The name of the database of a store.
async fn database_of(store: &Postgres) -> String {
    let connection = store.shared.pool.get().await.unwrap();
    let row = connection
        .query_one("SELECT current_database()", &[])
        .await
        .unwrap();
    row.get(0)
}

fn sql(database: &str, statements: &str) -> String {
    cluster::shared().sql(database, statements)
}

fn deadlocks(database: &str) -> u64 {
    let count = sql(
        database,
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    );
    count.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_delivery_that_cannot_be_read_is_set_aside_and_the_others_continue() {
    let store = fresh().await;
    let database = database_of(&store).await;
    for (n, from) in [(1, 1), (2, 1), (3, 2), (4, 3)] {
        accept(&*store, n, from, &["desk", "room"]).await;
    }
    let claims = claim(&*store, "desk", FAR).await;
    assert_eq!(numbers(&claims), [1, 3, 4]);
    // Damaged after it was claimed: the outcomes of the others are written in the same transaction.
    let damage = |n: u32, ordinal: u32| {
        let message = format!("message = '00000000-0000-0000-0000-{n:012}' AND ordinal = {ordinal}");
        sql(
            &database,
            &format!("UPDATE delivery SET record = '\\x01ff' WHERE {message}"),
        );
    };
    damage(1, 1);
    let settled = futures_util::future::join_all(claims.iter().map(|claim| {
        let (store, settlement) = (store.clone(), delivered(claim));
        async move { store.settle(&settlement).await }
    }));
    assert_eq!(
        settled.await,
        [Err(Error::LostClaim), Ok(Vec::new()), Ok(Vec::new())]
    );
    // The next claim finds it. What is behind it is no longer held up.
    let rest = async || {
        let claims = claim(&*store, "desk", FAR).await;
        let numbers = numbers(&claims);
        for claim in &claims {
            store.settle(&delivered(claim)).await.unwrap();
        }
        numbers
    };
    let mut found = rest().await;
    found.extend(rest().await);
    assert_eq!(found, [2]);
    let findings = store.health().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains("00000000000000000000000000000001-1 to destination desk was set aside"),
        "{findings:?}"
    );
    // Another destination of the same message is not affected, nor is a search.
    assert_eq!(numbers(&claim(&*store, "room", FAR).await), [1, 3, 4]);
    let query = Query {
        limit: 9,
        ..Query::default()
    };
    assert_eq!(store.messages(&query).await.unwrap().items.len(), 4);
    let counts = store.counts().await.unwrap();
    assert_eq!(
        (counts.created, counts.delivered, counts.dead, counts.pending),
        (8, 3, 1, 4)
    );
    // All daemons report the finding, until an operator acknowledges it.
    let two = open(&cluster::shared().url(&database), "two", LEASE).await;
    assert_eq!(two.health().findings, findings);
    assert_eq!(two.acknowledge().await, Ok(1));
    assert_eq!(two.health().findings.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_message_that_cannot_be_read_is_set_aside_and_the_others_continue() {
    let store = fresh().await;
    let database = database_of(&store).await;
    for n in 1..=3 {
        accept(&*store, n, n, &["desk"]).await;
    }
    sql(&database, "UPDATE message SET record = '\\x' WHERE seq = 2");
    assert_eq!(numbers(&claim(&*store, "desk", FAR).await), [1, 3]);
    assert_eq!(store.health().findings.len(), 1);
    let pending = "SELECT count(*) FROM delivery WHERE stage < 3";
    assert_eq!(sql(&database, pending), "2");
    assert!(claim(&*store, "desk", FAR).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn an_outcome_that_the_database_rejects_does_not_fail_the_others() {
    let store = fresh().await;
    let database = database_of(&store).await;
    for n in 1..=4 {
        accept(&*store, n, n, &["desk"]).await;
    }
    let claims = claim(&*store, "desk", FAR).await;
    sql(
        &database,
        "ALTER TABLE delivery ADD CHECK (NOT (stage = 3 AND message = '00000000-0000-0000-0000-000000000002'))",
    );
    let settled = futures_util::future::join_all(claims.iter().map(|claim| {
        let (store, settlement) = (store.clone(), delivered(claim));
        async move { store.settle(&settlement).await }
    }));
    let settled = settled.await;
    let failed: Vec<usize> = (0..4).filter(|index| settled[*index].is_err()).collect();
    assert_eq!(failed, [1], "{settled:?}");
    assert_eq!(store.health().findings.len(), 1);
    assert!(!store.holds(&claims[1]), "its claim has ended");
    assert!(
        claim(&*store, "desk", FAR).await.is_empty(),
        "it is not sent again and again"
    );
}

/// Every message goes to three destinations, which two daemons serve. Conversations are few, so the outcomes of each
/// daemon concern messages that the other one has locked, and make deliveries of such messages ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn settlements_of_shared_conversations_never_deadlock() {
    const MESSAGES: u64 = 240;
    let url = database();
    let nodes = [open(&url, "one", LEASE).await, open(&url, "two", LEASE).await];
    let all = ["desk", "mail", "room"];
    // Deliveries of one conversation are stored in another order than that of their ids.
    for n in 0..MESSAGES {
        accept(&*nodes[0], MESSAGES - n, n % 4, &all).await;
    }
    let deliver = |store: Arc<Postgres>, destination: &'static str| async move {
        let mut count = 0;
        let end = Instant::now() + Duration::from_secs(120);
        while count < MESSAGES {
            assert!(Instant::now() < end, "{count} of {MESSAGES} at {destination}");
            let claims = store.claim(&name(destination), FAR, 50).await.unwrap();
            let settling = claims.iter().map(|claim| {
                let (store, settlement) = (store.clone(), delivered(claim));
                async move {
                    store.answered(claim).await;
                    store.settle(&settlement).await.unwrap();
                }
            });
            futures_util::future::join_all(settling).await;
            count += claims.len() as u64;
            if claims.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    let tasks = [
        tokio::spawn(deliver(nodes[0].clone(), "desk")),
        tokio::spawn(deliver(nodes[1].clone(), "mail")),
        tokio::spawn(deliver(nodes[0].clone(), "room")),
    ];
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(assert_adds_up(&*nodes[0]).await.delivered, 3 * MESSAGES);
    // The server counts when a transaction has ended.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(deadlocks(base(&url)), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_connection_whose_request_was_cancelled_is_not_used_again() {
    let store = fresh().await;
    let connection = store.shared.pool.get().await.unwrap();
    let process = async |connection: &Connection| {
        let row = connection.query_one("SELECT pg_backend_pid()", &[]).await;
        row.unwrap().get::<_, i32>(0)
    };
    let busy = process(&connection).await;
    let slow = async || {
        connection.batch_execute("SELECT pg_sleep(8)").await?;
        Ok(())
    };
    let reading = store.shared.within(&connection, slow());
    let cancelled = tokio::time::timeout(Duration::from_millis(200), reading).await;
    assert!(cancelled.is_err());
    drop(connection);
    let began = Instant::now();
    let mut others = Vec::new();
    for _ in 0..6 {
        let connection = store.shared.pool.get().await.unwrap();
        assert_ne!(process(&connection).await, busy);
        others.push(connection);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// Passes on what clients and the server send, except that the server does not understand `LISTEN`, like a pooler that
/// refuses it. Returns the port.
async fn without_listen(server: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = tokio::net::TcpStream::connect(("127.0.0.1", server))
                .await
                .unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                    let part = &mut buffer[..count];
                    if let Some(at) = part.windows(7).position(|window| window == b"LISTEN ") {
                        part[at..at + 6].copy_from_slice(b"HEAR! ");
                    }
                    to_server.write_all(part).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_daemon_that_may_not_listen_keeps_its_lanes_and_says_so() {
    let url = database();
    let port = without_listen(cluster::shared().port()).await;
    let deaf_url = url.replace(&cluster::shared().port().to_string(), &port.to_string());
    let deaf = open(&deaf_url, "deaf", LEASE).await;
    accept(&*deaf, 1, 1, &["desk"]).await;
    let held = claim_one(&*deaf, "desk", FAR).await;
    let warnings = deaf.health().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("refuses LISTEN"),
        "{warnings:?}"
    );
    tokio::time::sleep(LEASE * 2).await;
    assert!(deaf.holds(&held), "the lease is renewed");
    store_and_find(&deaf, &url).await;
}

/// What another daemon accepts and pauses is found without notices.
async fn store_and_find(deaf: &Arc<Postgres>, url: &str) {
    let mut changes = deaf.changes().unwrap();
    let mut next = async |wanted: Change| {
        let waiting = async { while changes.recv().await.unwrap() != wanted {} };
        tokio::time::timeout(Duration::from_secs(4), waiting)
            .await
            .unwrap();
    };
    let other = open(url, "other", LEASE).await;
    accept(&*other, 2, 2, &["desk"]).await;
    next(Change::Work(name("desk"))).await;
    assert_eq!(numbers(&claim(&**deaf, "desk", FAR).await), [2]);
    for paused in [true, false] {
        other.set_paused(&name("desk"), paused).await.unwrap();
        next(Change::Paused).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_pause_is_noticed_without_a_notice() {
    let url = database();
    let store = open(&url, "one", LEASE).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty(), "it has a lane");
    let mut changes = store.changes().unwrap();
    for (paused, expected) in [(true, vec![name("desk")]), (false, Vec::new())] {
        sql(base(&url), &format!("UPDATE lane SET paused = {paused}"));
        let waiting = async { while changes.recv().await.unwrap() != Change::Paused {} };
        tokio::time::timeout(Duration::from_secs(4), waiting)
            .await
            .unwrap();
        assert_eq!(store.paused().await, Ok(expected));
    }
}

/// A pooler may run a transaction in a session with other settings than those of the one that was prepared. A deferred
/// trigger runs as a part of the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn each_transaction_is_durable_whatever_the_settings_of_its_session() {
    let store = fresh().await;
    let database = database_of(&store).await;
    sql(
        &database,
        "CREATE TABLE committed (what text, durability text, isolation text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO committed VALUES (TG_TABLE_NAME || ' ' || TG_OP, current_setting('synchronous_commit'),
                current_setting('transaction_isolation'));
            RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON message DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION note();
         CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON delivery DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION note();
         CREATE CONSTRAINT TRIGGER note AFTER UPDATE OF paused ON lane DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (OLD.paused <> NEW.paused) EXECUTE FUNCTION note()",
    );
    let spoil = async || {
        let mut all = Vec::new();
        for _ in 0..6 {
            let connection = store.shared.pool.get().await.unwrap();
            connection
                .batch_execute(
                    "SET synchronous_commit = off; SET default_transaction_isolation = 'serializable'",
                )
                .await
                .unwrap();
            all.push(connection);
        }
    };
    spoil().await;
    let id = accept(&*store, 1, 1, &["desk"]).await;
    let claim = claim_one(&*store, "desk", FAR).await;
    store.settle(&again(&claim, Timestamp(9))).await.unwrap();
    store.retry_now(&name("desk"), Timestamp(5)).await.unwrap();
    store
        .add_deliveries(
            id,
            vec![Delivery::new(claim.delivery.id, name("room"), None, Timestamp(9))],
        )
        .await
        .unwrap();
    store.set_paused(&name("desk"), true).await.unwrap();
    let prune = RetentionCutoffs {
        purge_before: None,
        redact_before: Some(Timestamp(i64::MAX)),
        dedup_before: Timestamp(i64::MIN),
    };
    let ended = claim_one(&*store, "room", FAR).await;
    store.settle(&delivered(&ended)).await.unwrap();
    let ended = claim_one(&*store, "desk", FAR).await;
    store.settle(&delivered(&ended)).await.unwrap();
    while store.prune(&prune, Timestamp(9)).await.unwrap() {}
    let committed = sql(
        &database,
        "SELECT DISTINCT what, durability FROM committed ORDER BY what",
    );
    let expected = "delivery UPDATE|on\nlane UPDATE|on\nmessage INSERT|on\nmessage UPDATE|on";
    assert_eq!(committed, expected);
    // What locks rows before it reads them again must not read an old state.
    let isolation = "SELECT DISTINCT isolation FROM committed WHERE what LIKE 'delivery%'";
    assert_eq!(sql(&database, isolation), "read committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn what_was_claimed_before_a_look_failed_is_returned() {
    let store = fresh().await;
    let database = database_of(&store).await;
    for n in 1..=140 {
        accept(&*store, n, n, &["desk"]).await;
    }
    // This claim reads others ahead.
    let mut all = numbers(&[claim_one(&*store, "desk", FAR).await]);
    sql(&database, "ALTER TABLE delivery RENAME TO gone");
    let claimed = store.claim(&name("desk"), FAR, 300).await.unwrap();
    assert!(claimed.len() > 100, "{}", claimed.len());
    all.extend(numbers(&claimed));
    assert!(store.claim(&name("desk"), FAR, 300).await.is_err());
    sql(&database, "ALTER TABLE gone RENAME TO delivery");
    all.extend(numbers(&store.claim(&name("desk"), FAR, 300).await.unwrap()));
    let distinct: BTreeSet<u128> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (140, 140));
}

/// A look finds a delivery behind another one. Before it marks that, the other one leaves the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_delivery_is_not_left_behind_one_that_has_left_its_queue() {
    let store = fresh().await;
    let database = database_of(&store).await;
    accept(&*store, 1, 1, &["desk"]).await;
    let first = claim_one(&*store, "desk", FAR).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let locking = std::thread::spawn({
        let database = database.clone();
        move || {
            sql(
                &database,
                "BEGIN; UPDATE delivery SET queue = '\\x0102030405060708' WHERE seq = 1; SELECT pg_sleep(2); COMMIT",
            )
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty());
    locking.join().unwrap();
    let stage = "SELECT stage FROM delivery WHERE seq = 2";
    assert_eq!(sql(&database, stage), "0");
    store.release(first).await;
    until("the second one is claimed", async || {
        numbers(&claim(&*store, "desk", FAR).await).contains(&2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_lane_is_given_up_here_before_it_is_released() {
    let url = database();
    let store = open(&url, "one", Duration::from_secs(30)).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty(), "it has the lane");
    assert!(store.shared.lanes.is_owned(&name("desk")));
    sql(
        base(&url),
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep(3);
            RETURN NEW;
         END $$;
         CREATE TRIGGER slow BEFORE UPDATE ON lane FOR EACH ROW WHEN (NEW.owner IS NULL) EXECUTE FUNCTION slow()",
    );
    store.serve(&[]);
    until("the daemon gives the lane up", async || {
        !store.shared.lanes.is_owned(&name("desk"))
    })
    .await;
    let owner = "SELECT owner FROM lane WHERE destination = 'desk'";
    assert_eq!(sql(base(&url), owner), "one", "it is being released");
    until("the lane is free", async || sql(base(&url), owner).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_flood_of_one_sender_does_not_hide_the_message_of_another() {
    let store = fresh().await;
    for n in 1..=900 {
        accept(&*store, n, 1, &["desk"]).await;
    }
    accept(&*store, 1_000, 2, &["desk"]).await;
    assert_eq!(numbers(&[claim_one(&*store, "desk", FAR).await]), [1]);
    let now = Timestamp(5_000);
    assert_eq!(store.next_due(&name("desk"), now).await, Ok(Some(now)));
    let mut found = Vec::new();
    for _ in 0..20 {
        found.extend(numbers(&store.claim(&name("desk"), now, 1).await.unwrap()));
    }
    assert_eq!(found, [1_000]);
    assert_eq!(store.next_due(&name("desk"), now).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_message_is_due_at_once_whatever_the_clock_of_the_daemon_that_accepted_it() {
    let url = database();
    let [fast, right] = [open(&url, "fast", LEASE).await, open(&url, "right", LEASE).await];
    let now = right.clock().unwrap();
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let wall = Timestamp(i64::try_from(wall.unwrap().as_millis()).unwrap());
    assert!(
        wall.since(now) + now.since(wall) < Duration::from_secs(2),
        "{now} {wall}"
    );
    let hour = Duration::from_secs(3_600);
    for (n, at) in [(1, now.after(hour)), (2, now.before(hour)), (3, now)] {
        let mut one = arrival(n, n, &["desk"]);
        one.deliveries[0] = Delivery::new(one.deliveries[0].id, name("desk"), None, at);
        fast.accept(one).await.unwrap();
    }
    let mut held = arrival(4, 4, &["desk"]);
    held.deliveries[0] = held.deliveries[0].clone().held(now.after(hour));
    fast.accept(held).await.unwrap();
    let claims = claim(&*right, "desk", now).await;
    assert_eq!(numbers(&claims), [1, 2, 3], "one is held");
    // Its retry is due when it says, and an operator on another daemon makes it due at once.
    right.settle(&again(&claims[0], now.after(hour))).await.unwrap();
    assert!(claim(&*right, "desk", now).await.is_empty());
    assert_eq!(fast.retry_now(&name("desk"), now.after(hour / 2)).await, Ok(2));
    until("it is claimed", async || {
        numbers(&claim(&*right, "desk", now).await) == [1, 4]
    })
    .await;
}
