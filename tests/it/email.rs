//! E-mail, through a real Postfix and through servers that misbehave.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mail_parser::MessageParser;
use smsbridge::destination::email::{Config, Email, SmtpConfig};
use smsbridge::destination::{
    BuildContext, Delivered, Destination as _, Failure, Fate, Other, OutboundMessage, Recipients, Scope, http,
};
use smsbridge::model::delivery::DeliveryId;
use smsbridge::model::message::{Message, MessageId, Timestamp};
use smsbridge::model::number::Number;
use uuid::Uuid;

use crate::servers::fake_smtp::{FakeSmtp, GREETING, Turn};
use crate::servers::postfix::{PASSWORD, Postfix, USERNAME};

mod answers;
mod busy;
mod pipelining;
mod recipients;

fn email(smtp: &str, to: &[&str], timeout: Duration) -> Email {
    let smtp: SmtpConfig = toml::from_str(smtp).unwrap();
    let config = format!("smtp = \"main\"\nfrom = \"SMS bridge <sms@example.com>\"\nto = {to:?}");
    let config: Config = toml::from_str(&config).unwrap();
    Email::build(
        &config,
        BuildContext {
            name: &"desk".parse().unwrap(),
            template: None,
            timeout,
            smtp: &BTreeMap::from([("main".parse().unwrap(), smtp)]),
            http: &http::Client::new().unwrap(),
        },
    )
    .unwrap()
}

fn through(postfix: &Postfix, to: &[&str]) -> Email {
    email(&starttls(postfix, PASSWORD), to, Duration::from_secs(10))
}

fn starttls(postfix: &Postfix, password: &str) -> String {
    format!(
        "host = \"localhost\"\nport = {}\nusername = {USERNAME:?}\npassword = {password:?}\nca_file = {:?}",
        postfix.starttls_port,
        std::fs::read_to_string(postfix.ca_file()).unwrap()
    )
}

/// Through a fake without TLS, and without a login unless `more` has one.
fn plainly(fake: &FakeSmtp, more: &str) -> Email {
    let smtp = format!(
        "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n{more}",
        fake.port
    );
    email(&smtp, &["desk@example.com"], Duration::from_secs(5))
}

/// What servers offer that are fed one command at a time, and such that take several at once.
const WAYS: [&[&str]; 2] = [&[], &["PIPELINING", "8BITMIME"]];

fn message(number: u128, text: &str) -> Message {
    Message {
        id: MessageId(Uuid::from_u128(number)),
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

fn outbound<'a>(message: &'a Message, progress: &'a [String]) -> OutboundMessage<'a> {
    OutboundMessage {
        id: DeliveryId {
            message: message.id,
            ordinal: 1,
        },
        message,
        from_name: None,
        to_name: None,
        route: None,
        template: None,
        groups: BTreeMap::new(),
        recipients: Recipients {
            done: progress,
            ..Recipients::default()
        },
        thread: None,
        fallback: None,
    }
}

async fn send(email: &Email, number: u128) -> Result<Delivered, Failure> {
    let _permit = email.permit().await?;
    email
        .deliver(&outbound(&message(number, "Hello World!"), &[]))
        .await
}

fn parked(result: Result<Delivered, Failure>) -> String {
    match result {
        Err(Failure::Parked { reason }) => reason.shown().to_owned(),
        other => panic!("not parked: {other:?}"),
    }
}

/// The reason of a failure after which the whole destination waits.
fn unreachable(result: Result<Delivered, Failure>) -> String {
    match result {
        Err(Failure::Transient {
            reason,
            scope: Scope::Destination,
            retry_after: None,
        }) => reason.shown().to_owned(),
        other => panic!("not the whole destination's: {other:?}"),
    }
}

#[tokio::test]
async fn a_text_arrives_through_starttls_and_login() {
    let postfix = Postfix::start();
    let email = through(&postfix, &["desk@example.com", "night@example.com"]);
    let message = message(1, "Hello World!\n.\nfrom a dot on its own line");
    let delivered = email.deliver(&outbound(&message, &[])).await.unwrap();
    assert!(
        delivered.detail.starts_with("250 2.0.0 Ok: queued as "),
        "{}",
        delivered.detail
    );
    for user in ["desk", "night"] {
        let stored = &postfix.mails(user, 1)[0];
        let mail = MessageParser::new().parse(stored.as_bytes()).unwrap();
        let raw = |name: &'static str| mail.header_raw(name).unwrap().trim().to_owned();
        assert_eq!(raw("From"), "\"SMS bridge\" <sms@example.com>");
        assert_eq!(raw("To"), "desk@example.com, night@example.com");
        assert_eq!(raw("Subject"), "SMS from +13035550100 to +13038675309");
        assert_eq!(raw("Date"), "Sun, 22 Nov 2026 02:34:56 +0000");
        assert_eq!(
            raw("Message-ID"),
            "<00000000000000000000000000000001-1@example.com>"
        );
        assert_eq!(
            raw("References"),
            format!("<{}.desk@example.com>", message.conversation())
        );
        assert_eq!(raw("List-Id"), "<unmatched.desk.example.com>");
        assert_eq!(raw("Auto-Submitted"), "auto-generated");
        assert_eq!(raw("Return-Path"), "<sms@example.com>");
        assert!(
            raw("Received").contains("ESMTPSA"),
            "not TLS with a login: {}",
            raw("Received")
        );
        assert!(
            mail.body_text(0)
                .unwrap()
                .starts_with("Hello World!\n.\nfrom a dot on its own line\n\n-- \n")
        );
    }
}

#[tokio::test]
async fn a_text_arrives_through_tls_from_the_start() {
    let postfix = Postfix::start();
    let smtp = starttls(&postfix, PASSWORD)
        .replace(&postfix.starttls_port.to_string(), &postfix.tls_port.to_string());
    let email = email(
        &format!("{smtp}\nsecurity = \"tls\"\nauth = \"login\""),
        &["desk@example.com"],
        Duration::from_secs(10),
    );
    send(&email, 1).await.unwrap();
    assert!(postfix.mails("desk", 1)[0].contains("ESMTPSA"));
}

#[tokio::test]
async fn many_texts_share_a_connection_and_hostile_ones_change_nothing() {
    let postfix = Postfix::start();
    let email = through(&postfix, &["desk@example.com"]);
    let texts = [
        "plain",
        "\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
        "\n.\nQUIT\n",
        "\r.\r",
        "x\r\nBcc: victim@example.com\r\n\r\nbody",
        "\u{0}\u{202e}\u{1b}[2J",
        "=?utf-8?q?=0D=0ABcc:_victim@example.com?=",
        "--=_00000000000000000000000000000007-1\r\nContent-Type: text/html\r\n\r\n<script>",
        "",
    ];
    for (number, text) in texts.iter().enumerate() {
        email
            .deliver(&outbound(&message(number as u128, text), &[]))
            .await
            .unwrap();
    }
    let mails = postfix.mails("desk", texts.len());
    postfix.mails("victim", 0);
    let names = |mail: &str| -> Vec<String> {
        let head = mail
            .split_once("\n\n")
            .unwrap()
            .0
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']));
        head.map(|line| line.split_once(':').unwrap().0.to_owned())
            .collect()
    };
    for mail in &mails {
        assert_eq!(names(mail), names(&mails[0]), "{mail}");
        assert_eq!(
            MessageParser::new().parse(mail.as_bytes()).unwrap().parts.len(),
            3,
            "{mail}"
        );
    }
    let connections = postfix
        .log()
        .lines()
        .filter(|line| line.contains("sasl_username="))
        .count();
    assert_eq!(connections, texts.len(), "each message is logged");
    let logins = postfix
        .log()
        .lines()
        .filter(|line| line.contains(": connect from "))
        .count();
    // Two more are the probes of the two ports at the start.
    assert_eq!(logins, 3, "{}", postfix.log());
}

#[tokio::test]
async fn each_recipient_is_answered_for_and_a_retry_spares_who_accepted() {
    let postfix = Postfix::start();
    let to = [
        "desk@example.com",
        "refused@example.com",
        "greylisted@example.com",
    ];
    let email = through(&postfix, &to);
    let message = message(1, "Hello World!");

    let first = email.deliver(&outbound(&message, &[])).await.unwrap_err();
    let Failure::Divided {
        reason,
        accepted: true,
        others,
    } = first
    else {
        panic!("{first:?}")
    };
    let reason = reason.shown();
    assert!(
        reason.starts_with("250 2.0.0 Ok: queued as ")
            && reason
                .contains("; accepted for desk@example.com; refused for refused@example.com: 550 5.1.1 "),
        "{reason}"
    );
    let [refused, greylisted] = others.as_slice() else {
        panic!("{others:?}")
    };
    assert_eq!((&*refused.recipient, &*greylisted.recipient), (to[1], to[2]));
    assert!(
        matches!(&refused.fate, Fate::Never { reason } if reason.shown().starts_with("refused for refused@example.com: 550 5.1.1 ")),
        "{refused:?}"
    );
    assert!(
        matches!(&greylisted.fate, Fate::Later { reason, retry_after: None } if reason.shown().starts_with("refused for greylisted@example.com: 451 4.7.1 ")),
        "{greylisted:?}"
    );

    let only = |only| OutboundMessage {
        recipients: Recipients {
            only: Some(only),
            ..Recipients::default()
        },
        ..outbound(&message, &[])
    };
    email.deliver(&only(to[2])).await.unwrap();
    let gone = email.deliver(&only("night@example.com")).await.unwrap_err();
    assert!(
        matches!(&gone, Failure::Permanent { reason } if reason.shown().starts_with("night@example.com is no longer a recipient")),
        "{gone:?}"
    );

    let [desk, greylisted] = ["desk", "greylisted"].map(|user| postfix.mails(user, 1).remove(0));
    let id = "Message-ID: <00000000000000000000000000000001-1@example.com>";
    assert!(desk.contains(id) && greylisted.contains(id));
}

#[tokio::test]
async fn when_nobody_accepts_it_is_permanent_or_for_later() {
    let postfix = Postfix::start();
    for (to, permanent) in [
        (vec!["refused@example.com"], true),
        (vec!["deferred@example.com"], false),
        (vec!["refused@example.com", "deferred@example.com"], false),
    ] {
        let email = through(&postfix, &to);
        // Twice: the connection must be of use after a message nobody wanted.
        for number in 1..=2 {
            match send(&email, number).await.unwrap_err() {
                Failure::Permanent { .. } if permanent => {}
                Failure::Transient {
                    scope: Scope::Message,
                    ..
                } if !permanent => {}
                Failure::Divided { accepted: false, .. } if to.len() == 2 => {}
                other => panic!("{to:?}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_password_parks() {
    let postfix = Postfix::start();
    let email = email(
        &starttls(&postfix, "wrong-horse"),
        &["desk@example.com"],
        Duration::from_secs(10),
    );
    let reason = parked(send(&email, 1).await);
    assert!(
        reason.starts_with("login: 535 5.7.8 ") && reason.contains("check `username` and `password`"),
        "{reason}"
    );
    assert!(!reason.contains("horse"));
    postfix.mails("desk", 0);
}

#[tokio::test]
async fn a_login_that_is_missing_parks() {
    let postfix = Postfix::start();
    let smtp = starttls(&postfix, PASSWORD);
    let smtp: Vec<&str> = smtp
        .lines()
        .filter(|line| !line.contains(" = \"bridge\"") && !line.contains("horse"))
        .collect();
    let reason = parked(
        send(
            &email(&smtp.join("\n"), &["desk@example.com"], Duration::from_secs(10)),
            1,
        )
        .await,
    );
    assert!(reason.starts_with("MAIL FROM: 554 5.7.1 "), "{reason}");
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_stops_the_login() {
    let postfix = Postfix::start();
    let trusting = starttls(&postfix, PASSWORD);
    let distrusting = trusting
        .lines()
        .filter(|line| !line.starts_with("ca_file"))
        .collect::<Vec<_>>()
        .join("\n");
    let elsewhere = trusting.replace("localhost", "127.0.0.1");
    for smtp in [distrusting, elsewhere] {
        let email = email(&smtp, &["desk@example.com"], Duration::from_secs(10));
        let reason = unreachable(send(&email, 1).await);
        assert!(
            reason.starts_with("STARTTLS: the server's certificate is not trusted ("),
            "{reason}"
        );
    }
    assert!(!postfix.log().contains("sasl_username"));
}

#[tokio::test]
async fn starttls_that_is_not_offered_parks_and_nothing_is_sent() {
    let fake = FakeSmtp::start(&["AUTH PLAIN LOGIN"], |_, _, _| None).await;
    let smtp = format!(
        "host = \"127.0.0.1\"\nport = {}\nusername = \"u\"\npassword = \"hunter2\"",
        fake.port
    );
    let reason = parked(send(&email(&smtp, &["desk@example.com"], Duration::from_secs(5)), 1).await);
    assert!(
        reason.contains("does not offer STARTTLS, so nothing was sent"),
        "{reason}"
    );
    assert!(
        fake.heard()
            .iter()
            .all(|line| line.starts_with("connection") || line.starts_with("EHLO")),
        "{:?}",
        fake.heard()
    );
}

#[tokio::test]
async fn an_answer_that_does_not_belong_to_the_command_ends_the_session() {
    let script = |_: usize, _: usize, line: &str| match line {
        "DATA" => Some(Turn::Say("250 as if smuggled in before TLS began")),
        _ => None,
    };
    let fake = FakeSmtp::start(&[], script).await;
    let reason = unreachable(send(&plainly(&fake, ""), 1).await);
    assert_eq!(
        reason,
        "DATA: the server answered 250, which does not belong here"
    );
}

#[tokio::test]
async fn an_idle_connection_that_died_is_replaced_once() {
    let hows = ["421", "closed", "421 at RCPT"];
    for (how, way) in hows.iter().flat_map(|how| WAYS.map(|way| (*how, way))) {
        let script = move |connection: usize, message: usize, line: &str| match (connection, message, how) {
            (1, 2, "421") if line.starts_with("MAIL") => {
                Some(Turn::SayAndClose("421 4.4.2 timeout exceeded"))
            }
            (1, 2, "421 at RCPT") if line.starts_with("RCPT") => {
                Some(Turn::SayAndClose("421 4.7.0 too many"))
            }
            (1, 1, "closed") if line == "." => Some(Turn::SayAndClose("250 2.0.0 Ok, and good bye")),
            _ => None,
        };
        let fake = FakeSmtp::start(way, script).await;
        let email = plainly(&fake, "");
        for number in 1..=3 {
            send(&email, number)
                .await
                .unwrap_or_else(|failure| panic!("{how}: {failure:?}"));
        }
        let heard = fake.heard();
        assert_eq!(
            heard.iter().filter(|line| line.starts_with("connection")).count(),
            2,
            "{how}: {heard:?}"
        );
        assert_eq!(
            heard.iter().filter(|line| line.as_str() == ".").count(),
            3,
            "{how}: {heard:?}"
        );
    }
}

#[tokio::test]
async fn a_421_on_a_new_connection_waits_as_a_whole() {
    let fake = FakeSmtp::start(&[], |_, _, line| {
        line.starts_with("MAIL")
            .then_some(Turn::SayAndClose("421 4.7.0 Try again later"))
    })
    .await;
    assert_eq!(
        unreachable(send(&plainly(&fake, ""), 1).await),
        "MAIL FROM: 421 4.7.0 Try again later"
    );
    assert!(!fake.heard().contains(&"connection 2".to_owned()));
}

#[tokio::test]
async fn a_connection_lost_after_the_message_is_not_sent_again_at_once() {
    let script = |connection: usize, message: usize, line: &str| {
        ((connection, message) == (1, 2) && line == ".").then_some(Turn::Close)
    };
    let fake = FakeSmtp::start(&[], script).await;
    let email = plainly(&fake, "");
    send(&email, 1).await.unwrap();
    let reason = unreachable(send(&email, 2).await);
    assert!(
        reason.contains("whether the server took it is not known"),
        "{reason}"
    );
    assert!(!fake.heard().contains(&"connection 2".to_owned()));
    send(&email, 2).await.unwrap();
    let ids = fake
        .heard()
        .iter()
        .filter(|line| line.contains("00000002-1@example.com"))
        .count();
    assert_eq!(ids, 2, "both attempts have the same Message-ID");
}

#[tokio::test]
async fn answers_to_the_message_decide_about_the_message() {
    for (answer, expected) in [
        ("550 5.7.1 Message content rejected", "permanent"),
        ("451 4.3.0 queue file write error", "message"),
        ("550 5.4.5 Daily user sending limit exceeded", "quota"),
        ("550 5.7.60 not permitted to send as this sender", "parked"),
    ] {
        let fake = FakeSmtp::start(&[], move |_, _, line| (line == ".").then_some(Turn::Say(answer))).await;
        let failure = send(&plainly(&fake, ""), 1).await.unwrap_err();
        assert!(failure.reason().shown().contains(answer), "{failure:?}");
        let hour = Some(Duration::from_secs(3600));
        let found = match failure {
            Failure::Permanent { .. } => "permanent",
            Failure::Parked { .. } => "parked",
            Failure::Divided { .. } => "divided",
            Failure::Transient {
                scope: Scope::Message,
                retry_after: None,
                ..
            } => "message",
            Failure::Transient {
                scope: Scope::Destination,
                retry_after,
                ..
            } if retry_after == hour => "quota",
            Failure::Transient { .. } => "something else",
        };
        assert_eq!(found, expected, "{answer}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_timeout_and_no_more() {
    let steps = [GREETING, "EHLO", "MAIL", "RCPT", "DATA", "."];
    for (hanging, way) in steps.iter().flat_map(|step| WAYS.map(|way| (*step, way))) {
        let script = move |_: usize, _: usize, line: &str| {
            let here = if hanging == "." {
                line == "."
            } else {
                line.starts_with(hanging)
            };
            here.then_some(Turn::Hang)
        };
        let fake = FakeSmtp::start(way, script).await;
        let smtp = format!(
            "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\ndata_timeout = \"300ms\"",
            fake.port
        );
        let email = email(&smtp, &["desk@example.com"], Duration::from_millis(300));
        let start = Instant::now();
        let reason = unreachable(send(&email, 1).await);
        let key = if hanging == "." { "data_timeout" } else { "timeout" };
        assert!(
            reason.contains(&format!("no answer within `{key}`")),
            "{hanging}: {reason}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{hanging}: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_makes_the_destination_wait() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for (host, expected) in [
        ("127.0.0.1", "refused"),
        ("no-such-host.invalid", "no-such-host.invalid: "),
    ] {
        let smtp = format!("host = {host:?}\nport = {free}\nsecurity = \"none\"");
        let reason = unreachable(send(&email(&smtp, &["desk@example.com"], Duration::from_secs(5)), 1).await);
        assert!(
            reason.starts_with("connecting: ") && reason.contains(expected),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn xoauth2_sends_the_token_and_renews_one_that_has_expired() {
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let script = |connection: usize, message: usize, line: &str| match line {
        // `user=me@example.com^Aauth=Bearer token-1^A^A` in base64, which has expired by the second connection.
        "AUTH XOAUTH2 dXNlcj1tZUBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB0b2tlbi0xAQE=" if connection == 1 => None,
        "AUTH XOAUTH2 dXNlcj1tZUBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB0b2tlbi0yAQE=" => None,
        _ if line.starts_with("AUTH") => Some(Turn::Say("334 eyJzdGF0dXMiOiI0MDAifQ==")),
        "." if (connection, message) == (1, 1) => Some(Turn::SayAndClose("250 2.0.0 Ok")),
        _ => None,
    };
    let fake = FakeSmtp::start(&["AUTH XOAUTH2 PLAIN"], script).await;
    let command = format!("echo x >>{0}; echo token-$(wc -l <{0})", count.display());
    let email = plainly(
        &fake,
        &format!("username = \"me@example.com\"\ntoken_command = [\"sh\", \"-c\", {command:?}]"),
    );
    send(&email, 1).await.unwrap();
    send(&email, 2).await.unwrap();
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\nx\n");
}

#[tokio::test]
async fn a_refused_login_parks_whatever_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "hunter2").unwrap();
    for (login, answer, expected) in [
        (
            "password = \"hunter2\"".to_owned(),
            "535 5.7.8 no",
            "login: 535 5.7.8 no; check `username`",
        ),
        (
            "password = \"hunter2\"".to_owned(),
            "550 5.7.30 Basic authentication is not supported",
            "`auth = \"xoauth2\"`",
        ),
        (
            format!("token_file = {token:?}"),
            "334 eyJ9",
            "login: 535 5.7.8 these credentials are wrong; check",
        ),
        (
            "password = \"hunter2\"\nauth = \"login\"".to_owned(),
            "",
            "does not offer the password login",
        ),
    ] {
        let script =
            move |_: usize, _: usize, line: &str| line.starts_with("AUTH").then_some(Turn::Say(answer));
        let fake = FakeSmtp::start(&["AUTH PLAIN XOAUTH2"], script).await;
        let reason = parked(send(&plainly(&fake, &format!("username = \"u\"\n{login}")), 1).await);
        assert!(
            reason.contains(expected) && !reason.contains("hunter2"),
            "{reason}"
        );
        assert!(!fake.heard().iter().any(|line| line.starts_with("MAIL")));
    }
}

#[tokio::test]
async fn an_international_address_needs_a_server_that_takes_it() {
    let deliver = async |extensions: &'static [&'static str]| {
        let fake = FakeSmtp::start(extensions, |_, _, _| None).await;
        let smtp = format!(
            "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nsmtputf8 = true",
            fake.port
        );
        (
            send(&email(&smtp, &["jürgen@example.com"], Duration::from_secs(5)), 1).await,
            fake.heard(),
        )
    };
    let (result, heard) = deliver(&["8BITMIME", "SMTPUTF8"]).await;
    result.unwrap();
    assert!(
        heard.contains(&"MAIL FROM:<sms@example.com> BODY=8BITMIME SMTPUTF8".to_owned()),
        "{heard:?}"
    );
    assert!(
        heard.contains(&"RCPT TO:<jürgen@example.com>".to_owned()),
        "{heard:?}"
    );
    assert!(parked(deliver(&["8BITMIME"]).await.0).contains("SMTPUTF8"));
}

#[tokio::test]
async fn a_server_that_speaks_nonsense_makes_the_destination_wait() {
    for (at, answer) in [
        (GREETING, "HTTP/1.1 400 Bad Request"),
        ("EHLO", "250-fake\r\n250- \r\n250 X"),
        ("EHLO", "250"),
        ("MAIL", ""),
        ("RCPT", "999 what"),
        (".", "\u{1}\u{2}"),
    ] {
        let script =
            move |_: usize, _: usize, line: &str| line.starts_with(at).then_some(Turn::SayAndClose(answer));
        let fake = FakeSmtp::start(&[], script).await;
        let reason = unreachable(send(&plainly(&fake, ""), 1).await);
        assert!(
            reason.contains("not SMTP") || reason.contains("closed"),
            "{at} {answer:?}: {reason}"
        );
    }
}
