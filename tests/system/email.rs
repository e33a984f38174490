//! E-mail through a real Postfix.

use std::time::Duration;

use mail_parser::MessageParser;
use smsbridge::destination::email::Email;
use smsbridge::destination::{Destination as _, Failure, Fate, OutboundMessage, Recipients, Scope};

use crate::mail::{email, message, outbound, parked, send, unreachable};
use crate::servers::postfix::{PASSWORD, Postfix, USERNAME};

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

#[tokio::test]
#[ignore = "needs Postfix: tests/run"]
async fn a_message_arrives_through_starttls_and_login() {
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
#[ignore = "needs Postfix: tests/run"]
async fn a_message_arrives_through_implicit_tls() {
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
#[ignore = "needs Postfix: tests/run"]
async fn many_messages_share_a_connection_and_hostile_ones_change_nothing() {
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
#[ignore = "needs Postfix: tests/run"]
async fn each_recipient_has_its_own_outcome_and_a_retry_skips_accepted_ones() {
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
#[ignore = "needs Postfix: tests/run"]
async fn without_accepted_recipients_it_is_permanent_or_transient() {
    let postfix = Postfix::start();
    for (to, permanent) in [
        (vec!["refused@example.com"], true),
        (vec!["deferred@example.com"], false),
        (vec!["refused@example.com", "deferred@example.com"], false),
    ] {
        let email = through(&postfix, &to);
        // Twice: the connection must be usable after a refused message.
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
#[ignore = "needs Postfix: tests/run"]
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
#[ignore = "needs Postfix: tests/run"]
async fn a_missing_login_parks() {
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
#[ignore = "needs Postfix: tests/run"]
async fn an_untrusted_certificate_prevents_the_login() {
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
#[ignore = "needs Postfix: tests/run"]
async fn postfix_accepts_pipelined_commands_and_refuses_data_without_recipients() {
    let postfix = Postfix::start();
    let both = through(&postfix, &["desk@example.com", "refused@example.com"]);
    let failure = send(&both, 1).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Divided { accepted: true, others, .. } if others.len() == 1),
        "{failure:?}"
    );
    let nobody = through(&postfix, &["refused@example.com"]);
    for number in 2..=3 {
        let failure = send(&nobody, number).await.unwrap_err();
        assert!(matches!(failure, Failure::Permanent { .. }), "{failure:?}");
    }
    postfix.mails("desk", 1);
    let log = postfix.log();
    let connections = log
        .lines()
        .filter(|line| line.contains(": connect from "))
        .count();
    // Two are the probes of the two ports at the start; the two destinations had one each.
    assert_eq!(connections, 4, "{log}");
    assert!(!log.contains("improper command pipelining"), "{log}");
}
