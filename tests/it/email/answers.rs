//! Unusual, endless and late answers: the three digits decide, and time and memory are bounded.

use super::*;
use crate::bridge::{Bridge, wait_for};

/// Counts how often the content was sent completely.
fn completed(fake: &FakeSmtp) -> usize {
    fake.heard().iter().filter(|line| line.as_str() == ".").count()
}

/// A script that answers the first command with this prefix with these bytes.
fn at(
    step: &'static str,
    answer: &'static [u8],
) -> impl Fn(usize, usize, &str) -> Option<Turn> + Send + Sync {
    move |_, _, line| {
        let here = if step == "." {
            line == "."
        } else {
            line.starts_with(step)
        };
        here.then_some(Turn::Bytes(answer))
    }
}

#[tokio::test]
async fn the_three_digits_of_an_answer_decide_at_every_step() {
    for (step, answer) in [
        (GREETING, &b"220 gr\xfc\xdfe\r\n"[..]),
        (GREETING, b"220\r\n"),
        (GREETING, b"220-no UCE \xff\r\n220 ESMTP\r\n"),
        (GREETING, b"220\n"),
        ("EHLO", b"250-f\xfcr alle\r\n250-AUTH PLAIN\r\n250 \xa9\r\n"),
        ("EHLO", b"250-fake\r\n250-AUTH=PLAIN LOGIN\r\n250\r\n"),
        ("EHLO", b"250-fake\r\n250- \r\n250 AUTH PLAIN\r\n"),
        ("AUTH", b"235\r\n"),
        ("AUTH", b"235 2.7.0 willkommen \xfc\r\n"),
        ("MAIL", b"250\r\n"),
        ("MAIL", b"250 2.1.0 f\xfcr\r\n"),
        ("MAIL", b"250-2.1.0 a\r\nno code here\r\n250 2.1.0 b\r\n"),
        ("RCPT", b"250\r\n"),
        ("RCPT", b"252 2.1.5 f\xfcr\r\n"),
        ("DATA", b"354\r\n"),
        ("DATA", b"354 los f\xfcr\n"),
        (".", b"250\r\n"),
        (".", b"250 \r\n"),
        (".", b"250\n"),
        (".", b"250 2.0.0 Ok: f\xfcr queued\r\n"),
        (".", b"250-2.0.0 one\r\n250 2.0.0 two\r\n"),
        (".", b"250-\r\n250\r\n"),
        (".", b"200 fine\r\n"),
        (".", b"252 2.0.0 fine\r\n"),
        (".", b"2500 fine\r\n"),
        (".", b"250\0fine\r\n"),
    ] {
        let fake = FakeSmtp::start(&["AUTH PLAIN"], at(step, answer)).await;
        let email = plainly(&fake, "username = \"u\"\npassword = \"p\"");
        let what = format!("{step} {}", answer.escape_ascii());
        for number in 1..=2 {
            send(&email, number)
                .await
                .unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
        }
        assert_eq!(completed(&fake), 2, "{what}");
    }
}

#[tokio::test]
async fn a_refusal_is_parsed_without_text_and_in_any_character_set() {
    for (step, answer, expected) in [
        (".", &b"550\r\n"[..], "permanent"),
        (".", b"550 5.7.1 f\xfcr Spam\r\n", "permanent"),
        ("RCPT", b"550 5.1.1 unbekannt: f\xfcr\r\n", "permanent"),
        ("RCPT", b"452\r\n", "message"),
        (".", b"451 4.3.0 \xff\xfe\r\n", "message"),
        ("MAIL", b"451\r\n", "destination"),
        (GREETING, b"554\r\n", "destination"),
    ] {
        let fake = FakeSmtp::start(&[], at(step, answer)).await;
        let failure = send(&plainly(&fake, ""), 1).await.unwrap_err();
        let found = match failure {
            Failure::Permanent { .. } => "permanent",
            Failure::Transient {
                scope: Scope::Message,
                ..
            } => "message",
            Failure::Transient { .. } => "destination",
            Failure::Parked { .. } => "parked",
            Failure::Divided { .. } => "divided",
        };
        assert_eq!(found, expected, "{step} {}", answer.escape_ascii());
        assert!(
            failure
                .reason()
                .shown()
                .contains(std::str::from_utf8(&answer[..3]).unwrap()),
            "{failure:?}"
        );
    }
}

/// The server has accepted the message, even if its answer is truncated.
#[tokio::test]
async fn an_answer_truncated_after_its_digits_counts() {
    for answer in [
        &b"250"[..],
        b"250 2.0.0 Ok",
        b"250-2.0.0 Ok\r\n",
        b"250-2.0.0 Ok\r\n25",
    ] {
        let script =
            move |_: usize, _: usize, line: &str| (line == ".").then_some(Turn::BytesAndClose(answer));
        let fake = FakeSmtp::start(&[], script).await;
        let email = plainly(&fake, "");
        for number in 1..=2 {
            send(&email, number)
                .await
                .unwrap_or_else(|failure| panic!("{}: {failure:?}", answer.escape_ascii()));
        }
        assert_eq!(completed(&fake), 2);
    }
}

/// Bytes that a server can send before the bridge closes the connection: the bound of one answer, and what the kernel
/// buffers on both sides.
const LET_IN: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_abandoned() {
    let floods: [(&[u8], &[u8]); 3] = [(b"250 ", b"x"), (b"", b"250-on and on\r\n"), (b"", b"\0")];
    for (step, (first, again)) in [GREETING, "EHLO", "MAIL", "RCPT", "DATA"]
        .iter()
        .flat_map(|step| floods.map(|flood| (*step, flood)))
    {
        let script =
            move |_: usize, _: usize, line: &str| line.starts_with(step).then_some(Turn::Flood(first, again));
        let fake = FakeSmtp::start(&[], script).await;
        let started = Instant::now();
        let result = send(&plainly(&fake, ""), 1).await;
        let what = format!("{step} {}{}", first.escape_ascii(), again.escape_ascii());
        let reason = unreachable(result);
        let expected = ["is not terminated", "is unexpected here"];
        assert!(
            expected.iter().any(|words| reason.contains(words)),
            "{what}: {reason}"
        );
        assert!(fake.flooded() < LET_IN, "{what}: {} bytes", fake.flooded());
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{what}: {:?}",
            started.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_an_end_counts_by_its_digits() {
    let script = |_: usize, message: usize, line: &str| {
        let digits: &[u8] = if message == 1 { b"250 " } else { b"550 " };
        (line == ".").then_some(Turn::Flood(digits, b"x"))
    };
    let fake = FakeSmtp::start(&[], script).await;
    let email = plainly(&fake, "");
    send(&email, 1).await.unwrap();
    assert!(fake.flooded() < LET_IN, "{} bytes", fake.flooded());
    assert_eq!(completed(&fake), 1);
    send(&email, 2).await.unwrap();
    assert_eq!(
        fake.heard()
            .iter()
            .filter(|line| line.starts_with("connection"))
            .count(),
        2
    );
}

/// A server that scans each message for a while before it accepts it.
async fn thoughtful(pause: Duration) -> FakeSmtp {
    FakeSmtp::start(&[], move |_, _, line| {
        (line == ".").then_some(Turn::SayAfter(pause, "250 2.0.0 Ok"))
    })
    .await
}

#[tokio::test]
async fn the_answer_to_the_content_has_its_own_timeout() {
    let deliver = async |pause, data_timeout| {
        let fake = thoughtful(pause).await;
        let smtp = format!(
            "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n{data_timeout}",
            fake.port
        );
        let email = email(&smtp, &["desk@example.com"], Duration::from_millis(300));
        let longest = email.attempt_max(Duration::from_millis(300));
        (send(&email, 1).await, longest)
    };
    let (result, longest) = deliver(Duration::from_secs(1), "").await;
    result.unwrap();
    assert_eq!(longest, Duration::from_millis(600_300));
    let (result, longest) = deliver(Duration::from_secs(9), "data_timeout = \"500ms\"").await;
    let reason = unreachable(result);
    assert_eq!(
        reason,
        "sending the message: no answer within `data_timeout`; it is unknown whether the server accepted it"
    );
    assert_eq!(longest, Duration::from_millis(800));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_scans_for_longer_than_timeout_gets_one_copy() {
    let fake = thoughtful(Duration::from_secs(4)).await;
    let bridge = Bridge::start(&format!(
        "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n\
         [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\n\
         to = [\"desk@example.com\"]\ntimeout = \"1s\"\nretry = {{ initial = \"100ms\", max = \"1s\" }}\n\
         [routing]\nunmatched = [\"desk\"]\n",
        fake.port
    ));
    let (status, _) = bridge.post_message(&format!("{:032X}", 1), "+13035550100", "text");
    assert_eq!(status, 200);
    wait_for("an attempt under way", || {
        let status = bridge.status();
        status["destinations"][0]["attempting_since"]
            .as_str()
            .map(str::to_owned)
    });
    let line = bridge.logged("delivered to desk");
    assert!(line.contains("\"attempts\":1,"), "{line}");
    assert_eq!(completed(&fake), 1);
    assert!(bridge.status()["destinations"][0]["attempting_since"].is_null());
}
