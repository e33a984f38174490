//! More e-mails at once than there are connections for them.

use super::*;
use crate::bridge::{Bridge, wait_for};

/// Needs this long for each e-mail.
async fn slow(pause: Duration) -> FakeSmtp {
    FakeSmtp::start(&["PIPELINING"], move |_, _, line| {
        (line == ".").then_some(Turn::SayAfter(pause, "250 2.0.0 Ok"))
    })
    .await
}

/// The numbers of e-mails and of connections.
fn came(fake: &FakeSmtp) -> (usize, usize) {
    let heard = fake.heard();
    let connections = heard.iter().filter(|line| line.starts_with("connection"));
    (
        heard.iter().filter(|line| line.as_str() == ".").count(),
        connections.count(),
    )
}

#[tokio::test]
async fn waiting_for_a_free_connection_is_not_the_servers_slowness() {
    let fake = slow(Duration::from_millis(500)).await;
    // Six times half a second through one connection; two seconds are for the server alone.
    let smtp = format!(
        "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nmax_connections = 1",
        fake.port
    );
    let email = email(&smtp, &["desk@example.com"], Duration::from_secs(2));
    let sent = futures_util::future::join_all((1..=6).map(|number| send(&email, number))).await;
    for outcome in sent {
        outcome.unwrap();
    }
    assert_eq!(came(&fake), (6, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_mails_wait_for_a_free_connection_without_counting_as_failures() {
    let fake = slow(Duration::from_millis(600)).await;
    let bridge = Bridge::start(&format!(
        "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nmax_connections = 1\n\
         [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\n\
         to = [\"desk@example.com\"]\nconcurrency = 64\ntimeout = \"2s\"\n[routing]\nunmatched = [\"desk\"]\n",
        fake.port
    ));
    for number in 10..20 {
        let (status, _) =
            bridge.post_message(&format!("{number:032X}"), &format!("+130355501{number}"), "text");
        assert_eq!(status, 200);
    }
    let delivered = wait_for("ten e-mails", || {
        let log = bridge.log();
        let lines: Vec<String> = log
            .into_iter()
            .filter(|line| line.contains("delivered to desk"))
            .collect();
        (lines.len() == 10).then_some(lines)
    });
    for line in delivered {
        assert!(line.contains("\"attempts\":1,"), "{line}");
    }
    assert_eq!(came(&fake), (10, 1));
}

/// An e-mail without a connection has sent nothing yet, so the stop leaves it to the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_the_e_mail_in_progress_and_begins_no_other() {
    let fake = slow(Duration::from_secs(2)).await;
    let mut bridge = Bridge::start(&format!(
        "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nmax_connections = 1\n\
         [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nfrom = \"sms@example.com\"\n\
         to = [\"desk@example.com\"]\nconcurrency = 4\n[routing]\nunmatched = [\"desk\"]\n",
        fake.port
    ));
    for number in 1..=3 {
        let (status, _) = bridge.post_message(
            &format!("{number:032X}"),
            &format!("+130355501{number:02}"),
            "text",
        );
        assert_eq!(status, 200);
    }
    wait_for("the first e-mail", || (came(&fake).0 == 1).then_some(()));
    let (status, _, log) = bridge.stop();
    assert!(status.success(), "{log:#?}");
    assert_eq!(came(&fake), (1, 1), "{log:#?}");
    bridge.run();
    wait_for("the other two", || (came(&fake).0 == 3).then_some(()));
}
