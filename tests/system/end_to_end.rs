//! The whole path: a webhook, and the message read back from a real mail server, a real Matrix homeserver and
//! a server that behaves as Slack does.

use serde_json::json;

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::servers::postfix::{PASSWORD, Postfix, USERNAME};
use crate::servers::recorder::{Received, Recorder};
use crate::servers::slack;
use crate::servers::synapse::synapse;

fn config(postfix: &Postfix, room: &str, token: &str, slack_url: &str) -> String {
    let (port, ca, homeserver) = (postfix.starttls_port, postfix.ca_file(), synapse().url());
    format!(
        r#"
[smtp.main]
host = "localhost"
port = {port}
security = "starttls"
username = "{USERNAME}"
password = "{PASSWORD}"
ca_file = "{}"

[destination.desk]
kind = "email"
smtp = "main"
from = "SMS bridge <sms@example.com>"
to = ["desk@example.com"]

[destination.room]
kind = "matrix"
homeserver = "{homeserver}"
room = "{room}"
access_token = "{token}"

[destination.ops]
kind = "slack"
webhook_url = "{slack_url}"

[contacts]
"+13035550100" = "Front door alarm"

[[route]]
name = "urgent"
to = ["+13038675309"]
message = '(?i)\b(?P<word>urgent|down)\b'
deliver = ["ops", "room"]
continue = true

[[route]]
name = "all"
deliver = ["desk"]

[routing]
unmatched = ["desk"]
"#,
        ca.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Postfix and Synapse: tests/run"]
async fn a_message_arrives_at_postfix_synapse_and_slack() {
    let postfix = tokio::task::spawn_blocking(Postfix::start).await.unwrap();
    let (reader, user) = (synapse().user("reader").await, synapse().user("bridge").await);
    let room = reader.room(json!({ "invite": [user.id] })).await;
    let slack = Recorder::start(|request| slack::answer(request, &mut Vec::new())).await;
    let slack_url = slack.url("/services/T0/B0/key");
    let bridge = Bridge::start(&config(&postfix, &room, &user.token, &slack_url));

    let hostile = "URGENT <!channel> @room\r\nBcc: victim@example.com\r\n\r\n<https://evil.example|your bank> \u{202e}x";
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", hostile).0, 200);
    assert_eq!(
        bridge.post_message(&refid(2), "+13035550100", "all is well").0,
        200
    );

    let mails = tokio::task::block_in_place(|| postfix.mails("desk", 2));
    assert!(
        mails
            .iter()
            .all(|mail| mail.contains("Auto-Submitted: auto-generated")),
        "{mails:#?}"
    );
    assert!(mails.iter().any(|mail| mail.contains("all is well")));
    assert!(postfix.mails("victim", 0).is_empty());

    let payload = tokio::task::block_in_place(|| {
        wait_for("Slack's payload", || slack.received().first().map(Received::json))
    });
    let payload = payload.to_string();
    assert!(
        payload.contains("&lt;!channel&gt;") && !payload.contains("<!channel>"),
        "{payload}"
    );

    for _ in 0..200 {
        if !reader.messages(&room).await.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let events = reader.messages(&room).await;
    assert_eq!(events.len(), 1, "only the urgent message: {events:#?}");
    assert_eq!(events[0]["content"]["m.mentions"], json!({}));
    let body = events[0]["content"]["body"].as_str().unwrap();
    assert!(
        body.contains("Front door alarm") && body.contains("[U+202E]"),
        "{body}"
    );
}
