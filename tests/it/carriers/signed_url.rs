//! Requests that are signed for another URL than `server.public_url`: they are rejected, and the operator sees the
//! reason.

use std::fs;
use std::path::Path;

use smsbridge::config::{Config, Outside, Purpose};
use smsbridge::plan::Plan;
use smsbridge::source::Sample;

use super::NOW;
use crate::bridge::{Bridge, head, http, refid};

const SOURCES: &str = "[source.twilio]\nkind = \"twilio\"\nauth_token = \"12345678901234567890123456789012\"\n\
     [source.signalwire]\nkind = \"signalwire\"\nsigning_key = \"PSK_0123456789abcdef0123456789abcdef\"\n\
     [source.plivo]\nkind = \"plivo\"\nauth_token = \"MAXXXXXXXXXXXXXXXXXXauthtoken0123456789a\"\n\
     [source.box]\nkind = \"generic\"\nid = \"id\"\nfrom = \"from\"\nto = \"to\"\ntext = \"text\"\nsecret = \"0123456789abcdef0123\"\n\
     verify = { kind = \"hmac\", header = \"X-Signature\", over = \"{url}{body}\" }\n\
     [destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

fn config(public_url: &str) -> String {
    head().replace(
        "[server]\n",
        &format!("[server]\npublic_url = \"{public_url}\"\n"),
    ) + SOURCES
}

/// Posts a message to a source as its carrier would if this URL were configured there.
fn post(bridge: &Bridge, signed_for: &str, source: &str, number: usize) -> (u16, String) {
    let outside = Outside::default();
    let (config, mut problems) = Config::read(
        &config(signed_for),
        Path::new("/nowhere/config.toml"),
        Purpose::Serve,
        &outside,
    )
    .unwrap();
    let plan = Plan::compile(config, None, &mut problems).unwrap_or_else(|| panic!("{problems}"));
    let sample = Sample {
        provider_id: &refid(number),
        from: "+14045550123",
        to: "+13038675309",
        text: "Hello",
        now: NOW,
        part: None,
    };
    let composed = plan.sources[source].source.compose(&sample).unwrap();
    let fields = composed.headers.iter();
    let fields: Vec<(&str, &str)> = fields
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let url = bridge.url(&format!("/inbound/{source}"));
    let body = String::from_utf8(composed.body.to_vec()).unwrap();
    let (status, _, answer) = http("POST", &url, &fields, &body);
    (status, answer)
}

/// The messages of the current problems with `public_url`.
fn problems(bridge: &Bridge) -> Vec<String> {
    let status = bridge.status();
    let problems = status["problems"].as_array().unwrap().iter();
    problems
        .filter(|problem| problem["kind"] == "public_url")
        .map(|problem| problem["message"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_request_signed_for_another_url_is_refused_and_the_url_is_named() {
    let mut bridge = Bridge::configured("");
    fs::write(
        bridge.folder().join("config.toml"),
        config("https://sms.example.com"),
    )
    .unwrap();
    bridge.run();
    let real = bridge.url("");
    for (number, source) in ["twilio", "signalwire", "plivo", "box"].into_iter().enumerate() {
        // Signed for a URL that no header field of the request names: an ordinary wrong signature.
        let refused = post(&bridge, "https://other.example", source, number);
        assert_eq!(refused.0, 403);
        assert_eq!(problems(&bridge), [""; 0], "{source}");

        assert_eq!(
            post(&bridge, &real, source, number),
            refused,
            "the sender learns nothing"
        );
        let advice = format!(
            "the signature is valid for {real}, but `server.public_url` is https://sms.example.com; set it to {real}"
        );
        let found = problems(&bridge);
        let begin = format!("source {source} rejects the carrier's requests");
        assert!(
            found.len() == 1 && found[0].starts_with(&begin) && found[0].contains(&advice),
            "{found:?}"
        );
        bridge.logged(&format!("rejected a request to source {source}: {advice}"));
        let line =
            format!("smsbridge_requests_rejected_total{{source=\"{source}\",reason=\"public_url\"}} 1");
        assert!(bridge.metrics().lines().any(|found| found == line), "{line}");
        let (_, _, ready) = http("GET", &bridge.url("/readyz"), &[], "");
        assert!(
            ready.contains("signed for another URL") && !ready.contains(&real),
            "{ready}"
        );

        // Nothing of the rejected requests was stored, and an accepted request ends the problem.
        assert_eq!(post(&bridge, "https://sms.example.com", source, number).0, 200);
        assert_eq!(problems(&bridge), [""; 0], "{source}");
        assert_eq!(bridge.status()["messages"]["accepted"], number + 1);
    }
}
