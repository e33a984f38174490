//! E-mail through servers that misbehave; `tests/system` has a real Postfix.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use smsbridge::destination::email::Email;
use smsbridge::destination::{Destination as _, Failure, Fate, Other, Scope};

use crate::mail::{email, parked, send, unreachable};
use crate::servers::fake_smtp::{FakeSmtp, GREETING, Turn};

mod answers;
mod busy;
mod pipelining;
mod recipients;

/// A destination at a fake server without TLS, and without a login unless `more` has one.
fn plainly(fake: &FakeSmtp, more: &str) -> Email {
    let smtp = format!(
        "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n{more}",
        fake.port
    );
    email(&smtp, &["desk@example.com"], Duration::from_secs(5))
}

/// The extensions of a server without PIPELINING, and of one with it.
const WAYS: [&[&str]; 2] = [&[], &["PIPELINING", "8BITMIME"]];

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
    let heard = fake.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(
        heard[0].starts_with("connection") && heard[1].starts_with("EHLO"),
        "{heard:?}"
    );
}

#[tokio::test]
async fn an_out_of_order_answer_ends_the_session() {
    let script = |_: usize, _: usize, line: &str| match line {
        "DATA" => Some(Turn::Say("250 as if smuggled in before TLS began")),
        _ => None,
    };
    let fake = FakeSmtp::start(&[], script).await;
    let reason = unreachable(send(&plainly(&fake, ""), 1).await);
    assert_eq!(reason, "DATA: the server answered 250, which is unexpected here");
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
async fn a_message_whose_connection_broke_is_not_resent_immediately() {
    let script = |connection: usize, message: usize, line: &str| {
        ((connection, message) == (1, 2) && line == ".").then_some(Turn::Close)
    };
    let fake = FakeSmtp::start(&[], script).await;
    let email = plainly(&fake, "");
    send(&email, 1).await.unwrap();
    let reason = unreachable(send(&email, 2).await);
    assert!(
        reason.contains("it is unknown whether the server accepted it"),
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
async fn answers_to_the_content_concern_only_the_message() {
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
async fn a_silent_server_costs_one_timeout() {
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
async fn an_unreachable_server_makes_the_destination_wait() {
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
async fn a_server_with_invalid_replies_makes_the_destination_wait() {
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
