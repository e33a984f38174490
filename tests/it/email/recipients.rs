//! Several recipients of one destination, some of them deferred: they do not wait for each other.

use std::sync::{Arc, Mutex};

use super::*;
use crate::bridge::{Bridge, wait_for};

const DESK: &str = "desk@example.com";
const NIGHT: &str = "night@example.com";
const FULL: &str = "452 4.2.2 mailbox full";
const GREYLISTED: &str = "451 4.7.1 greylisted";
const UNKNOWN: &str = "550 5.1.1 no such user";

/// The answers of a server to recipients, and the recipients of each message.
#[derive(Default)]
struct Mailboxes {
    refusing: BTreeMap<String, &'static str>,
    asked: Vec<String>,
    accepted: Vec<String>,
    taken: Vec<Vec<String>>,
}

/// A mail server with mailboxes and a single connection.
struct MailServer {
    fake: FakeSmtp,
    mailboxes: Arc<Mutex<Mailboxes>>,
}

impl MailServer {
    async fn start(refusing: &[(&str, &'static str)]) -> Self {
        let mailboxes = Arc::new(Mutex::new(Mailboxes {
            refusing: refusing
                .iter()
                .map(|&(who, answer)| (who.to_owned(), answer))
                .collect(),
            ..Mailboxes::default()
        }));
        let inside = mailboxes.clone();
        let fake = FakeSmtp::start(&["PIPELINING"], move |_, _, line| {
            inside.lock().unwrap().hear(line)
        })
        .await;
        Self { fake, mailboxes }
    }

    /// A bridge with this server, and these keys of the destination that sends through it.
    fn bridge(&self, to: &[&str], keys: &str) -> Bridge {
        Bridge::start(&format!(
            "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nmax_connections = 1\n\
             [destination.screen]\nkind = \"console\"\n\
             [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\nto = {to:?}\n\
             retry = {{ initial = \"100ms\", max = \"200ms\" }}\n{keys}\n[routing]\nunmatched = [\"desk\"]\n",
            self.fake.port
        ))
    }

    fn answer(&self, recipient: &str, answer: Option<&'static str>) {
        let refusing = &mut self.mailboxes.lock().unwrap().refusing;
        refusing.remove(recipient);
        refusing.extend(answer.map(|answer| (recipient.to_owned(), answer)));
    }

    fn times_asked(&self, recipient: &str) -> usize {
        let asked = &self.mailboxes.lock().unwrap().asked;
        asked.iter().filter(|name| *name == recipient).count()
    }

    /// The bodies that a recipient received, in order.
    fn messages(&self, recipient: &str) -> Vec<String> {
        self.found(recipient, |line| line.starts_with("text "))
    }

    fn message_ids(&self, recipient: &str) -> Vec<String> {
        self.found(recipient, |line| line.starts_with("Message-ID: "))
    }

    /// The first line of this kind in each message that a recipient accepted.
    fn found(&self, recipient: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let heard = self.fake.heard();
        let messages = heard.split(|line| line == ".").map(|lines| {
            let found = lines.iter().find(|line| is_wanted(line));
            found.cloned().unwrap_or_default()
        });
        let taken = self.mailboxes.lock().unwrap().taken.clone();
        let own = messages
            .zip(taken)
            .filter(|(_, who)| who.contains(&recipient.to_owned()));
        own.map(|(line, _)| line).collect()
    }

    fn wait_for(&self, recipient: &str, messages: &[String]) {
        wait_for(&format!("{messages:?} at {recipient}"), || {
            (self.messages(recipient).len() >= messages.len()).then_some(())
        });
        assert_eq!(self.messages(recipient), messages, "{recipient}");
    }
}

impl Mailboxes {
    fn hear(&mut self, line: &str) -> Option<Turn> {
        if line.starts_with("MAIL") {
            self.accepted.clear();
        }
        if line == "." {
            self.taken.push(self.accepted.clone());
        }
        let recipient = line.strip_prefix("RCPT TO:<")?.strip_suffix('>')?;
        self.asked.push(recipient.to_owned());
        let answer = self.refusing.get(recipient).copied();
        if answer.is_none() {
            self.accepted.push(recipient.to_owned());
        }
        answer.map(Turn::Say)
    }
}

/// The bodies of numbered messages of one conversation.
fn messages(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| format!("text {number}")).collect()
}

fn receive(bridge: &Bridge, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        let text = format!("text {number}");
        let (status, _) = bridge.post_message(&format!("{number:032X}"), "+13035550100", &text);
        assert_eq!(status, 200);
    }
}

/// The deliveries of all messages, oldest first.
fn deliveries(bridge: &Bridge) -> Vec<serde_json::Value> {
    let (_, page) = bridge.admin("GET", "/messages?limit=100", "").unwrap();
    let messages = page["items"].as_array().unwrap().iter().rev();
    messages
        .flat_map(|message| message["deliveries"].as_array().unwrap().clone())
        .collect()
}

fn of<'a>(delivery: &'a serde_json::Value, field: &str) -> &'a str {
    delivery[field].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_mailbox_delays_no_other_recipient() {
    let server = MailServer::start(&[(NIGHT, FULL)]).await;
    let mut bridge = server.bridge(&[DESK, NIGHT], "");
    receive(&bridge, 1..=6);
    server.wait_for(DESK, &messages(1..=6));
    assert!(server.messages(NIGHT).is_empty());
    let pending = wait_for("night's own deliveries", || {
        let own = deliveries(&bridge);
        let pending = own
            .into_iter()
            .filter(|delivery| of(delivery, "state") == "pending" && of(delivery, "recipient") == NIGHT);
        let pending: Vec<_> = pending.collect();
        (pending.len() == 6).then_some(pending)
    });
    for delivery in &pending {
        assert_eq!(of(delivery, "destination"), "desk");
    }
    assert_eq!(
        of(&pending[0], "reason"),
        "refused for night@example.com: 452 4.2.2 mailbox full"
    );
    let id = of(&pending[0], "id").to_owned();
    let (_, shown, _) = bridge.command(&["delivery", "show", &id]);
    assert!(shown.contains("recipient") && shown.contains(NIGHT), "{shown}");

    bridge.kill();
    bridge.run();
    server.answer(NIGHT, None);
    server.wait_for(NIGHT, &messages(1..=6));
    receive(&bridge, 7..=8);
    server.wait_for(DESK, &messages(1..=8));
    server.wait_for(NIGHT, &messages(1..=8));
    assert_eq!(server.message_ids(DESK), server.message_ids(NIGHT));
    wait_for("nothing pending", || {
        let own = deliveries(&bridge);
        own.iter()
            .all(|delivery| of(delivery, "state") == "delivered")
            .then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanently_refused_recipient_is_a_dead_letter_and_the_fallback_takes_over_once() {
    let server = MailServer::start(&[(NIGHT, UNKNOWN), ("gone@example.com", UNKNOWN)]).await;
    let bridge = server.bridge(&[DESK, NIGHT, "gone@example.com"], "fallback = \"screen\"");
    receive(&bridge, 1..=1);
    server.wait_for(DESK, &messages(1..=1));
    let own = wait_for("four deliveries", || {
        Some(deliveries(&bridge)).filter(|own| own.len() == 4)
    });
    let shown: Vec<(&str, &str, &str)> = own
        .iter()
        .map(|delivery| {
            (
                of(delivery, "destination"),
                of(delivery, "recipient"),
                of(delivery, "state"),
            )
        })
        .collect();
    assert_eq!(
        shown[..3],
        [
            ("desk", "", "delivered"),
            ("desk", NIGHT, "dead"),
            ("desk", "gone@example.com", "dead")
        ]
    );
    assert_eq!(shown[3].0, "screen");
    assert_eq!(
        of(&own[1], "reason"),
        "refused for night@example.com: 550 5.1.1 no such user"
    );
    assert!(
        bridge
            .logged("delivery to desk failed permanently: refused for night@")
            .contains(of(&own[1], "id"))
    );
    wait_for("the fallback", || (bridge.console().len() == 1).then_some(()));

    server.answer(NIGHT, None);
    let (status, _, _) = bridge.command(&["delivery", "retry", of(&own[1], "id")]);
    assert_eq!(status, 0);
    server.wait_for(NIGHT, &messages(1..=1));
    assert_eq!(server.messages(DESK), messages(1..=1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_recipients_are_tried_together_and_split_when_one_accepts() {
    let server = MailServer::start(&[(DESK, GREYLISTED), (NIGHT, FULL)]).await;
    let bridge = server.bridge(&[DESK, NIGHT], "");
    receive(&bridge, 1..=3);
    wait_for("a second attempt", || {
        (server.times_asked(DESK) >= 2).then_some(())
    });
    assert_eq!(
        deliveries(&bridge).len(),
        3,
        "no recipient has accepted, so nothing is split"
    );
    server.answer(DESK, None);
    server.wait_for(DESK, &messages(1..=3));
    assert!(server.messages(NIGHT).is_empty());
    server.answer(NIGHT, None);
    server.wait_for(NIGHT, &messages(1..=3));
    assert_eq!(server.messages(DESK), messages(1..=3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_recipient_beside_a_refused_one_keeps_its_order() {
    let server = MailServer::start(&[(DESK, FULL), (NIGHT, UNKNOWN)]).await;
    let bridge = server.bridge(&[DESK, NIGHT], "");
    receive(&bridge, 1..=3);
    wait_for("night's dead letters", || {
        let own = deliveries(&bridge);
        let dead = own.iter().filter(|delivery| of(delivery, "state") == "dead");
        (dead.count() == 3).then_some(())
    });
    server.answer(NIGHT, None);
    receive(&bridge, 4..=4);
    server.wait_for(NIGHT, &messages(4..=4));
    assert!(server.messages(DESK).is_empty());
    server.answer(DESK, None);
    server.wait_for(DESK, &messages(1..=4));
    assert_eq!(server.messages(NIGHT), messages(4..=4));
}
