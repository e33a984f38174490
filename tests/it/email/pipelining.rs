//! Several commands in one write, to servers that offer PIPELINING.

use super::*;

const OFFER: &[&str] = &["SIZE 1000000", "PIPELINING", "8BITMIME"];

const DESK: &str = "desk@example.com";
const NIGHT: &str = "night@example.com";

fn to_both(fake: &FakeSmtp) -> Email {
    let smtp = format!("host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"", fake.port);
    email(&smtp, &[DESK, NIGHT], Duration::from_secs(5))
}

fn count(lines: &[String], wanted: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(wanted)).count()
}

/// How many messages the server took as complete, empty ones included.
fn completed(fake: &FakeSmtp) -> usize {
    fake.heard().iter().filter(|line| line.as_str() == ".").count()
}

#[tokio::test]
async fn all_commands_of_an_e_mail_are_one_write_and_its_content_another() {
    let fake = FakeSmtp::start(OFFER, |_, _, _| None).await;
    let email = to_both(&fake);
    for number in 1..=2 {
        send(&email, number).await.unwrap();
    }
    let reads = fake.reads();
    let batch = "MAIL FROM:<sms@example.com>\r\nRCPT TO:<desk@example.com>\r\nRCPT TO:<night@example.com>\r\nDATA\r\n";
    assert_eq!(reads[1], batch, "{reads:?}");
    let second = reads.iter().rposition(|read| read == batch).unwrap();
    assert!(
        second > 2 && reads[second - 1].ends_with("\r\n.\r\n"),
        "{reads:?}"
    );
    assert!(
        reads[2].starts_with("From: ") || reads[2].contains("\r\nFrom: "),
        "{reads:?}"
    );
    assert_eq!(count(&fake.heard(), "connection"), 1);
}

#[tokio::test]
async fn a_server_that_does_not_offer_it_gets_one_command_at_a_time() {
    for offer in [
        &["SIZE 1000000", "8BITMIME"][..],
        &["X PIPELINING", "XPIPELINING"],
    ] {
        let fake = FakeSmtp::start(offer, |_, _, _| None).await;
        send(&to_both(&fake), 1).await.unwrap();
        let commands: Vec<String> = fake.reads().into_iter().take(5).collect();
        let expected = [
            "EHLO [127.0.0.1]\r\n",
            "MAIL FROM:<sms@example.com>\r\n",
            "RCPT TO:<desk@example.com>\r\n",
            "RCPT TO:<night@example.com>\r\n",
            "DATA\r\n",
        ];
        assert_eq!(commands, expected, "{offer:?}");
    }
}

/// [Some servers](https://github.com/jstedfast/MailKit/issues/162) forget a login at the next `EHLO`.
#[tokio::test]
async fn the_server_is_asked_what_it_offers_before_the_login() {
    let fake = FakeSmtp::start(&["AUTH PLAIN", "PIPELINING"], |_, _, _| None).await;
    let email = plainly(&fake, "username = \"u\"\npassword = \"p\"");
    send(&email, 1).await.unwrap();
    let heard = fake.heard();
    let login = heard.iter().position(|line| line.starts_with("AUTH")).unwrap();
    assert_eq!(count(&heard[..login], "EHLO"), 1, "{heard:?}");
    assert_eq!(count(&heard[login..], "EHLO"), 0, "{heard:?}");
}

#[tokio::test]
async fn a_refused_recipient_does_not_shift_the_answers_of_the_others() {
    for refused in [DESK, NIGHT] {
        let accepted = if refused == DESK { NIGHT } else { DESK };
        let script = move |_: usize, _: usize, line: &str| {
            let no = line.starts_with("RCPT") && line.contains(refused);
            no.then_some(Turn::Say("450-4.2.1 not\r\n450 4.2.1 now"))
        };
        let fake = FakeSmtp::start(OFFER, script).await;
        let email = to_both(&fake);
        for number in 1..=2 {
            let failure = send(&email, number).await.unwrap_err();
            let Failure::Divided { reason, others, .. } = failure else {
                panic!("{failure:?}")
            };
            let expected =
                format!("; accepted for {accepted}; refused for {refused}: 450 4.2.1 not 4.2.1 now");
            assert!(reason.shown().ends_with(&expected), "{reason:?}");
            assert!(
                matches!(others.as_slice(), [Other { recipient, fate: Fate::Later { .. } }] if recipient == refused),
                "{others:?}"
            );
        }
        assert_eq!(completed(&fake), 2);
        assert_eq!(count(&fake.heard(), "connection"), 1);
    }
}

#[tokio::test]
async fn without_accepted_recipients_no_message_is_completed() {
    for (data, connections) in [
        ("503 5.5.1 need RCPT", 1),
        ("554 5.5.1 Error: no valid recipients", 1),
        ("451 4.3.0 later", 1),
        ("354 go on", 2),
    ] {
        let script = move |_: usize, _: usize, line: &str| match line {
            "DATA" => Some(Turn::Say(data)),
            _ if line.starts_with("RCPT") => Some(Turn::Say("550 5.1.1 unknown")),
            _ => None,
        };
        let fake = FakeSmtp::start(OFFER, script).await;
        let email = to_both(&fake);
        for number in 1..=2 {
            let failure = send(&email, number).await.unwrap_err();
            assert!(
                matches!(failure, Failure::Permanent { .. }),
                "{data}: {failure:?}"
            );
        }
        let heard = fake.heard();
        assert_eq!(completed(&fake), 0, "{data}: {heard:?}");
        assert_eq!(count(&heard, "connection"), connections, "{data}: {heard:?}");
        // If the connection is kept, the transaction is reset before the next begins.
        assert_eq!(
            count(&heard, "RSET"),
            if connections == 1 { 2 } else { 0 },
            "{data}: {heard:?}"
        );
    }
}

/// The same failure at the same step has the same outcome, with and without pipelining.
#[tokio::test]
async fn failures_are_classified_as_without_pipelining() {
    for (at, answer, close) in [
        ("MAIL", "550 5.7.1 not as this sender", false),
        ("MAIL", "451 4.3.0 later", false),
        ("MAIL", "421 4.7.0 try again later", true),
        ("RCPT", "421 4.7.0 too many", true),
        ("RCPT TO:<night", "421 4.7.0 too many", true),
        ("RCPT", "550 5.4.5 daily limit", false),
        ("RCPT", "354 out of step", false),
        ("DATA", "451 4.3.0 later", false),
        ("DATA", "554 5.7.1 no", false),
        ("DATA", "421 4.3.2 going down", true),
        ("DATA", "250 as if smuggled in", false),
        (".", "550 5.7.1 spam", false),
        ("MAIL", "", true),
        ("RCPT TO:<night", "", true),
        ("DATA", "", true),
        (".", "", true),
    ] {
        let mut outcomes = Vec::new();
        for way in WAYS {
            let script = move |_: usize, _: usize, line: &str| {
                let turn = match (answer, close) {
                    ("", _) => Turn::Close,
                    (_, true) => Turn::SayAndClose(answer),
                    (_, false) => Turn::Say(answer),
                };
                line.starts_with(at).then_some(turn)
            };
            let fake = FakeSmtp::start(way, script).await;
            let failure = send(&to_both(&fake), 1).await.unwrap_err();
            assert_eq!(
                completed(&fake),
                usize::from(at == "."),
                "{at} {answer}: {:?}",
                fake.heard()
            );
            assert_eq!(count(&fake.heard(), "connection"), 1, "{at} {answer}");
            let refusal = answer.starts_with(['4', '5']);
            assert!(
                !refusal || failure.reason().shown().contains(answer),
                "{at} {answer}: {failure:?}"
            );
            outcomes.push(failure);
        }
        assert_eq!(outcomes[0], outcomes[1], "{at} {answer}");
    }
}

/// After `MAIL` was refused, a server may still accept the other pipelined commands, and ask for the content.
#[tokio::test]
async fn nothing_is_completed_after_a_refused_sender_whatever_the_server_says_then() {
    for data in ["503 5.5.1 need MAIL", "354 go on"] {
        let script = move |_: usize, _: usize, line: &str| match line {
            "DATA" => Some(Turn::Say(data)),
            _ if line.starts_with("MAIL") => Some(Turn::Say("553 5.7.1 not owned by user")),
            _ => None,
        };
        let fake = FakeSmtp::start(OFFER, script).await;
        let email = to_both(&fake);
        for connections in 1..=2 {
            let reason = parked(send(&email, 1).await);
            assert!(reason.starts_with("MAIL FROM: 553 5.7.1 "), "{reason}");
            assert_eq!(count(&fake.heard(), "connection"), connections);
        }
        assert_eq!(completed(&fake), 0, "{:?}", fake.heard());
    }
}

#[tokio::test]
async fn pipelined_answers_that_arrive_one_by_one_are_awaited() {
    let script = |_: usize, _: usize, line: &str| {
        let answer = match line.get(..4) {
            Some("MAIL" | "RCPT") => "250 2.1.0 Ok",
            Some("DATA") => "354 go on",
            _ => return None,
        };
        Some(Turn::SayAfter(Duration::from_millis(50), answer))
    };
    let fake = FakeSmtp::start(OFFER, script).await;
    let email = to_both(&fake);
    for number in 1..=2 {
        send(&email, number).await.unwrap();
    }
    assert_eq!((completed(&fake), count(&fake.heard(), "connection")), (2, 1));
}
