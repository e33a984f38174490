//! Several daemons on one database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::cluster;
use super::super::testing::{database, fresh, open};
use super::super::*;
use crate::store::conformance::{FAR, accept, again, arrival, claim, claim_one, delivered, name, numbers};
use crate::store::{Lane, Node};

/// Long enough for commits of a busy disk.
const LEASE: Duration = Duration::from_secs(4);

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The name of the database at a URL.
pub(super) fn base(url: &str) -> &str {
    url.rsplit('/').next().unwrap().split('?').next().unwrap()
}

fn destinations() -> Vec<Name> {
    (0..8).map(|n| name(&format!("d{n}"))).collect()
}

/// The destinations that a daemon claims from.
async fn claimed(store: &Postgres) -> BTreeSet<Name> {
    let mut claimed = BTreeSet::new();
    for destination in destinations() {
        for claim in store.claim(&destination, FAR, 9).await.unwrap() {
            store.release(claim).await;
            claimed.insert(destination.clone());
        }
    }
    claimed
}

async fn one_message_each(store: &Postgres) {
    let all = destinations();
    let all: Vec<&str> = all.iter().map(Name::as_str).collect();
    accept(store, 1, 1, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn every_destination_belongs_to_one_daemon_and_moves_when_that_stops() {
    let url = database();
    let one = open(&url, "one", LEASE).await;
    one.serve(&destinations());
    one_message_each(&one).await;
    until("the first daemon serves all", async || {
        claimed(&one).await.len() == 8
    })
    .await;
    let two = open(&url, "two", LEASE).await;
    two.serve(&destinations());
    let shares = async || (claimed(&one).await, claimed(&two).await);
    until("the second one gets a share", async || {
        let (first, second) = shares().await;
        assert!(first.is_disjoint(&second), "{first:?} {second:?}");
        first.len() + second.len() == 8 && second.len() > 1
    })
    .await;
    let before = shares().await;
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(shares().await, before, "nothing moves without a reason");
    let began = Instant::now();
    one.close().await.unwrap();
    until("the other one serves all", async || {
        claimed(&two).await.len() == 8
    })
    .await;
    assert!(
        began.elapsed() < LEASE,
        "it does not wait for the end of the leases: {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_daemon_that_dies_is_replaced_after_its_lease() {
    let url = database();
    let process = tokio::runtime::Runtime::new().unwrap();
    let url_of_one = url.clone();
    let one = process.spawn(async move {
        let one = open(&url_of_one, "one", LEASE).await;
        one_message_each(&one).await;
        let _never_settled = claim_one(&*one, "d0", FAR).await;
        one
    });
    let one = one.await.unwrap();
    let two = open(&url, "two", LEASE).await;
    two.serve(&[name("d0")]);
    assert!(claim(&*two, "d0", FAR).await.is_empty());
    // Its tasks and connections end: that is all that others see of a dead process.
    process.shutdown_background();
    let began = Instant::now();
    until("the second daemon claims the delivery", async || {
        !claim(&*two, "d0", FAR).await.is_empty()
    })
    .await;
    let took = began.elapsed();
    assert!(took < LEASE + Duration::from_secs(2), "{took:?}");
    drop(one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_daemon_whose_lane_was_taken_over_writes_nothing_more() {
    let url = database();
    let store = open(&url, "one", Duration::from_secs(60)).await;
    let id = accept(&*store, 1, 1, &["desk", "room"]).await;
    accept(&*store, 2, 1, &["desk"]).await;
    let (desk, room) = (
        claim_one(&*store, "desk", FAR).await,
        claim_one(&*store, "room", FAR).await,
    );
    assert!(store.holds(&desk));
    cluster::shared().sql(
        base(&url),
        "UPDATE lane SET owner = 'two', instance = gen_random_uuid(), epoch = epoch + 1 WHERE destination = 'desk'",
    );
    assert_eq!(store.settle(&delivered(&desk)).await, Err(Error::LostClaim));
    let again = again(&desk, Timestamp(5));
    assert_eq!(store.settle(&again).await, Err(Error::LostClaim));
    let found = store.find(id).await.unwrap().unwrap();
    assert!(found.deliveries.iter().all(Delivery::is_waiting));
    // Other lanes are not affected.
    assert_eq!(store.settle(&delivered(&room)).await, Ok(Vec::new()));
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.delivered, counts.pending), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn without_renewals_a_daemon_stops_before_the_database_lets_others_take_over() {
    let url = database();
    let store = open(&url, "one", LEASE).await;
    accept(&*store, 1, 1, &["desk"]).await;
    let held = claim_one(&*store, "desk", FAR).await;
    assert!(store.holds(&held));
    cluster::shared().sql(base(&url), "ALTER TABLE node RENAME TO gone");
    let free = "SELECT lease_until <= clock_timestamp() FROM lane WHERE destination = 'desk'";
    until("the lease ends in the database", async || {
        cluster::shared().sql(base(&url), free) == "t"
    })
    .await;
    assert!(!store.holds(&held), "it ended before in the daemon");
    store.release(held).await;
    assert!(claim(&*store, "desk", FAR).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_same_webhook_at_two_daemons_is_stored_once() {
    let url = database();
    let nodes = [open(&url, "one", LEASE).await, open(&url, "two", LEASE).await];
    let tasks: Vec<_> = (1..=50)
        .map(|n: u64| {
            let store = Arc::clone(&nodes[usize::try_from(n % 2).unwrap()]);
            let mut copy = arrival(n, n, &["desk"]);
            copy.message.provider_id = "the same".into();
            tokio::spawn(async move { store.accept(copy).await.unwrap() })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    let new = outcomes
        .iter()
        .filter(|outcome| **outcome == Acceptance::New)
        .count();
    assert_eq!(new, 1);
    assert_eq!(nodes[0].counts().await.unwrap().accepted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn work_and_pauses_reach_the_other_daemon_at_once() {
    let url = database();
    let one = open(&url, "one", Duration::from_secs(60)).await;
    let two = open(&url, "two", Duration::from_secs(60)).await;
    assert!(claim(&*two, "desk", FAR).await.is_empty());
    let mut changes = two.changes().unwrap();
    let mut next = async |wanted: Change| {
        let waiting = async { while changes.recv().await.unwrap() != wanted {} };
        tokio::time::timeout(Duration::from_millis(900), waiting)
            .await
            .unwrap();
    };
    accept(&*one, 1, 1, &["desk"]).await;
    next(Change::Work(name("desk"))).await;
    assert_eq!(numbers(&claim(&*two, "desk", FAR).await), [1]);
    one.set_paused(&name("desk"), true).await.unwrap();
    next(Change::Paused).await;
    assert_eq!(two.paused().await, Ok(vec![name("desk")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn nothing_is_lost_or_stored_twice_when_connections_break() {
    let store = fresh().await;
    let database = store.shared.pool.get().await.unwrap();
    let database: String = database
        .query_one("SELECT current_database()", &[])
        .await
        .unwrap()
        .get(0);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 1..=100 {
                    accept(&*store, writer * 1_000 + n, writer, &["desk"]).await;
                }
            })
        })
        .collect();
    let breaker = std::thread::spawn(move || {
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(150));
            let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            cluster::shared().sql(&database, all);
        }
    });
    let mut order = Vec::new();
    until("all are delivered", async || {
        for claim in store.claim(&name("desk"), FAR, 100).await.unwrap_or_default() {
            let number = claim.message.id.0.as_u128();
            let settlement = delivered(&claim);
            while let Err(error) = store.settle(&settlement).await {
                assert!(
                    matches!(error, Error::Unavailable(_) | Error::LostClaim),
                    "{error}"
                );
                if error == Error::LostClaim {
                    break;
                }
            }
            order.push(number);
        }
        order.len() >= 400
    })
    .await;
    for writer in writers {
        writer.await.unwrap();
    }
    breaker.join().unwrap();
    let distinct: BTreeSet<u128> = order.iter().copied().collect();
    assert_eq!(
        (order.len(), distinct.len()),
        (400, 400),
        "one process sends nothing twice"
    );
    for writer in 0..4 {
        assert!(order.iter().filter(|n| **n / 1_000 == writer).is_sorted());
    }
    until("the database is back", async || store.counts().await.is_ok()).await;
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.accepted, counts.delivered, counts.pending), (400, 400, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn deliveries_that_were_read_ahead_are_read_again_after_a_command() {
    let store = fresh().await;
    for n in 1..=4 {
        accept(&*store, n, n, &["desk"]).await;
    }
    assert_eq!(numbers(&[claim_one(&*store, "desk", FAR).await]), [1]);
    let id = |n: u128| DeliveryId {
        message: MessageId(Uuid::from_u128(n)),
        ordinal: 1,
    };
    let second = Selector::Ids(vec![id(2)]);
    store.discard(&second, Timestamp(9), "no").await.unwrap();
    assert_eq!(numbers(&[claim_one(&*store, "desk", FAR).await]), [3]);
    // The same command by another daemon is known as soon as its notice arrives.
    let url = store.shared.pool.get().await.unwrap();
    let database: String = url
        .query_one("SELECT current_database()", &[])
        .await
        .unwrap()
        .get(0);
    let two = open(&cluster::shared().url(&database), "two", LEASE).await;
    accept(&*store, 5, 5, &["desk"]).await;
    let mut changes = store.changes().unwrap();
    two.discard(&Selector::Ids(vec![id(4)]), Timestamp(9), "no")
        .await
        .unwrap();
    while changes.recv().await.unwrap() != Change::Work(name("desk")) {}
    assert_eq!(numbers(&claim(&*store, "desk", FAR).await), [5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn every_daemon_knows_all_others_and_who_serves_which_destination() {
    let url = database();
    let one = open(&url, "one", LEASE).await;
    let two = open(&url, "two", LEASE).await;
    one.configured("1f3e9a7c");
    two.configured("77aa01bc");
    one.serve(&destinations());
    two.serve(&destinations());
    let lanes = async |store: &Postgres| {
        let nodes = store.nodes().await.unwrap().unwrap();
        let owner = |lane: Lane| Some((lane.destination, lane.owner?.0));
        nodes.lanes.into_iter().filter_map(owner).collect::<BTreeSet<_>>()
    };
    until("both daemons serve some destinations", async || {
        let owners: BTreeSet<String> = lanes(&one).await.into_iter().map(|(_, owner)| owner).collect();
        owners.len() == 2 && lanes(&one).await.len() == 8
    })
    .await;
    assert_eq!(lanes(&one).await, lanes(&two).await);
    let nodes = two.nodes().await.unwrap().unwrap();
    let facts = |node: &Node| (node.name.clone(), node.configuration.clone(), node.is_live);
    assert_eq!(nodes.own, "two");
    assert_eq!(
        nodes.nodes.iter().map(facts).collect::<Vec<_>>(),
        [
            ("one".to_owned(), "1f3e9a7c".to_owned(), true),
            ("two".to_owned(), "77aa01bc".to_owned(), true)
        ]
    );
    // A reload renews the configuration. A node that died is gone, and forgotten after a day.
    two.configured("1f3e9a7c");
    two.serve(&destinations());
    cluster::shared().sql(
        base(&url),
        "INSERT INTO node (name, instance, started_at, seen_at, version, fingerprint) VALUES
            ('dead', gen_random_uuid(), now() - interval '3 days', now() - interval '1 hour', '1', ''),
            ('forgotten', gen_random_uuid(), now() - interval '3 days', now() - interval '25 hours', '1', '')",
    );
    until("the rows are up to date", async || {
        let nodes = one.nodes().await.unwrap().unwrap();
        let same = nodes.live().all(|node| node.configuration == "1f3e9a7c");
        let names: Vec<&str> = nodes.nodes.iter().map(|node| node.name.as_str()).collect();
        same && names == ["dead", "one", "two"] && nodes.others() == ["two"]
    })
    .await;
    two.close().await.unwrap();
    until("a node that stopped is not listed", async || {
        let nodes = one.nodes().await.unwrap().unwrap();
        nodes.nodes.len() == 2 && nodes.others().is_empty()
    })
    .await;
}
