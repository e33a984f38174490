//! Slack as its documents describe it: an incoming webhook at `/services/T0/B0/key` and `chat.postMessage` under
//! `/api`, with Slack's checks of the payload, its error codes and its echo of the message.

use serde_json::{Value, json};

use super::recorder::{Received, Reply};

pub const TOKEN: &str = "xoxb-test";
pub const CHANNEL: &str = "C0123ABCD";

/// The answer to a request; `posted` has the timestamps of the messages posted before.
pub fn answer(request: &Received, posted: &mut Vec<String>) -> Reply {
    match request.path.as_str() {
        "/services/T0/B0/key" => match fault(&request.json()) {
            Some(code) => Reply::new(400, code),
            None => Reply::new(200, "ok"),
        },
        "/api/chat.postMessage" => Reply::new(200, &post_message(request, posted)),
        _ => Reply::new(404, "no_service"),
    }
}

fn post_message(request: &Received, posted: &mut Vec<String>) -> String {
    let payload = request.json();
    let refused = |code: &str| json!({ "ok": false, "error": code }).to_string();
    if request.header("authorization") != format!("Bearer {TOKEN}") {
        return refused("invalid_auth");
    }
    if payload["channel"] != CHANNEL {
        return refused("channel_not_found");
    }
    if let Some(code) = fault(&payload) {
        return refused(code);
    }
    if let Some(root) = payload["thread_ts"].as_str()
        && !posted.iter().any(|ts| ts == root)
    {
        return refused("thread_not_found");
    }
    let ts = format!("1790000000.{:06}", posted.len() + 1);
    posted.push(ts.clone());
    let message = json!({
        "bot_id": "B0123ABCD", "type": "message", "user": "U0123ABCD", "ts": ts, "team": "T0123ABCD",
        "text": payload["text"], "blocks": payload["blocks"],
    });
    format!(
        r#"{{"ok":true,"channel":"{CHANNEL}","ts":"{ts}","message":{}}}"#,
        ascii(&message.to_string())
    )
}

/// JSON as Slack writes it: slashes and all characters outside ASCII are escaped.
fn ascii(json: &str) -> String {
    let escaped = |unit: &u16| match char::from_u32(u32::from(*unit)).filter(char::is_ascii) {
        Some('/') => "\\/".to_owned(),
        Some(plain) => plain.to_string(),
        None => format!("\\u{unit:04x}"),
    };
    json.encode_utf16()
        .collect::<Vec<_>>()
        .iter()
        .map(escaped)
        .collect()
}

/// The errors that Slack would report for a payload.
fn fault(payload: &Value) -> Option<&'static str> {
    let text = payload["text"].as_str();
    if !payload.is_object() {
        return Some("invalid_payload");
    }
    let Some(blocks) = payload.get("blocks") else {
        return text
            .is_none_or(|text| text.trim().is_empty())
            .then_some("no_text");
    };
    let blocks = blocks.as_array().cloned().unwrap_or_default();
    let sound = (1..=50).contains(&blocks.len()) && blocks.iter().all(sound_block);
    (!sound).then_some("invalid_blocks")
}

fn sound_block(block: &Value) -> bool {
    match block["type"].as_str() {
        Some("divider") => true,
        Some("section") => sound_text(&block["text"]),
        Some("context") => block["elements"]
            .as_array()
            .is_some_and(|elements| (1..=10).contains(&elements.len()) && elements.iter().all(sound_text)),
        _ => false,
    }
}

fn sound_text(object: &Value) -> bool {
    let text = object["text"].as_str().unwrap_or_default();
    let known = match object["type"].as_str() {
        Some("plain_text") => object.get("verbatim").is_none(),
        Some("mrkdwn") => object.get("emoji").is_none(),
        _ => false,
    };
    known && !text.trim().is_empty() && text.encode_utf16().count() <= 3000
}
