//! Every kind of destination that posts to a service, against a server that behaves as the service's documents say.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use smsbridge::destination::{Failure, KINDS};
use smsbridge::model::message::Media;

use crate::bridge::{Bridge, wait_for};
use crate::fixtures::{build, class, message, outbound, read};
use crate::pages::root;
use crate::servers::played::{PLAYED, Played, form};
use crate::servers::recorder::{Received, Recorder, Reply};

mod harmless;

/// A text that tries what the services offer: mentions, links with another label, formatting, commands.
const HOSTILE: &str = "@everyone @channel <!here> <users/all> <@U1> <https://evil.example|bank> [bank](https://evil.example)\r\n\
                       *bold* _it_ ~~no~~ `x` # head /start <at>Ann</at> <b>b</b> \u{202e}{{7*7}}";

/// Kinds with tests of their own, which post to no service.
const OTHERS: [&str; 2] = ["console", "email"];

/// A service that first gives the scripted answers.
async fn start(played: &Played, script: Vec<Reply>) -> Recorder {
    let (answer, script) = (played.answer, Arc::new(Mutex::new(VecDeque::from(script))));
    Recorder::start(move |request| {
        let scripted = script.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| answer(request))
    })
    .await
}

fn payload(request: &Received) -> Value {
    match request.header("content-type").contains("urlencoded") {
        true => form(&request.body),
        false => request.json(),
    }
}

#[test]
fn every_kind_has_a_played_service() {
    let played: BTreeSet<&str> = PLAYED.iter().map(|played| played.kind).chain(OTHERS).collect();
    let kinds: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(played, kinds);
}

#[test]
fn a_kind_without_its_keys_is_an_error_that_names_one() {
    for played in PLAYED {
        let error = build(played.kind, json!({}), None).err().unwrap_or_default();
        let keys = (played.config)("https://service.example");
        let named = keys
            .as_object()
            .unwrap()
            .keys()
            .any(|key| error.contains(&format!("`{key}`")));
        assert!(named, "{}: {error}", played.kind);
    }
}

#[test]
fn secrets_that_cross_the_network_or_are_placeholders_are_warned_about() {
    for played in PLAYED {
        // Only the URL of a webhook without credentials is no secret.
        if played.kind == "webhook" {
            continue;
        }
        let lints = |config: Value| read(played.kind, config).unwrap().lints();
        let config = (played.config)("http://service.example");
        let open = lints(config.clone());
        assert!(
            open.iter().any(|lint| lint.message.contains("unencrypted")),
            "{}: {open:?}",
            played.kind
        );
        let closed = lints((played.config)("https://service.example"));
        assert!(closed.is_empty(), "{}: {closed:?}", played.kind);
        for key in ["token", "access_token", "routing_key", "user"] {
            if config.get(key).is_some() {
                let mut config = (played.config)("https://service.example");
                config[key] = json!("change-me");
                assert!(
                    lints(config).iter().any(|lint| lint.key == key),
                    "{}.{key}",
                    played.kind
                );
            }
        }
    }
}

/// The conduct of each kind, one line each: shown with `--nocapture`.
#[tokio::test]
async fn every_kind_pauses_parks_gives_up_and_delivers() {
    println!(
        "{:<24} {:<18} {:>8} {:<8} {:<10} delivered",
        "kind", "payload", "429", "parked", "permanent"
    );
    for played in PLAYED {
        let name = format!("{} {}", played.kind, played.way);
        let script = vec![(played.limited)(), (played.parked)(), (played.refused)()];
        let server = start(played, script).await;
        let destination = build(played.kind, (played.config)(&server.url("")), None).unwrap();
        let mut message = message(HOSTILE);
        message.media.push(Media {
            link: "https://example.com/a.jpg".to_owned(),
            content_type: Some("image/jpeg".to_owned()),
            filename: None,
        });
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(destination.deliver(&outbound(&message)).await);
        }
        let Err(Failure::Transient {
            retry_after: Some(pause),
            ..
        }) = &outcomes[0]
        else {
            panic!("{name}: {:?}", outcomes[0])
        };
        assert_eq!(
            (class(outcomes[0].as_ref().unwrap_err()), pause.as_secs()),
            ("destination", played.pause),
            "{name}"
        );
        assert_eq!(class(outcomes[1].as_ref().unwrap_err()), "parked", "{name}");
        assert_eq!(class(outcomes[2].as_ref().unwrap_err()), "permanent", "{name}");
        assert!(outcomes[3].is_ok(), "{name}: {:?}", outcomes[3]);
        let received = server.received();
        let sent = payload(&received[3]);
        assert_eq!(payload(&received[0]), sent, "{name}: every attempt is the same");
        assert!(
            (played.shown)(&sent)
                .iter()
                .all(|text| !text.contains(['\u{202e}', '\r']))
                || played.kind == "webhook",
            "{name}"
        );
        println!(
            "{name:<24} {:>12} bytes {:>7}s {:<8} {:<10} yes",
            sent.to_string().len(),
            pause.as_secs(),
            "yes",
            "yes"
        );
    }
}

/// `UPDATE_GOLDEN=1` writes the files.
#[test]
fn payloads_are_those_of_the_fixtures() {
    for played in PLAYED {
        let name = [played.kind, played.way].join("-");
        let path = root().join(format!(
            "tests/fixtures/destinations/{}.json",
            name.trim_end_matches('-')
        ));
        let mut message = message(HOSTILE);
        message.media.push(Media {
            link: "https://example.com/a_b.jpg?x=1&y=2".to_owned(),
            content_type: Some("image/jpeg".to_owned()),
            filename: Some("*a*_b.jpg".to_owned()),
        });
        message.media.push(Media {
            link: "https://bank.example@evil.example/".to_owned(),
            content_type: None,
            filename: None,
        });
        let destination = build(played.kind, (played.config)("https://service.example"), None).unwrap();
        let rendered = destination.render(&outbound(&message)).unwrap() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &rendered).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap_or_default(),
            rendered,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_rendered_payload_has_no_secret() {
    for played in PLAYED {
        let destination = build(played.kind, (played.config)("https://service.example"), None).unwrap();
        let rendered = destination.render(&outbound(&message("hello"))).unwrap();
        for secret in [
            "token",
            "0123456789abcdef0123456789abcdef",
            "pushover-user",
            "a-signature",
            "google-key",
        ] {
            assert!(!rendered.contains(secret), "{}: {rendered}", played.kind);
        }
    }
}

#[tokio::test]
async fn the_longest_text_is_cut_to_what_each_service_accepts() {
    for text in [
        "a".repeat(65_536),
        "👩‍🚀".repeat(10_000),
        "*@\\\"\n".repeat(13_000),
        "\0".repeat(65_536),
    ] {
        for played in PLAYED {
            for template in [None, Some("{{ text }}")] {
                let server = start(played, Vec::new()).await;
                let destination = build(played.kind, (played.config)(&server.url("")), template).unwrap();
                let mut message = message(&text);
                let media = Media {
                    link: format!("https://example.com/{}", "x".repeat(1_000)),
                    content_type: Some("y".repeat(300)),
                    filename: None,
                };
                message.media = vec![media; 12];
                let mut outbound = outbound(&message);
                let name = "*n".repeat(300);
                outbound.from_name = Some(&name);
                outbound.to_name = Some(&name);
                let delivered = destination.deliver(&outbound).await;
                assert!(delivered.is_ok(), "{} {}: {delivered:?}", played.kind, played.way);
                let received = server.received();
                let shown = (played.shown)(&payload(&received[0])).concat();
                let whole = ["webhook", "slack", "pagerduty", "gotify"].contains(&played.kind);
                let told = shown.contains("smsbridge message show 00000000000000000000000000000007");
                assert!(told || whole, "{} {}: {shown}", played.kind, played.way);
            }
        }
    }
}

/// Everything a thread needs is kept by the store: the root comes back with the next message.
#[tokio::test]
async fn a_conversation_keeps_its_thread() {
    let find = |kind: &str, way: &str| {
        PLAYED
            .iter()
            .find(|played| (played.kind, played.way) == (kind, way))
            .unwrap()
    };
    let hello = message("hello");

    let mattermost = find("mattermost", "token");
    let server = start(mattermost, Vec::new()).await;
    let destination = build("mattermost", (mattermost.config)(&server.url("")), None).unwrap();
    let mut outbound = outbound(&hello);
    assert_eq!(
        destination.deliver(&outbound).await.unwrap().thread.as_deref(),
        Some("post")
    );
    outbound.thread = Some("post");
    assert_eq!(destination.deliver(&outbound).await.unwrap().thread, None);
    outbound.thread = Some("deleted");
    assert_eq!(
        destination.deliver(&outbound).await.unwrap().thread.as_deref(),
        Some("post")
    );
    let roots: Vec<Value> = server
        .received()
        .iter()
        .map(|request| request.json()["root_id"].clone())
        .collect();
    assert_eq!(roots, [Value::Null, json!("post"), json!("deleted"), Value::Null]);

    let telegram = find("telegram", "");
    let limited = (telegram.limited)();
    let made = Reply::new(200, r#"{"ok":true,"result":{"message_thread_id":5}}"#);
    let server = start(telegram, vec![made, limited]).await;
    let mut config = (telegram.config)(&server.url(""));
    config["topics"] = json!(true);
    let destination = build("telegram", config, None).unwrap();
    outbound.thread = None;
    assert_eq!(
        class(&destination.deliver(&outbound).await.unwrap_err()),
        "destination"
    );
    assert_eq!(
        destination.deliver(&outbound).await.unwrap().thread.as_deref(),
        Some("5")
    );
    outbound.thread = Some("5");
    assert_eq!(destination.deliver(&outbound).await.unwrap().thread, None);
    outbound.thread = Some("4");
    assert_eq!(
        destination.deliver(&outbound).await.unwrap().thread.as_deref(),
        Some("5")
    );
    let calls: Vec<String> = server
        .received()
        .iter()
        .map(|call| call.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    // The topic of the attempt that failed is used again, and a deleted one is made again.
    let expected = [
        "createForumTopic",
        "sendMessage",
        "sendMessage",
        "sendMessage",
        "sendMessage",
        "createForumTopic",
        "sendMessage",
    ];
    assert_eq!(calls, expected);

    let chat = find("google-chat", "");
    let server = start(chat, Vec::new()).await;
    let destination = build("google-chat", (chat.config)(&server.url("")), None).unwrap();
    destination.deliver(&outbound).await.unwrap();
    assert_eq!(
        server.received()[0].json()["thread"]["threadKey"],
        json!(hello.conversation().to_string())
    );
}

#[tokio::test]
async fn the_daemon_delivers_tests_and_renders_every_kind() {
    let mut servers = Vec::new();
    let (mut config, mut names) = (String::new(), Vec::new());
    for played in PLAYED {
        let server = start(played, Vec::new()).await;
        let name = format!("{}{}", played.kind, played.way);
        let table = toml::Value::try_from((played.config)(&server.url(""))).unwrap();
        config += &format!(
            "[destination.{name}]\nkind = \"{}\"\n{}",
            played.kind,
            toml::to_string(&table).unwrap()
        );
        names.push(name);
        servers.push(server);
    }
    config += &format!("[routing]\nunmatched = {names:?}\n");
    tokio::task::spawn_blocking(move || {
        let bridge = Bridge::start(&config);
        assert_eq!(bridge.post_message("A", "+13035550100", "hello there").0, 200);
        for (name, server) in names.iter().zip(&servers) {
            wait_for(name, || {
                server
                    .received()
                    .iter()
                    .any(|request| request.body.contains("hello"))
                    .then_some(())
            });
            let (code, out, err) = bridge.command(&["destination", "test", name]);
            assert_eq!(code, 0, "{name}: {out}{err}");
        }
        let arguments = [
            "route",
            "--from",
            "+13035550100",
            "--to",
            "+13038675309",
            "--message",
            "hi there",
            "--render",
        ];
        let (code, out, err) = bridge.command(&arguments);
        assert_eq!(code, 0, "{err}");
        assert!(out.matches("hi there").count() >= PLAYED.len(), "{out}");
    })
    .await
    .unwrap();
}

/// What is left of a message for a destination, with every kind and both ways to word it.
#[tokio::test]
async fn content_and_time_zone_apply_to_every_kind() {
    const CODE: &str = "Your code is 918273 or 55-44-33, see https://login.example/x";
    let mut servers = Vec::new();
    let (mut config, mut names) = (String::new(), Vec::new());
    for (at, played) in PLAYED.iter().enumerate() {
        let server = start(played, Vec::new()).await;
        let table = toml::Value::try_from((played.config)(&server.url(""))).unwrap();
        let table = toml::to_string(&table).unwrap();
        for content in ["masked", "none"] {
            for template in ["", "template = '{{ text }} {{ match.code }} {{ received_at }}'\n"] {
                let name = format!("d{at}-{content}-{}", template.len());
                config += &format!(
                    "[destination.{name}]\nkind = '{}'\ncontent = '{content}'\ntimezone = 'Europe/Berlin'\n{template}{table}\n",
                    played.kind
                );
                names.push(name);
            }
        }
        servers.push(server);
    }
    config += &format!(
        "[destination.screen]\nkind = 'console'\ncontent = 'masked'\n\
         [smtp.main]\nhost = 'localhost'\n\
         [destination.desk]\nkind = 'email'\nsmtp = 'main'\nfrom = 'a@b.example'\nto = ['a@b.example']\ncontent = 'masked'\n\
         subject = '{{{{ text }}}}'\n\
         [[route]]\nname = 'all'\nmessage = 'code is (?<code>[0-9]+)'\ndeliver = {names:?}\n\
         [routing]\nunmatched = ['screen']\n"
    );
    names.extend(["screen".to_owned(), "desk".to_owned()]);
    config = config.replace("deliver = [", "deliver = ['screen', 'desk', ");
    tokio::task::spawn_blocking(move || {
        let bridge = Bridge::start(&config);
        let arguments = [
            "--json",
            "route",
            "--from",
            "+13035550100",
            "--to",
            "+13038675309",
            "--message",
            CODE,
            "--render",
        ];
        let (code, out, err) = bridge.command(&arguments);
        assert_eq!(code, 0, "{err}");
        let explained: Value = serde_json::from_str(&out).unwrap();
        let planned = explained["destinations"].as_array().unwrap();
        assert_eq!(planned.len(), names.len());
        for planned in planned {
            let name = planned["destination"].as_str().unwrap();
            let payload = planned["payload"].as_str().unwrap_or_else(|| panic!("{planned}"));
            for secret in ["918273", "55-44", "login.example", "login\\.example"] {
                assert!(!payload.contains(secret), "{name}: {payload}");
            }
            let shown = match name.contains("none") {
                true => "smsbridge message show",
                false => "••••••",
            };
            assert!(payload.contains(shown) || name == "desk", "{name}: {payload}");
            if name.contains("none") {
                assert!(!payload.contains("Your code"), "{name}: {payload}");
                assert!(
                    payload.replace('\\', "").contains("+02:00")
                        || payload.replace('\\', "").contains("+01:00"),
                    "{name}: {payload}"
                );
            }
        }
        assert_eq!(bridge.post_message("A", "+13035550100", CODE).0, 200);
        for (played, server) in PLAYED.iter().zip(&servers) {
            let sent = wait_for(played.kind, || {
                let received: Vec<Received> = server
                    .received()
                    .into_iter()
                    .filter(|request| !request.body.is_empty())
                    .collect();
                (received.len() >= 4).then_some(received)
            });
            for request in sent {
                let payload = payload(&request).to_string();
                for secret in ["918273", "55-44", "login.example", "login\\\\.example"] {
                    assert!(!payload.contains(secret), "{}: {payload}", played.kind);
                }
            }
        }
        assert!(bridge.console().iter().all(|line| !line.contains("918273")));
    })
    .await
    .unwrap();
}

/// A service that repeats the whole request in its answer, in a form of its own.
fn quoting(request: &Received, status: u16) -> Reply {
    let headers: Vec<String> = request
        .headers
        .values()
        .map(|value| value.to_str().unwrap_or_default().to_owned())
        .collect();
    let words = format!("{} {} {}", request.path, headers.join(" "), request.body);
    let body = json!({
        "message": words, "description": words, "error": words, "errorDescription": words, "errors": [words],
        "ok": false, "status": 0,
    });
    Reply::new(status, &body.to_string())
}

#[tokio::test]
async fn no_answer_reveals_a_secret_or_the_message() {
    const TEXT: &str = "zanzibar quicksilver 918273";
    let secrets = [
        "telegram-token",
        "discord-token",
        "tk_ntfy-token",
        "0123456789abcdef0123456789abcdef",
        "mattermost-key",
        "mattermost-token",
        "google-key",
        "google-token",
        "pushover-token",
        "pushover-user",
        "gotify-token",
        "a-signature",
        "matrix-token",
    ];
    for played in PLAYED {
        for status in [200, 302, 400, 401, 404, 409, 429, 500] {
            let server = Recorder::start(move |request| quoting(request, status)).await;
            let destination = build(played.kind, (played.config)(&server.url("")), None).unwrap();
            let outcome = destination.deliver(&outbound(&message(TEXT))).await;
            let shown = match &outcome {
                Ok(delivered) => delivered.detail.clone(),
                Err(failure) => format!("{} {}", failure.reason().shown(), failure.reason().logged()),
            };
            for canary in
                secrets
                    .into_iter()
                    .chain(["zanzibar", "quicksilver", "918273", "3035550100", "8675309"])
            {
                assert!(
                    !shown.contains(canary),
                    "{} {} {status}: {shown}",
                    played.kind,
                    played.way
                );
            }
        }
    }
}
