//! The admin listener of a daemon, as browsers and scripts reach it.

use serde_json::Value;

use crate::bridge::{Bridge, http};

/// The admin token.
pub const TOKEN: &str = "canary-admin-token";

/// The `[admin]` table of a daemon with a page.
pub fn admin() -> String {
    format!("[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n")
}

/// The URL of a daemon's page, `http://ADDRESS/`.
pub fn page_of(bridge: &Bridge) -> String {
    let line = bridge.logged("admin page on http://");
    let rest = line.split("admin page on ").nth(1).unwrap();
    rest.split_inclusive('/').take(3).collect()
}

/// A destination that accepts everything, and an unreachable one.
pub const REST: &str = r#"
[destination.screen]
kind = "console"
[destination.gone]
kind = "webhook"
url = "http://127.0.0.1:9/"
[[route]]
name = "lost"
message = "lost"
unless = { from = ["1-1234", "+1303867*"] }
deliver = ["gone"]
[routing]
unmatched = ["screen"]
"#;

/// A daemon with these destinations, and its page.
pub fn start() -> (Bridge, String) {
    let bridge = Bridge::start(&(admin() + REST));
    let page = page_of(&bridge);
    (bridge, page)
}

pub fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

/// Sends a request with the token; returns the status, the head in lower case, and the body.
pub fn ask(page: &str, method: &str, path: &str, body: &str) -> (u16, String, Value) {
    let (status, head, body) = http(
        method,
        &format!("{page}{path}"),
        &[("authorization", &bearer())],
        body,
    );
    (
        status,
        head.to_lowercase(),
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    )
}

pub fn host(page: &str) -> String {
    page.trim_end_matches('/').to_owned()
}
