//! A full disk of the server.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::super::cluster::Cluster;
use super::super::testing::open;
use super::super::*;
use super::nodes::until;
use crate::store::conformance::{FAR, accept, arrival, claim, delivered};

/// A file system in memory, for a tablespace.
struct Small(PathBuf);

impl Small {
    fn mount(cluster: &Cluster) -> Self {
        let place = cluster.data().parent().unwrap().join("small");
        std::fs::create_dir_all(&place).unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(&place));
        let folder = place.join("tablespace");
        std::fs::create_dir_all(&folder).unwrap();
        run(Command::new("chown").arg("postgres").arg(&folder));
        Self(place)
    }

    fn folder(&self) -> PathBuf {
        self.0.join("tablespace")
    }

    fn grow(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,size=256m"])
            .arg(&self.0));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for a file system: tests/run"]
async fn a_full_disk_of_the_server_is_said_until_a_write_succeeds() {
    let cluster = Cluster::start("autovacuum = off");
    let small = Small::mount(&cluster);
    let folder = small.folder();
    cluster.sql(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()),
    );
    cluster.sql("postgres", "CREATE DATABASE sms TABLESPACE small");
    let store = open(&cluster.url("sms"), "one", Duration::from_secs(10)).await;
    accept(&*store, 1, 1, &["desk"]).await;
    let claims = claim(&*store, "desk", FAR).await;
    assert_eq!(store.ready(), Ok(()));
    // Random text: it cannot be compressed.
    let mut refused = None;
    for n in 2..4_000_u64 {
        let mut large = arrival(n, n, &["desk"]);
        large.message.text = (0..50_000)
            .map(|_| char::from(rand::random_range(b'!'..b'~')))
            .collect();
        if let Err(error) = store.accept(large).await {
            refused = Some((n, error));
            break;
        }
    }
    let (n, error) = refused.expect("the disk is full");
    assert!(
        matches!(&error, Error::Full(reason) if reason.contains("53100")),
        "{error}"
    );
    // It is remembered between writes.
    for _ in 0..4 {
        let health = store.health();
        assert!(health.full && health.unavailable.is_none(), "{health:?}");
        let reason = store.ready().unwrap_err();
        assert!(
            reason.contains("the disk of the database server is full"),
            "{reason}"
        );
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    // Deliveries continue if their outcomes need no new pages.
    let _ = store.settle(&delivered(&claims[0])).await;
    small.grow();
    until("the store has room again without a new message", async || {
        store.ready().is_ok()
    })
    .await;
    accept(&*store, n, n, &["desk"]).await;
    assert_eq!(store.counts().await.unwrap().accepted, n);
    drop(store);
}
