//! P8 and P9: the moments in which a crash can repeat a message, on receipt and on delivery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::ledger::{Receiver, drained, stored, unmatched};
use super::{report, rounds};
use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::fake_smtp::{FakeSmtp, Turn};
use crate::servers::recorder::{Received, Recorder, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn p8_fifty_copies_at_once_are_stored_and_sent_once() {
    let receiver = Receiver::good().await;
    let bridge = Bridge::start(&(receiver.config("crm", "") + &unmatched(&["crm"])));
    let rounds = rounds(3, 200);
    for round in 0..rounds {
        let answers: Vec<(u16, serde_json::Value)> = std::thread::scope(|scope| {
            let posts: Vec<_> = (0..50)
                .map(|_| scope.spawn(|| bridge.post_message(&refid(round), "+13035550100", "once")))
                .collect();
            posts.into_iter().map(|post| post.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        let is_new = |(_, body): &&(u16, serde_json::Value)| body["status"] == "accepted";
        let ids: BTreeSet<String> = answers.iter().map(|(_, body)| body["id"].to_string()).collect();
        assert_eq!(
            (answers.iter().filter(is_new).count(), ids.len()),
            (1, 1),
            "fifty copies made more than one message"
        );
    }
    drained(&bridge, Duration::from_secs(60));
    assert_eq!((stored(&bridge).len(), receiver.taken().len()), (rounds, rounds));
    report(
        "P8",
        &format!("{rounds} times fifty copies at once: stored and sent once each"),
    );
}

/// In every odd run of the daemon, servers of three kinds accept the message and do not answer; the daemon is then
/// killed.
#[tokio::test(flavor = "multi_thread")]
async fn p9_a_kill_while_sending_repeats_only_what_was_in_flight_and_under_the_same_key() {
    let life = Arc::new(AtomicUsize::new(1));
    let silent = |life: &Arc<AtomicUsize>| life.load(Ordering::SeqCst) % 2 == 1;
    let hold = |body: &'static str| {
        let life = life.clone();
        move |received: &Received| {
            let mut reply = Reply::new(200, body);
            if received.method != http::Method::GET && silent(&life) {
                reply.delay = Duration::from_secs(600);
            }
            reply
        }
    };
    let crm = Recorder::start(hold("ok")).await;
    let room = Recorder::start(hold("{\"event_id\":\"$1\"}")).await;
    let mail = FakeSmtp::start(&[], {
        let life = life.clone();
        move |_, _, line| (line == "." && silent(&life)).then_some(Turn::Hang)
    })
    .await;
    let config = format!(
        "[destination.crm]\nkind = \"webhook\"\nurl = \"{}\"\n\
         [destination.room]\nkind = \"matrix\"\nhomeserver = \"{}\"\nroom = \"!a:example.com\"\naccess_token = \"t\"\n\
         [smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n\
         [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\nto = [\"desk@example.com\"]\n{}",
        crm.url("/sms"),
        room.url(""),
        mail.port,
        unmatched(&["crm", "room", "desk"])
    );
    let mut bridge = Bridge::start(&config);
    let kills = rounds(3, 100);
    let mut texts = Vec::new();
    for kill in 0..kills {
        // Two messages: the second is behind the one in flight and must not be repeated.
        for copy in 0..2 {
            let (status, body) = bridge.post_message(&refid(kill * 2 + copy), "+13035550100", "text");
            assert_eq!(status, 200);
            texts.push(body["id"].as_str().unwrap().to_owned());
        }
        wait_for("a message in flight to each", || {
            let sent = [
                webhook_ids(&crm).len(),
                transactions(&room).len(),
                message_ids(&mail).len(),
            ];
            // Each earlier round sent its two messages, and the first of them twice.
            (sent.iter().all(|sent| *sent > kill * 3)).then_some(())
        });
        bridge.kill();
        life.fetch_add(1, Ordering::SeqCst);
        bridge.run();
        drained(&bridge, Duration::from_secs(20));
        // The status includes the commit in progress, which is on disk after one more change.
        let (status, _) = bridge.admin("POST", "/destinations/crm/resume", "").unwrap();
        assert_eq!(status, 200);
        bridge.kill();
        life.fetch_add(1, Ordering::SeqCst);
        bridge.run();
    }
    let expected = |ordinal: u32| texts.iter().map(move |id| format!("{id}-{ordinal}"));
    for (kind, keys, expected) in [
        ("webhook", webhook_ids(&crm), expected(1).collect::<Vec<_>>()),
        ("matrix", transactions(&room), expected(2).collect()),
        ("email", message_ids(&mail), expected(3).collect()),
    ] {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for key in &keys {
            *counts.entry(key).or_default() += 1;
        }
        for (text, key) in expected.iter().enumerate() {
            let sent = counts
                .iter()
                .filter(|(sent, _)| sent.contains(key.as_str()))
                .map(|(_, count)| *count);
            let expected = if text % 2 == 0 { 2 } else { 1 };
            assert_eq!(
                sent.collect::<Vec<_>>(),
                [expected],
                "{kind}: {key} has another key each time: {keys:?}"
            );
        }
        assert_eq!(
            keys.len(),
            kills * 3,
            "{kind}: more was repeated than was in flight"
        );
    }
    report(
        "P9",
        &format!("{kills} kills in the send window of three kinds: one repeat each, same keys"),
    );
}

fn webhook_ids(recorder: &Recorder) -> Vec<String> {
    let received = recorder.received();
    received
        .iter()
        .map(|received| received.header("webhook-id").to_owned())
        .collect()
}

fn transactions(recorder: &Recorder) -> Vec<String> {
    let received = recorder.received();
    let sent = received
        .iter()
        .filter(|received| received.method == http::Method::PUT);
    sent.map(|received| received.path.rsplit('/').next().unwrap().to_owned())
        .collect()
}

fn message_ids(mail: &FakeSmtp) -> Vec<String> {
    let heard = mail.heard();
    let ids = heard.iter().filter_map(|line| line.strip_prefix("Message-ID: "));
    ids.map(str::to_owned).collect()
}
