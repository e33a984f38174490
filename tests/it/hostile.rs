//! Hostile messages through every kind of destination that people read.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use smsbridge::destination::http::Client;
use smsbridge::model::setting::from_toml;

use crate::fixtures::{TIMEOUT, build_with, message, outbound};

/// Creating a client takes a while, and these tests send nothing.
static CLIENT: LazyLock<Client> = LazyLock::new(|| Client::new().unwrap());

/// Hostile message bodies.
const TEXTS: &[&str] = &[
    "<!channel> <!here|x> <@U123> <#C123>",
    "@room @everyone @channel",
    "a\r\nBcc: evil@example.com\r\n\r\nbody",
    "abc\u{202e}fdp.exe \u{2066}x",
    "<https://evil.example|bank> [bank](https://evil.example)",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</strong></a><a href='https://evil.example'>bank</a>",
    "{{7*7}} {% for a in range(9) %}x{% endfor %}",
    "\u{1b}[2J\u{1b}]0;title\u{7} \u{9b}31m",
    "a\0b",
    "&amp;lt;script&amp;gt; &#60;b&#62;",
    "\u{2028}\u{feff}\u{e0041}",
    "",
];

fn slack() -> Value {
    json!({ "webhook_url": "https://hooks.example/x" })
}

fn matrix() -> Value {
    json!({ "homeserver": "https://m.example", "room": "!a:m.example", "access_token": "t" })
}

fn hookshot() -> Value {
    json!({ "webhook_url": "https://h.example/x", "username": "SMS" })
}

fn webhook() -> Value {
    json!({ "url": "https://crm.example/x" })
}

fn rendered(kind: &str, config: Value, template: Option<&str>, text: &str) -> String {
    build_with(&CLIENT, kind, config, template, TIMEOUT)
        .unwrap()
        .render(&outbound(&message(text)))
        .unwrap()
}

fn payload(kind: &str, config: Value, template: Option<&str>, text: &str) -> Value {
    serde_json::from_str(&rendered(kind, config, template, text)).unwrap()
}

#[test]
fn p21_the_console_prints_one_harmless_line() {
    for text in TEXTS {
        let line = rendered("console", json!({}), None, text);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}'), "{line:?}");
        assert!(
            line.starts_with("2026-09-21T14:13:20.000Z Front door → +13038675309:"),
            "{line:?}"
        );
    }
    let two = rendered("console", json!({}), Some("{{ from }}\n{{ text }}\n"), "a\nb");
    assert_eq!(two, "+13035550100 a b");
}

#[test]
fn p21_slack_gets_no_mention_and_no_link_from_the_body() {
    for text in TEXTS {
        for template in [None, Some("{{ text }}")] {
            let payload = payload("slack", slack(), template, text);
            check_slack(&payload, template.is_some());
        }
    }
}

/// No string has an unescaped control character of Slack's, and no field makes Slack search for mentions.
fn check_slack(payload: &Value, template: bool) {
    for string in strings(payload) {
        assert!(!string.contains(['<', '>']), "markup leaked: {string:?}");
        let bare = string
            .replace("&amp;", "")
            .replace("&lt;", "")
            .replace("&gt;", "");
        assert!(!bare.contains('&'), "an entity leaked: {string:?}");
        assert!(
            !string.chars().any(|c| c.is_control() && c != '\n' && c != '\t'),
            "a control character leaked: {string:?}"
        );
        assert!(!string.contains('\u{202e}'), "{string:?}");
    }
    assert!(payload.get("link_names").is_none() && payload.get("parse").is_none());
    assert_eq!(
        (&payload["unfurl_links"], &payload["unfurl_media"]),
        (&json!(false), &json!(false))
    );
    let blocks = payload["blocks"].as_array().unwrap().iter();
    let objects: Vec<&Value> = blocks.filter_map(|block| block.get("text")).collect();
    assert!(!objects.is_empty(), "{payload}");
    for object in objects {
        assert_eq!(
            object["type"] == "mrkdwn" && object["verbatim"] == true,
            template,
            "{object}"
        );
    }
}

#[test]
fn p21_matrix_gets_escaped_html_and_no_mentions() {
    for text in TEXTS {
        for template in [None, Some("<b>{{ text }}</b>")] {
            let event = payload("matrix", matrix(), template, text);
            assert_eq!(event["m.mentions"], json!({}));
            assert_eq!(event["format"], "org.matrix.custom.html");
            check_html(event["formatted_body"].as_str().unwrap());
            assert!(
                !event["body"]
                    .as_str()
                    .unwrap()
                    .contains(['\u{202e}', '\u{1b}', '\r', '\0'])
            );
        }
    }
}

#[test]
fn p21_hookshot_always_gets_html_and_no_keyword() {
    for text in TEXTS {
        let payload = payload("matrix", hookshot(), None, text);
        check_html(payload["html"].as_str().unwrap());
        assert_eq!(payload["username"], "SMS");
        assert!(!payload.to_string().contains("@room"));
    }
}

/// Only our own tags.
fn check_html(html: &str) {
    let bare = ["<strong>", "</strong>", "<br>", "<b>", "</b>"]
        .iter()
        .fold(html.to_owned(), |html, tag| html.replace(tag, ""));
    assert!(!bare.contains(['<', '>', '"', '\'']), "markup leaked: {html:?}");
}

#[test]
fn p21_a_webhook_gets_the_exact_body_as_data() {
    let body = json!({ "url": "https://crm.example/x", "body": r#"{"text": "{{ text }}"}"# });
    for text in TEXTS {
        assert_eq!(payload("webhook", webhook(), None, text)["text"], *text);
        assert_eq!(
            payload("webhook", body.clone(), None, text),
            json!({ "text": text })
        );
    }
}

#[test]
fn p21_a_mail_has_our_headers_and_no_others() {
    TEXTS.iter().for_each(|text| check_mail(text));
}

/// Asserts the headers and recipients of a harmless message, and no markup but ours.
fn check_mail(text: &str) {
    let (harmless, hostile) = (mail("hello"), mail(text));
    let names = |mail: &str| -> Vec<String> {
        let head = mail.split("\r\n\r\n").next().unwrap().to_owned();
        let first = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
        first
            .map(|line| line.split(':').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&hostile), names(&harmless), "{text:?}");
    let mail = mail_parser::MessageParser::default()
        .parse(hostile.as_bytes())
        .unwrap();
    assert_eq!(
        mail.to().unwrap().first().unwrap().address(),
        Some("desk@example.com")
    );
    assert!(mail.cc().is_none() && mail.bcc().is_none(), "{text:?}");
    assert_eq!(mail.attachment_count(), 0, "{text:?}");
    assert!(
        !mail
            .subject()
            .unwrap_or_default()
            .contains(['\r', '\n', '\u{202e}']),
        "{text:?}"
    );
    let tags = |mail: &mail_parser::Message<'_>| -> BTreeSet<String> {
        let html = mail
            .html_bodies()
            .next()
            .and_then(|part| part.text_contents())
            .unwrap_or_default();
        html.split('<')
            .skip(1)
            .map(|tag| tag.split('>').next().unwrap().to_owned())
            .collect()
    };
    let plain = mail_parser::MessageParser::default()
        .parse(harmless.as_bytes())
        .unwrap();
    let (ours, found) = (tags(&plain), tags(&mail));
    assert!(ours.len() > 3, "{ours:?}: the test proves nothing");
    let foreign: Vec<&String> = found.difference(&ours).filter(|tag| *tag != "br").collect();
    assert!(foreign.is_empty(), "{text:?}: {foreign:?}");
}

fn mail(text: &str) -> String {
    mail_of(&message(text))
}

fn mail_of(message: &smsbridge::model::message::Message) -> String {
    use smsbridge::destination::Destination as _;
    use smsbridge::destination::email::{Config, Email, SmtpConfig};
    let smtp: SmtpConfig = from_toml("host = \"127.0.0.1\"\nsecurity = \"none\"").unwrap();
    let config = "smtp = \"main\"\nfrom = \"sms@example.com\"\nto = [\"desk@example.com\"]\nhtml = true\nsubject = \"{{ text }}\"";
    let config: Config = from_toml(config).unwrap();
    let context = smsbridge::destination::BuildContext {
        name: &"desk".parse().unwrap(),
        template: None,
        timeout: TIMEOUT,
        smtp: &std::collections::BTreeMap::from([("main".parse().unwrap(), smtp)]),
        http: &CLIENT,
    };
    let email = Email::build(&config, context).unwrap();
    email.render(&outbound(message)).unwrap()
}

#[test]
fn p21_goldens() {
    let text = "<!channel> @room\r\n<https://evil|bank> \u{202e}{{7*7}}";
    let slack = payload("slack", slack(), None, text);
    assert_eq!(
        slack["blocks"][1]["text"]["text"],
        "&lt;!channel&gt; @room\n&lt;https://evil|bank&gt; [U+202E]{{7*7}}"
    );
    let matrix = payload("matrix", matrix(), None, text);
    assert_eq!(
        matrix,
        json!({
            "msgtype": "m.text",
            "body": "Front door (+13035550100) → +13038675309\n<!channel> @room\n<https://evil|bank> [U+202E]{{7*7}}",
            "format": "org.matrix.custom.html",
            "formatted_body": "<strong>Front door</strong> (+13035550100) → +13038675309<br>&lt;!channel&gt; @room<br>\
                               &lt;https://evil|bank&gt; [U+202E]{{7*7}}",
            "m.mentions": {},
        })
    );
    assert_eq!(
        rendered("console", json!({}), None, text),
        "2026-09-21T14:13:20.000Z Front door → +13038675309: <!channel> @room <https://evil|bank> [U+202E]{{7*7}}"
    );
}

#[test]
fn the_longest_body_fits_everywhere() {
    for text in [
        "a".repeat(65_536),
        "<&>\"".repeat(16_384),
        "\0".repeat(65_536),
        "👩‍🚀".repeat(5_000),
    ] {
        assert!(rendered("console", json!({}), None, &text).len() > 20_000);
        assert!(
            payload("slack", slack(), None, &text)["blocks"]
                .as_array()
                .unwrap()
                .len()
                <= 50
        );
        assert_eq!(payload("webhook", webhook(), None, &text)["text"], text);
        for template in [None, Some("{{ text }}")] {
            let event = payload("matrix", matrix(), template, &text);
            assert!(event.to_string().len() <= 61_440);
            let body = event["body"].as_str().unwrap();
            assert!(body.contains("smsbridge message show 00000000000000000000000000000007"));
            check_html(event["formatted_body"].as_str().unwrap());
        }
    }
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(string) => vec![string],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(entries) => entries.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: u32::try_from(crate::promises::rounds(64, 5_000)).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn p21_no_body_becomes_markup_anywhere(text in any::<String>()) {
        let line = rendered("console", json!({}), None, &text);
        let leaked = line.chars().find(|c| c.is_control());
        prop_assert!(leaked.is_none(), "a control character leaked: {leaked:?}");
        check_slack(&payload("slack", slack(), None, &text), false);
        check_html(payload("matrix", matrix(), None, &text)["formatted_body"].as_str().unwrap());
        check_html(payload("matrix", hookshot(), None, &text)["html"].as_str().unwrap());
        prop_assert_eq!(&payload("webhook", webhook(), None, &text)["text"], &json!(text));
        check_mail(&text);
    }
}

/// Disguised links.
fn link() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "https://", "http://", "https:", "HTTPS:\\\\", "/", "//", "\\", "bank.example", "evil.example", "@", ":", ":443", "?", "#",
            "%40", "%2f", "a:b@", "[::1]", "127.1", "0x7f000001", "\u{430}", "\u{202e}", "\u{200b}", "\n", "\t", " ", "\"", "'", ">", "<",
            "|", "&amp;", "javascript:", ".", "x",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    (
        "(https?://|https://(bank|evil)[.]example/?|https:|)",
        prop::collection::vec(piece, 0..8),
    )
        .prop_map(|(scheme, pieces)| scheme + &pieces.concat())
}

/// The links of HTML: the target and the label of each.
fn html_links(html: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&amp;", "&"),
        ]
        .iter()
        .fold(text.to_owned(), |text, (entity, character)| {
            text.replace(entity, character)
        })
    };
    let anchors: Vec<_> = html.split("<a href=\"").skip(1).collect();
    assert_eq!(anchors.len(), html.matches("href").count(), "{html}");
    anchors
        .iter()
        .map(|anchor| {
            let (target, rest) = anchor.split_once("\">").unwrap();
            (plain(target), plain(rest.split_once("</a>").unwrap().0))
        })
        .collect()
}

/// A link leads to the host that it shows first.
fn check_links(links: &[(String, String)]) {
    for (target, shown) in links {
        assert_eq!(target, shown);
        let url = url::Url::parse(target).unwrap();
        assert!(matches!(url.scheme(), "http" | "https"), "{target:?}");
        let seen = shown.split("//").nth(1).unwrap().to_ascii_lowercase();
        assert!(seen.starts_with(url.host_str().unwrap()), "{target:?}");
        let authority = seen.split(['/', '?', '#']).next().unwrap();
        assert!(!authority.contains('@'), "{target:?}");
    }
}

#[test]
fn p21_every_link_shows_its_target() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: u32::try_from(crate::promises::rounds(500, 20_000)).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let seen = std::cell::Cell::new(0);
    let outcome = runner.run(
        &(link(), link(), any::<Option<String>>()),
        |(link, text, filename)| {
            let mut message = message(&text);
            message.media.push(smsbridge::model::message::Media {
                link,
                content_type: None,
                filename,
            });
            let with = |kind: &str, config: Value| -> Value {
                let destination = build_with(&CLIENT, kind, config, None, TIMEOUT).unwrap();
                serde_json::from_str(&destination.render(&outbound(&message)).unwrap()).unwrap()
            };
            let mail = mail_of(&message);
            let mail = mail_parser::MessageParser::default()
                .parse(mail.as_bytes())
                .unwrap();
            let html = mail
                .html_bodies()
                .next()
                .and_then(|part| part.text_contents())
                .unwrap();
            let slack = with("slack", slack());
            let slack: Vec<(String, String)> = strings(&slack)
                .into_iter()
                .filter_map(|string| string.strip_prefix('<')?.strip_suffix('>'))
                .map(|link| (link.replace("&amp;", "&"), link.replace("&amp;", "&")))
                .collect();
            let matrix = with("matrix", matrix());
            let hookshot = with("matrix", hookshot());
            for links in [
                html_links(html),
                html_links(matrix["formatted_body"].as_str().unwrap()),
                html_links(hookshot["html"].as_str().unwrap()),
                slack,
            ] {
                seen.set(seen.get() + links.len());
                check_links(&links);
            }
            Ok(())
        },
    );
    outcome.unwrap();
    assert!(
        seen.get() > 50,
        "only {} links were made: the test proves nothing",
        seen.get()
    );
}
