//! The answers of a running daemon to the carriers of its sources.

use super::*;

/// A daemon with Twilio's source of the fixtures beside IntelePeer's.
fn twilio() -> Bridge {
    let mut bridge = Bridge::configured("");
    let text = head().replace(
        "[server]\n",
        "[server]\npublic_url = \"https://sms.example.com\"\nmax_body = \"2KiB\"\n",
    ) + "[source.twilio]\nkind = \"twilio\"\nauth_token = \"12345678901234567890123456789012\"\nmax_body = \"4KiB\"\n\
           [destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n\
           [[route]]\nname = \"optout\"\nkeyword = [\"stop\"]\ndeliver = [\"screen\"]\n";
    fs::write(bridge.folder().join("config.toml"), text).unwrap();
    bridge.run();
    bridge
}

#[test]
fn a_request_with_several_messages_is_answered_when_all_are_stored_and_once() {
    let bridge = twilio();
    let cases = fixture(&folder().join("twilio.toml")).case;
    let case = cases.iter().find(|case| case.name == "a list of events").unwrap();
    let fields: Vec<(&str, &str)> = case
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let url = bridge.url(&format!("/inbound/twilio{}", case.query));
    for _ in 0..2 {
        let (status, head, body) = http("POST", &url, &fields, &case.body);
        assert_eq!(status, 200, "{head}{body}");
        assert!(
            head.to_lowercase().contains("\r\ncontent-type: text/xml\r\n"),
            "{head}"
        );
        assert_eq!(body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>");
    }
    let metrics = bridge.metrics();
    for line in [
        "smsbridge_messages_accepted_total{source=\"twilio\"} 2",
        "smsbridge_messages_duplicate_total{source=\"twilio\"} 2",
        "smsbridge_events_ignored_total{source=\"twilio\",event=\"status\"} 2",
        "smsbridge_events_ignored_total{source=\"twilio\",event=\"other\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    wait_for("both messages on the console, in their order", || {
        let console = bridge.console();
        let at = |text: &str| console.iter().position(|line| line.ends_with(text));
        at("Hi").zip(at("Ho")).filter(|(hi, ho)| hi < ho)
    });
}

/// A message that arrives without a token, or while the clock of the machine is wrong, is not lost: Vonage repeats a 503.
#[test]
fn a_request_that_cannot_be_verified_at_the_moment_is_answered_503() {
    let mut bridge = Bridge::configured("");
    let text = head()
        + "[source.vonage]\nkind = \"vonage\"\napi = \"messages\"\n"
        + "signature_secret = \"signature_secret_abcdefghijklmnop\"\nmax_body = \"1KiB\"\n"
        + "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    fs::write(bridge.folder().join("config.toml"), text).unwrap();
    bridge.run();
    let cases = fixture(&folder().join("vonage.toml")).case;
    let url = bridge.url("/inbound/vonage");
    for (name, reason, cause) in [
        (
            "no token, which Vonage sends in rare cases and then repeats",
            "unsigned",
            "it has no token",
        ),
        (
            "a message of the Messages API",
            "clock",
            "ago: check the clock of this machine",
        ),
    ] {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let fields = case.headers.iter();
        let fields: Vec<(&str, &str)> = fields.map(|(name, value)| (&**name, &**value)).collect();
        let (status, head, body) = http("POST", &url, &fields, &case.body);
        assert_eq!(status, 503, "{head}{body}");
        assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
        assert_eq!(
            body,
            "{\"error\":\"not possible at the moment, send it again\"}\n"
        );
        let line = format!("smsbridge_requests_rejected_total{{source=\"vonage\",reason=\"{reason}\"}} 1");
        let metrics = bridge.metrics();
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
        let is_logged = || bridge.log().iter().any(|line| line.contains(cause)).then_some(());
        wait_for("the cause in the log", is_logged);
    }
    assert_eq!(http("POST", &url, &[], &"x".repeat(1025)).0, 413);
    let line = "was answered 413: its body is over 1024 bytes; raise `max_body`";
    let is_logged = || {
        bridge
            .log()
            .iter()
            .any(|found| found.contains(line))
            .then_some(())
    };
    wait_for("the limit in the log", is_logged);
}

#[test]
fn the_source_decides_every_answer_on_its_path() {
    let bridge = twilio();
    let url = bridge.url("/inbound/twilio");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (status, head, body) = http("PUT", &url, &form, "Body=x");
    assert_eq!(status, 405, "{body}");
    assert!(head.to_lowercase().contains("\r\nallow: post, get\r\n"), "{head}");
    let (status, _, body) = http("POST", &url, &form, "Body=x");
    assert_eq!((status, body.as_str()), (403, "{\"error\":\"refused\"}\n"));
    // The limit of the source is above that of the server.
    let (status, _, _) = http("POST", &url, &form, &"x".repeat(4096));
    assert_eq!(status, 403);
    let (status, _, body) = http("POST", &url, &form, &"x".repeat(4097));
    assert_eq!(
        (status, body.as_str()),
        (413, "{\"error\":\"the body is over 4096 bytes\"}\n")
    );
    let simulate = [
        "simulate",
        "--source",
        "twilio",
        "--from",
        "+14045550123",
        "--to",
        "+13038675309",
    ];
    let (code, out, err) = bridge.command(&[&simulate[..], &["--message", "Stop", "--url", &url]].concat());
    assert_eq!(code, 0, "{out}{err}");
    let (_, found) = bridge.admin("GET", "/messages?limit=1", "").unwrap();
    let found = found.to_string();
    assert!(found.contains("keyword") && found.contains("stop"), "{found}");
    assert!(found.contains("\"route\":\"optout\""), "{found}");
}
