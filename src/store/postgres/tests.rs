//! Connections and migrations against a real server.

use super::cluster::{self, Cluster};
use super::*;
use crate::store::conformance::accept;

mod faults;
mod moving;
mod nodes;
mod room;
mod scans;

fn address(url: &str) -> Address {
    Address::parse(url, None).unwrap()
}

fn pool(url: &str) -> Pool {
    Pool::new(address(url), "one", SynchronousCommit::On, 2)
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_new_database_is_migrated_once_even_by_two_at_the_same_time() {
    let cluster = cluster::shared();
    let pool = pool(&cluster.url(&cluster.create()));
    let (mut one, mut two) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_eq!(version(&one).await, Ok(0));
    let (first, second) = tokio::join!(migrate(&mut one), migrate(&mut two));
    let mut from = [first.unwrap().from, second.unwrap().from];
    from.sort_unstable();
    assert_eq!(from, [0, VERSION]);
    assert_eq!(version(&one).await, Ok(VERSION));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_newer_schema_is_refused_unless_it_says_that_this_version_can_read_it() {
    let cluster = cluster::shared();
    let database = cluster.create();
    let pool = pool(&cluster.url(&database));
    let mut connection = pool.get().await.unwrap();
    migrate(&mut connection).await.unwrap();
    let newer = VERSION + 1;
    cluster.sql(
        &database,
        &format!("UPDATE smsbridge_schema SET version = {newer}"),
    );
    let kept = Migrated {
        from: newer,
        to: newer,
    };
    assert_eq!(migrate(&mut connection).await, Ok(kept));
    cluster.sql(
        &database,
        &format!("UPDATE smsbridge_schema SET readable_by = {newer}"),
    );
    assert_eq!(
        migrate(&mut connection).await,
        Err(SchemaError::Newer { found: newer })
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_user_without_privileges_is_told_what_is_missing() {
    let cluster = cluster::shared();
    let database = cluster.create();
    cluster.sql(
        &database,
        "CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    );
    let url = cluster.url(&database).replace("postgres@", "guest@");
    let mut connection = pool(&url).get().await.unwrap();
    let refused = migrate(&mut connection).await.unwrap_err();
    assert!(matches!(refused, SchemaError::Forbidden(_)), "{refused}");
    assert_eq!(
        cluster.sql(
            &database,
            "SELECT count(*) FROM pg_class WHERE relname = 'message'"
        ),
        "0"
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_session_is_durable_whatever_the_defaults_of_the_database() {
    let cluster = cluster::shared();
    let database = cluster.create();
    cluster.sql(
        &database,
        &format!("ALTER DATABASE {database} SET synchronous_commit = off"),
    );
    let commit = async |commit| {
        let pool = Pool::new(address(&cluster.url(&database)), "one", commit, 1);
        let connection = pool.get().await.unwrap();
        let row = connection
            .query_one("SHOW synchronous_commit", &[])
            .await
            .unwrap();
        let name = connection.query_one("SHOW application_name", &[]).await.unwrap();
        (row.get::<_, String>(0), name.get::<_, String>(0))
    };
    assert_eq!(
        commit(SynchronousCommit::On).await,
        ("on".to_owned(), "smsbridge one".to_owned())
    );
    assert_eq!(commit(SynchronousCommit::RemoteApply).await.0, "remote_apply");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_server_that_can_lose_commits_is_refused() {
    for setting in ["fsync", "full_page_writes"] {
        let cluster = Cluster::start(&format!("{setting} = off"));
        let refused = pool(&cluster.url("postgres")).get().await.err().unwrap();
        let expected = format!("the server has `{setting} = off`");
        assert!(
            matches!(&refused, ConnectError::Refused(reason) if reason.contains(&expected)),
            "{refused}"
        );
    }
    let cluster = cluster::shared();
    cluster.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    );
    let refused = pool(&cluster.url("latin")).get().await.err().unwrap();
    assert!(
        refused.to_string().contains("has the encoding LATIN1"),
        "{refused}"
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_wrong_database_or_user_is_refused_and_an_absent_server_is_unavailable() {
    let cluster = cluster::shared();
    let refused = async |url: String| pool(&url).get().await.err().unwrap();
    for url in [
        cluster.url("nowhere"),
        cluster.url("postgres").replace("postgres@", "nobody@"),
    ] {
        let refused = refused(url).await;
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
    }
    let absent = refused("postgres://sms@127.0.0.1:1/sms?sslmode=disable".to_owned()).await;
    assert!(
        matches!(&absent, ConnectError::Unavailable(reason) if reason.contains("127.0.0.1:1")),
        "{absent}"
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_host_that_accepts_writes_is_found_and_a_lost_connection_is_replaced() {
    let cluster = Cluster::start("");
    let read_only = cluster::shared().create();
    cluster::shared().sql(
        "postgres",
        &format!("ALTER DATABASE {read_only} SET default_transaction_read_only = on"),
    );
    cluster.sql("postgres", &format!("CREATE DATABASE {read_only}"));
    // One that accepts connections and never answers, one that is read-only, and the one that accepts writes.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}/{read_only}?sslmode=disable&connect_timeout=1",
        silent.local_addr().unwrap().port(),
        cluster::shared().port(),
        cluster.port()
    );
    let pool = pool(&url);
    let connection = pool.get().await.unwrap();
    connection
        .execute("CREATE TABLE written (x int)", &[])
        .await
        .unwrap();
    // The next connection goes to the same host at once.
    let started = std::time::Instant::now();
    let second = pool.get().await.unwrap();
    assert!(started.elapsed().as_millis() < 900, "{:?}", started.elapsed());
    drop((connection, second));
    cluster.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'smsbridge%'",
    );
    // Closed connections are replaced, at the latest after one error.
    let mut written = Vec::new();
    for _ in 0..3 {
        let connection = pool.get().await.unwrap();
        written.push(
            connection
                .execute("INSERT INTO written VALUES (1)", &[])
                .await
                .is_ok(),
        );
    }
    assert_eq!(written.last(), Some(&true), "{written:?}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_pool_limits_its_connections_and_keeps_no_discarded_one() {
    let cluster = cluster::shared();
    let pool = pool(&cluster.url(&cluster.create()));
    let pid = async |connection: &Connection| {
        let row = connection
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap();
        row.get::<_, i32>(0)
    };
    let one = pool.get().await.unwrap();
    let first = pid(&one).await;
    let two = pool.get().await.unwrap();
    let third = tokio::time::timeout(std::time::Duration::from_millis(100), pool.get()).await;
    assert!(third.is_err());
    drop(one);
    let again = pool.get().await.unwrap();
    assert_eq!(pid(&again).await, first);
    again.discard();
    drop((again, two));
    let (one, two) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert!(pid(&one).await != first && pid(&two).await != first);
    let mut both = [pid(&one).await, pid(&two).await];
    pool.renew();
    drop((one, two));
    both.sort_unstable();
    let renewed = pool.get().await.unwrap();
    assert!(!both.contains(&pid(&renewed).await));
    drop(renewed);
    pool.close();
    assert!(matches!(pool.get().await, Err(ConnectError::Unavailable(_))));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_dedicated_connection_receives_notifications() {
    let cluster = cluster::shared();
    let pool = pool(&cluster.url(&cluster.create()));
    let (listening, mut notifications) = pool.dedicated().await.unwrap();
    listening.batch_execute("LISTEN lanes").await.unwrap();
    pool.get()
        .await
        .unwrap()
        .batch_execute("NOTIFY lanes, 'desk'")
        .await
        .unwrap();
    assert_eq!(notifications.recv().await.unwrap().payload(), "desk");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn certificates_are_verified_as_sslmode_says() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let mut openssl = std::process::Command::new("openssl");
        let output = openssl
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"
    ));
    openssl(&format!(
        "req -x509 {key} -subj /CN=other -days 2 -keyout other.key -out other.pem"
    ));
    openssl(&format!(
        "req {key} -subj /CN=db -addext subjectAltName=DNS:localhost -keyout db.key -out db.csr"
    ));
    openssl(
        "x509 -req -in db.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2 -out db.pem",
    );
    let mut cluster = Cluster::start("");
    cluster.stop();
    for name in ["db.pem", "db.key"] {
        let path = cluster.data().join(name);
        std::fs::copy(folder.path().join(name), &path).unwrap();
        cluster::own(&path);
    }
    cluster.configure("ssl = on\nssl_cert_file = 'db.pem'\nssl_key_file = 'db.key'\n");
    cluster.start_again();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (ca, other) = (read("ca.pem"), read("other.pem"));
    for (host, mode, authorities, works) in [
        ("localhost", "verify-full", Some(&ca), true),
        ("127.0.0.1", "verify-full", Some(&ca), false),
        ("127.0.0.1", "verify-ca", Some(&ca), true),
        ("127.0.0.1", "require", Some(&ca), true),
        ("localhost", "verify-full", Some(&other), false),
        ("localhost", "verify-ca", Some(&other), false),
        ("localhost", "require", Some(&other), false),
        ("localhost", "require", None, true),
        ("localhost", "verify-full", None, false),
        ("localhost", "prefer", None, true),
    ] {
        let url = format!(
            "postgres://postgres@{host}:{}/postgres?sslmode={mode}",
            cluster.port()
        );
        let address = Address::parse(&url, authorities.map(String::as_str)).unwrap();
        let opened = Pool::new(address, "one", SynchronousCommit::On, 1).get().await;
        let case = format!("{host} {mode} {}", authorities.is_some());
        match opened {
            Ok(connection) => {
                assert!(works, "{case}");
                let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                let row = connection.query_one(encrypted, &[]).await.unwrap();
                assert!(row.get::<_, bool>(0), "{case}");
            }
            Err(error) => {
                assert!(!works, "{case}: {error}");
                assert!(matches!(error, ConnectError::Refused(_)), "{case}: {error}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_index_of_words_is_created_if_the_extension_is_installed() {
    let store = testing::fresh().await;
    let connection = store.shared.pool.get().await.unwrap();
    assert_eq!(index_words(&connection).await, Ok(false));
    connection
        .batch_execute("CREATE EXTENSION pg_trgm")
        .await
        .unwrap();
    assert_eq!(index_words(&connection).await, Ok(true));
    drop(connection);
    for n in 1..=3 {
        accept(&*store, n, n, &["desk"]).await;
    }
    let query = Query {
        text: Some("TEXT 2".to_owned()),
        limit: 9,
        ..Query::default()
    };
    let found = store.messages(&query).await.unwrap().items;
    assert_eq!(found.len(), 1);
}
