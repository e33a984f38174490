//! `smsbridge store`, and a daemon whose messages move from a folder into a database and back.

use crate::bridge::{Bridge, refid, wait_for};
use crate::postgres;

const ROUTES: &str = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

/// A bridge on a new database.
fn bridge() -> (Bridge, String) {
    let cluster = postgres::shared();
    let url = cluster.url(&cluster.create());
    (Bridge::on_database(&url, "node = \"one\"\n", ROUTES), url)
}

fn said(answer: &(i32, String, String)) -> String {
    format!("{}{}", answer.1, answer.2)
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn the_tables_are_created_once_and_shown() {
    let (bridge, _) = bridge();
    let empty = bridge.command(&["store", "status"]);
    assert!(
        empty.0 == 0 && empty.1.contains("smsbridge store init"),
        "{}",
        said(&empty)
    );
    let migrated = bridge.command(&["store", "migrate"]);
    assert_eq!(migrated.0, 3, "{}", said(&migrated));
    let created = bridge.command(&["store", "init"]);
    assert_eq!(
        (created.0, created.1.trim_end()),
        (0, "created the tables, schema version 2"),
        "{}",
        said(&created)
    );
    let again = bridge.command(&["store", "init"]);
    assert!(
        again.0 == 3 && again.2.contains("already has tables"),
        "{}",
        said(&again)
    );
    let nothing = bridge.command(&["store", "migrate"]);
    assert!(
        nothing.0 == 0 && nothing.1.contains("nothing to do"),
        "{}",
        said(&nothing)
    );
    let shown = bridge.command(&["store", "status", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.1).unwrap();
    assert_eq!(shown["schema"], 2);
    assert_eq!(shown["synchronous_commit"], "on");

    let folder = Bridge::configured(ROUTES);
    let refused = folder.command(&["store", "status"]);
    assert!(
        refused.0 == 2 && refused.2.contains("is for `kind = \"postgres\"`"),
        "{}",
        said(&refused)
    );
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_daemon_on_an_empty_database_creates_the_tables_and_is_shown() {
    let (mut bridge, url) = bridge();
    bridge.run();
    assert_eq!(
        bridge
            .post_message("ABCDEF1234567890ABCDEF1234567890", "+13035550100", "first")
            .0,
        200
    );
    wait_for("the message", || {
        bridge
            .console()
            .iter()
            .any(|line| line.contains("first"))
            .then_some(())
    });
    let shown = wait_for("the lane in `store status`", || {
        let shown = bridge.command(&["store", "status", "--json"]).1;
        let shown: serde_json::Value = serde_json::from_str(&shown).ok()?;
        (shown["lanes"][0]["node"] == "one" && shown["lanes"][0]["pending"] == 0).then_some(shown)
    });
    assert_eq!(
        (&shown["nodes"][0]["name"], &shown["lanes"][0]["destination"]),
        (&"one".into(), &"screen".into())
    );
    let (_, log, _) = bridge.stop();
    assert!(log.iter().all(|line| !line.contains(&url)), "the URL is a secret");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn messages_move_from_a_folder_into_a_database_and_back() {
    let mut folder = Bridge::start(ROUTES);
    for n in 0..50 {
        assert_eq!(
            folder
                .post_message(&refid(n), "+13035550100", &format!("message {n}."))
                .0,
            200
        );
    }
    wait_for("the messages", || {
        folder
            .console()
            .iter()
            .any(|line| line.contains("message 49."))
            .then_some(())
    });
    let copy = folder.folder().join("copy");
    let copy = copy.to_str().unwrap();
    assert_eq!(folder.command(&["backup", copy]).0, 0);
    folder.stop();

    let (mut database, _) = bridge();
    let restored = database.command(&["restore", copy]);
    assert!(
        restored
            .1
            .starts_with("50 messages with 50 deliveries restored into PostgreSQL on"),
        "{}",
        said(&restored)
    );
    let again = database.command(&["restore", copy]);
    assert!(
        again.0 == 3 && again.2.contains("already has messages"),
        "{}",
        said(&again)
    );
    database.run();
    let repeated = database.post_message(&refid(7), "+13035550100", "message 7.");
    assert_eq!(repeated.0, 200);
    assert_eq!(
        database.post_message(&refid(50), "+13035550100", "message 50.").0,
        200
    );
    wait_for("the new message", || {
        database
            .console()
            .iter()
            .any(|line| line.contains("message 50."))
            .then_some(())
    });
    assert!(
        database.console().iter().all(|line| !line.contains("message 7.")),
        "it was delivered before"
    );
    let back = folder.folder().join("back");
    let back = back.to_str().unwrap();
    assert_eq!(database.command(&["backup", back]).0, 0);
    database.stop();

    std::fs::rename(folder.store(), folder.folder().join("old")).unwrap();
    let restored = folder.command(&["restore", back]);
    assert!(
        restored.1.starts_with("51 messages with 51 deliveries restored"),
        "{}",
        said(&restored)
    );
    folder.run();
    assert_eq!(folder.status()["messages"]["accepted"], 51, "{}", folder.status());
}
