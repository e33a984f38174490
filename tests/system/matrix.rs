//! Matrix, against a real homeserver.

use std::time::Duration;

use serde_json::{Value, json};
use smsbridge::destination::{Destination, Failure, Scope};

use smsbridge::model::message::{Message, MessageId};
use uuid::Uuid;

use crate::fixtures::{build, class, message, outbound};
use crate::servers::synapse::{User, synapse};

/// A room of a reader, with the bridge's user invited.
struct Setting {
    reader: User,
    bridge: User,
    room: String,
}

impl Setting {
    async fn new(options: Value) -> Self {
        let reader = synapse().user("reader").await;
        let bridge = synapse().user("bridge").await;
        let mut options = options;
        options["invite"] = json!([bridge.id]);
        let room = reader.room(options).await;
        Self { reader, bridge, room }
    }

    fn config(&self) -> Value {
        json!({ "homeserver": synapse().url(), "room": self.room, "access_token": self.bridge.token })
    }

    fn destination(&self) -> Box<dyn Destination> {
        build("matrix", self.config(), None).unwrap()
    }

    async fn messages(&self) -> Vec<Value> {
        self.reader.messages(&self.room).await
    }
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn an_invited_user_joins_and_another_user_reads_the_message() {
    let setting = Setting::new(json!({})).await;
    let delivered = setting
        .destination()
        .deliver(&outbound(&fresh_message("hello <b>@room</b>\n\u{202e}")))
        .await
        .unwrap();
    let messages = setting.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["sender"], json!(setting.bridge.id));
    assert_eq!(delivered.thread.as_deref(), messages[0]["event_id"].as_str());
    assert_eq!(
        messages[0]["content"],
        json!({
            "msgtype": "m.text",
            "body": "Front door (+13035550100) → +13038675309\nhello <b>@room</b>\n[U+202E]",
            "format": "org.matrix.custom.html",
            "formatted_body": "<strong>Front door</strong> (+13035550100) → +13038675309<br>\
                               hello &lt;b&gt;@room&lt;/b&gt;<br>[U+202E]",
            "m.mentions": {},
        })
    );
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn a_repeated_delivery_is_one_event() {
    let setting = Setting::new(json!({})).await;
    let message = fresh_message("once");
    let first = setting.destination().deliver(&outbound(&message)).await.unwrap();
    // A second instance does not share state with the first, as after a crash.
    let second = setting.destination().deliver(&outbound(&message)).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(setting.messages().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn a_conversation_keeps_one_thread() {
    let setting = Setting::new(json!({})).await;
    let destination = setting.destination();
    let root = destination
        .deliver(&outbound(&fresh_message("one")))
        .await
        .unwrap()
        .thread
        .unwrap();
    let message = fresh_message("two");
    let mut second = outbound(&message);
    second.thread = Some(&root);
    assert_eq!(destination.deliver(&second).await.unwrap().thread, None);
    let relation = &setting.messages().await[1]["content"]["m.relates_to"];
    assert_eq!(
        (&relation["rel_type"], &relation["event_id"]),
        (&json!("m.thread"), &json!(root))
    );
    assert_eq!(relation["m.in_reply_to"]["event_id"], json!(root));
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn a_rejected_thread_is_left_out() {
    let setting = Setting::new(json!({})).await;
    let destination = setting.destination();
    let root = destination
        .deliver(&outbound(&fresh_message("one")))
        .await
        .unwrap()
        .thread
        .unwrap();
    let message = fresh_message("two");
    let mut second = outbound(&message);
    second.thread = Some(&root);
    destination.deliver(&second).await.unwrap();
    // An event inside a thread cannot be the root of another one: the server refuses that.
    let inside = setting.messages().await[1]["event_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let message = fresh_message("three");
    let mut third = outbound(&message);
    third.thread = Some(&inside);
    let delivered = destination.deliver(&third).await.unwrap();
    assert_eq!(
        destination.deliver(&third).await.unwrap(),
        delivered,
        "a repeat is the same event"
    );
    let messages = setting.messages().await;
    assert_eq!(messages.len(), 3);
    assert!(messages[2]["content"].get("m.relates_to").is_none());
    assert_eq!(
        delivered.thread.as_deref(),
        messages[2]["event_id"].as_str(),
        "it begins the next thread"
    );
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn an_alias_stands_for_its_room() {
    let alias = format!("desk-{}", uuid::Uuid::now_v7().simple());
    let setting = Setting::new(json!({ "room_alias_name": alias })).await;
    let mut config = setting.config();
    config["room"] = json!(format!("#{alias}:localhost"));
    build("matrix", config.clone(), None)
        .unwrap()
        .deliver(&outbound(&fresh_message("hi")))
        .await
        .unwrap();
    assert_eq!(setting.messages().await.len(), 1);

    config["room"] = json!("#nowhere:localhost");
    let failure = build("matrix", config, None)
        .unwrap()
        .deliver(&outbound(&fresh_message("hi")))
        .await
        .unwrap_err();
    assert_eq!(class(&failure), "parked");
    assert!(failure.reason().shown().contains("M_NOT_FOUND"), "{failure:?}");
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn a_wrong_token_parks() {
    let setting = Setting::new(json!({})).await;
    let mut config = setting.config();
    config["access_token"] = json!("syt_wrong");
    let failure = build("matrix", config, None)
        .unwrap()
        .deliver(&outbound(&fresh_message("hi")))
        .await
        .unwrap_err();
    assert_eq!(class(&failure), "parked");
    assert!(
        failure.reason().shown().contains("M_UNKNOWN_TOKEN"),
        "{failure:?}"
    );
    assert!(!failure.reason().shown().contains("syt_wrong"), "{failure:?}");
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn a_room_that_is_closed_to_the_user_parks() {
    let setting = Setting::new(json!({})).await;
    let destination = setting.destination();
    destination
        .deliver(&outbound(&fresh_message("one")))
        .await
        .unwrap();
    setting.reader.kick(&setting.room, &setting.bridge).await;
    let failure = destination
        .deliver(&outbound(&fresh_message("two")))
        .await
        .unwrap_err();
    assert_eq!(class(&failure), "parked");
    assert!(failure.reason().shown().contains("M_FORBIDDEN"), "{failure:?}");
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn join_false_joins_no_room() {
    let setting = Setting::new(json!({})).await;
    let mut config = setting.config();
    config["join"] = json!(false);
    let failure = build("matrix", config, None)
        .unwrap()
        .deliver(&outbound(&fresh_message("hi")))
        .await
        .unwrap_err();
    assert_eq!(class(&failure), "parked");
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn a_rate_limit_pauses_the_destination_for_the_requested_time() {
    let setting = Setting::new(json!({})).await;
    let destination = setting.destination();
    destination
        .deliver(&outbound(&fresh_message("joined")))
        .await
        .unwrap();
    synapse().slow_down(&setting.bridge).await;
    let mut failure = None;
    for _ in 0..10 {
        failure = failure.or(destination
            .deliver(&outbound(&fresh_message("again")))
            .await
            .err());
    }
    let Some(Failure::Transient {
        retry_after: Some(wait),
        scope: Scope::Destination,
        ..
    }) = failure
    else {
        panic!("{failure:?}")
    };
    assert!(wait <= Duration::from_secs(30), "{wait:?}");
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn an_encrypted_room_is_reported() {
    let encryption =
        json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let setting = Setting::new(json!({ "initial_state": [encryption] })).await;
    let delivered = setting
        .destination()
        .deliver(&outbound(&fresh_message("hi")))
        .await
        .unwrap();
    assert!(delivered.detail.contains("encrypted room"), "{delivered:?}");
    let plain = Setting::new(json!({}))
        .await
        .destination()
        .deliver(&outbound(&fresh_message("hi")))
        .await
        .unwrap();
    assert!(!plain.detail.contains("encrypted"), "{plain:?}");
}

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn the_longest_body_is_accepted() {
    let setting = Setting::new(json!({})).await;
    let mut config = setting.config();
    config["msgtype"] = json!("m.notice");
    let destination = build("matrix", config, None).unwrap();
    for text in ["<&>\"".repeat(16_384), "\0".repeat(65_536)] {
        destination
            .deliver(&outbound(&fresh_message(&text)))
            .await
            .unwrap();
    }
    let messages = setting.messages().await;
    assert!(
        messages
            .iter()
            .all(|text| text["content"]["msgtype"] == "m.notice")
    );
    assert_eq!(messages.len(), 2);
}

/// A message with a new id, for servers that keep state.
fn fresh_message(text: &str) -> Message {
    Message {
        id: MessageId(Uuid::now_v7()),
        ..message(text)
    }
}
