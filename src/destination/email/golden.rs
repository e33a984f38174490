//! Tests of complete e-mails: byte for byte, and with hostile bodies, numbers and names.

use std::collections::BTreeMap;
use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders as _};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Config, Email};
use crate::destination::{BuildContext, Destination as _, Fallback, OutboundMessage, Recipients, http};
use crate::model::delivery::DeliveryId;
use crate::model::message::{Media, Message, MessageId, Name, Timestamp};
use crate::model::number::Number;
use crate::template::{self, Template};

const CONFIG: &str = r#"
    smtp = "main"
    from = "SMS bridge <sms@example.com>"
    to = ["desk@example.com", "Jürgen <j@example.com>"]
"#;

/// All header names of an e-mail with `CONFIG`, in order.
const HEADERS: &str = "From, To, Subject, Date, Message-ID, In-Reply-To, References, List-Id, Auto-Submitted, \
                       X-Auto-Response-Suppress, MIME-Version, Content-Type";

fn email(config: &str, template: Option<&str>) -> Result<Email, String> {
    let config: Config = crate::model::setting::from_toml(config)?;
    let smtp = [(
        "main".parse().unwrap(),
        crate::model::setting::from_toml("host = \"localhost\"\nsecurity = \"none\"").unwrap(),
    )];
    Email::build(
        &config,
        BuildContext {
            name: &"desk".parse().unwrap(),
            template: template.map(|source| Template::compile(source).unwrap()),
            timeout: Duration::from_secs(1),
            smtp: &BTreeMap::from(smtp),
            http: &http::Client::new().unwrap(),
        },
    )
}

fn message(text: &str) -> Message {
    Message {
        id: MessageId(Uuid::from_u128(0x0193_5c00_0000_7000_8000_0000_0000_0001)),
        source: "intelepeer".parse().unwrap(),
        provider_id: "ABCDEF1234567890ABCDEF1234567890".into(),
        from: Number::parse("+13035550100").unwrap(),
        to: Number::parse("+13038675309").unwrap(),
        text: text.into(),
        media: Vec::new(),
        extra: BTreeMap::new(),
        received_at: Timestamp(1_795_314_896_789),
        routes: Vec::new(),
        redacted_at: None,
    }
}

fn outbound<'a>(
    message: &'a Message,
    route: Option<&'a Name>,
    from_name: Option<&'a str>,
) -> OutboundMessage<'a> {
    OutboundMessage {
        id: DeliveryId {
            message: message.id,
            ordinal: 1,
        },
        message,
        from_name,
        to_name: None,
        route,
        template: None,
        groups: BTreeMap::new(),
        recipients: Recipients::default(),
        thread: None,
        fallback: None,
        zone: None,
    }
}

#[test]
fn an_email_equals_the_golden_file_byte_for_byte() {
    let mut message = message("Water is rising: 3 < 4 & \"falling\".\nSecond line…");
    message.media = vec![
        Media {
            link: "https://media.example.net/a?b=1&c=2".into(),
            content_type: None,
            filename: None,
        },
        Media {
            link: "javascript:alert(1)".into(),
            content_type: None,
            filename: None,
        },
    ];
    let route = "urgent".parse().unwrap();
    let source = email(CONFIG, None)
        .unwrap()
        .render(&outbound(&message, Some(&route), Some("Front door")))
        .unwrap();
    let expected = include_str!("golden.eml")
        .replace("\r\n", "\n")
        .replace('\n', "\r\n");
    if source != expected {
        panic!("the e-mail differs from golden.eml; it is now:\n{source}");
    }
}

#[test]
fn a_fallback_is_noted_below_the_text_in_both_parts_and_below_a_custom_body() {
    let message = message("hello");
    let crm = "crm".parse().unwrap();
    let fallback = Fallback {
        destination: &crm,
        reason: "HTTP 400 <b>\r\nBcc: x@example.com",
    };
    let outbound = OutboundMessage {
        fallback: Some(fallback),
        ..outbound(&message, None, None)
    };
    for config in [CONFIG.to_owned(), format!("{CONFIG}body = 'own'\n")] {
        let source = email(&config, None).unwrap().render(&outbound).unwrap();
        let source = source.replace("=\r\n", "");
        let plain = "Fallback for destination crm: HTTP 400 <b>";
        assert!(source.contains(plain), "{source}");
        assert!(
            source.contains("crm: HTTP 400 &lt;b&gt;") && !source.contains("\nBcc:"),
            "{source}"
        );
    }
}

#[test]
fn the_same_message_gives_the_same_bytes_and_one_conversation_one_subject_and_root() {
    let email = email(CONFIG, None).unwrap();
    let first = message("one");
    let mut second = message("two");
    second.id = MessageId(Uuid::from_u128(2));
    let [a, b, c] =
        [&first, &first, &second].map(|message| email.render(&outbound(message, None, None)).unwrap());
    assert_eq!(a, b);
    let parsed = [&a, &c].map(|source| MessageParser::new().parse(source.as_bytes()).unwrap());
    assert_eq!(parsed[0].subject(), parsed[1].subject());
    assert_eq!(parsed[0].references(), parsed[1].references());
    assert_ne!(parsed[0].message_id(), parsed[1].message_id());
    assert_eq!(
        parsed[0].message_id(),
        Some("01935c00000070008000000000000001-1@example.com")
    );
}

#[test]
fn without_threads_and_html_there_is_one_plain_part_and_no_root() {
    let config = format!(
        "{CONFIG}\nthreads = false\nhtml = false\nreply_to = \"r@example.com\"\ncc = [\"c@example.com\"]"
    );
    let source = email(&config, None)
        .unwrap()
        .render(&outbound(&message(""), None, None))
        .unwrap();
    let parsed = MessageParser::new().parse(source.as_bytes()).unwrap();
    assert!(!source.contains("References") && !source.contains("multipart"));
    assert_eq!(
        (parsed.parts.len(), parsed.header_raw("Cc").map(str::trim)),
        (1, Some("c@example.com"))
    );
    assert!(parsed.body_text(0).unwrap().starts_with("(no text)"));
}

#[test]
fn an_invalid_destination_is_rejected_with_an_explanation() {
    let with =
        |lines: &str| format!("smtp = \"main\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\n{lines}");
    let many = vec!["\"a@example.com\""; 51].join(",");
    for (config, expected) in [
        (
            "smtp = \"other\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]".to_owned(),
            "[smtp.other]",
        ),
        (
            "smtp = \"main\"\nfrom = \"a@example.com\"\nto = []".to_owned(),
            "to: at least one",
        ),
        (
            format!("smtp = \"main\"\nfrom = \"a@example.com\"\nto = [{many}]"),
            "at most 50",
        ),
        (
            "smtp = \"main\"\nfrom = \"a\"\nto = [\"b@example.com\"]".to_owned(),
            "is not a mailbox",
        ),
        (with("cc = [\"jürgen@example.com\"]"), "is not ASCII"),
        (with("reply_to = \"j@exämple.com\""), "is not ASCII"),
        (with("bodi = \"x\""), "bodi"),
    ] {
        let error = email(&config, None).map(drop).unwrap_err();
        assert!(error.contains(expected), "{config}: {error}");
    }
    assert!(
        email(&with("body = \"x\""), Some("y"))
            .unwrap_err()
            .contains("`body` or `template`")
    );
}

/// Checks that the source has the structure of every e-mail with `CONFIG`, and returns the subject, the plain text
/// and the HTML as decoded by a mail program.
fn check_shape(source: &str) -> (String, String, String) {
    let (head, body) = source.split_once("\r\n\r\n").unwrap();
    assert!(source.is_ascii() && !source.contains('\0'));
    assert!(
        source
            .split("\r\n")
            .all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])),
        "{source}"
    );
    assert_eq!(names(head), HEADERS);

    let boundary = "--=_01935c00000070008000000000000001-1";
    let marks: Vec<&str> = body
        .split("\r\n")
        .filter(|line| line.starts_with("--=_"))
        .collect();
    assert_eq!(marks, [boundary, boundary, &format!("{boundary}--")]);
    for part in body.split(&format!("{boundary}\r\n")).skip(1) {
        assert_eq!(
            names(part.split_once("\r\n\r\n").unwrap().0),
            "Content-Type, Content-Transfer-Encoding"
        );
    }

    let parsed = MessageParser::new().parse(source.as_bytes()).unwrap();
    assert_eq!((parsed.parts.len(), parsed.attachment_count()), (3, 0));
    let types: Vec<_> = parsed
        .parts
        .iter()
        .map(|part| part.content_type().unwrap().subtype().unwrap())
        .collect();
    assert_eq!(types, ["alternative", "plain", "html"]);
    let part = |index: usize| parsed.parts[index].text_contents().unwrap().replace("\r\n", "\n");
    (parsed.subject().unwrap_or_default().to_owned(), part(1), part(2))
}

fn names(head: &str) -> String {
    let lines = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    lines
        .map(|line| line.split_once(':').unwrap().0)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Strings that are dangerous in some part of an e-mail, with any characters between them.
fn hostile() -> impl Strategy<Value = String> {
    let words = proptest::sample::select(vec![
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\r\n.\r\n",
        "\r\n\r\n",
        "Bcc: x@evil.example",
        "Subject: x",
        ".",
        "..",
        "--=_01935c00000070008000000000000001-1",
        "--=_01935c00000070008000000000000001-1--",
        "Content-Type: text/html",
        "=?utf-8?q?=0D=0ABcc:_x?=",
        "=?utf-8?B?4oCu?=",
        "=0D=0A",
        "=\r\n",
        "\u{202e}",
        "\u{2028}",
        "\u{85}",
        "\u{b}",
        "\u{c}",
        "<script>",
        "</div></body>",
        "<a href=\"x\">",
        "&lt;",
        "\"",
        "'",
        "From ",
        "😀",
        "-- \n",
        "\t",
        " ",
    ])
    .prop_map(str::to_owned);
    let piece = prop_oneof![3 => words, 1 => any::<String>(), 1 => "[ -~]{0,80}"];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn nothing_from_outside_changes_the_shape(
        text in hostile(),
        name in hostile(),
        link in hostile(),
        sender in hostile(),
    ) {
        let mut message = message(&text);
        message.from = Number::received(&sender);
        message.media = vec![Media { link: format!("https://{link}"), content_type: None, filename: None }];
        let source = email(CONFIG, None).unwrap().render(&outbound(&message, None, Some(&name))).unwrap();
        let (subject, plain, html) = check_shape(&source);

        let expected: String = template::one_line(format!("SMS from {name} to +13038675309").trim()).chars().take(200).collect();
        prop_assert_eq!(words(&subject), words(&expected));
        if !text.is_empty() {
            let shown = template::visible(&text.replace("\r\n", "\n"));
            prop_assert!(plain.starts_with(&format!("{shown}\n\n-- \nFrom:")), "{:?}", plain);
            prop_assert!(html.contains(&template::html(&shown).replace('\n', "<br>\n")), "{:?}", html);
        }
        prop_assert_eq!(html.matches("<div").count(), 1);
        prop_assert_eq!(html.matches("<tr>").count(), 4);
        prop_assert!(html.matches("<a ").count() <= 1 && !html.contains("<script"));
        for anchor in html.split("<a href=\"").skip(1) {
            let (target, rest) = anchor.split_once("\">").unwrap();
            prop_assert_eq!(target, rest.split_once("</a>").unwrap().0);
        }
    }

    #[test]
    fn templates_change_neither_headers_nor_parts(text in hostile()) {
        let config = format!("{CONFIG}\nsubject = \"SMS: {{{{ text }}}}\"");
        let source = email(&config, Some("{{ text }}\n")).unwrap().render(&outbound(&message(&text), None, None)).unwrap();
        let (_, _, html) = check_shape(&source);
        prop_assert_eq!(html.matches("<div").count(), 1);
    }
}

/// White space may be folded and unfolded anywhere in a header.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}
