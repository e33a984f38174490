//! Invalid, ambiguous and unauthenticated requests, and clients that misbehave.

use super::*;

/// Sends these bytes and reads the answer to the end.
fn raw(address: &str, request: &str) -> Answer {
    try_raw(address, request).unwrap_or_else(|| panic!("no answer from {address}"))
}

#[test]
fn invalid_requests_get_exactly_their_status() {
    let bridge = Bridge::start(CONSOLE);
    let url = |path: &str| bridge.url(path);
    let good = Bridge::body(&refid(1), "+13035550100", "x").to_string();
    let json = [("content-type", "application/json")];
    let cases: Vec<(&str, Answer, u16, &str)> = vec![
        ("path", http("POST", &url("/elsewhere"), &json, &good), 404, ""),
        (
            "method",
            http("GET", &url("/inbound/intelepeer"), &[], ""),
            405,
            "",
        ),
        (
            "media type",
            http(
                "POST",
                &url("/inbound/intelepeer"),
                &[("content-type", "text/xml")],
                "<a/>",
            ),
            415,
            "",
        ),
        (
            "not JSON",
            http("POST", &url("/inbound/intelepeer"), &json, "{nonsense"),
            400,
            "JSON",
        ),
        (
            "signature",
            http(
                "POST",
                &url("/inbound/intelepeer"),
                &json,
                &good.replace(CODE, "guess"),
            ),
            403,
            "",
        ),
        (
            "size",
            http("POST", &url("/inbound/intelepeer"), &json, &"x".repeat(70_000)),
            413,
            "",
        ),
        (
            "head",
            http(
                "POST",
                &url("/inbound/intelepeer"),
                &[("x-much", &"y".repeat(40_000))],
                &good,
            ),
            431,
            "",
        ),
        (
            "probe method",
            http("POST", &url("/healthz"), &json, "{}"),
            405,
            "",
        ),
    ];
    for (what, (status, head, body), expected, words) in cases {
        assert_eq!(status, expected, "{what}: {head} {body}");
        let error: serde_json::Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{what}: {body:?}"));
        assert!(error["error"].as_str().unwrap().contains(words), "{what}: {body}");
        assert_eq!(
            head.to_lowercase().contains("\r\nallow:"),
            status == 405,
            "{what}: {head}"
        );
    }
    assert_eq!(http("GET", &url("/healthz"), &[], "").0, 200);
    assert_eq!(http("GET", &url("/readyz"), &[], "").0, 200);
    assert!(bridge.console().is_empty());
}

#[test]
fn misbehaving_clients_do_no_harm() {
    let bridge = Bridge::start(CONSOLE);
    let address = bridge
        .url("/")
        .strip_prefix("http://")
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    assert_eq!(
        raw(
            &address,
            "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n"
        )
        .0,
        405
    );
    let chunked = format!(
        "POST /inbound/intelepeer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n{}",
        format!("2000\r\n{}\r\n", "z".repeat(0x2000)).repeat(20)
    );
    assert_eq!(
        raw(&address, &chunked).0,
        413,
        "a chunked body has the same limit"
    );
    assert_eq!(
        bridge.post_message(&refid(3), "+13035550100", "still here").0,
        200
    );
}

/// Request heads that a proxy may parse differently: each is rejected, and the rest of the connection is not read.
#[test]
fn an_ambiguous_head_is_refused_and_ends_the_connection() {
    let bridge = Bridge::start(CONSOLE);
    let address = bridge.url("/");
    let address = address.strip_prefix("http://").unwrap().trim_end_matches('/');
    let body = Bridge::body(&refid(1), "+13035550100", "smuggled").to_string();
    let behind = format!(
        "POST /inbound/intelepeer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for (head, words) in [
        (
            "host: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "Transfer-Encoding",
        ),
        (
            "host: x\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked",
            "Transfer-Encoding",
        ),
        (
            "host: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
            "Content-Length",
        ),
        (
            "host: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
            "Content-Length",
        ),
        ("host: x\r\nhost: y\r\ntransfer-encoding: chunked", "Host"),
        ("transfer-encoding: chunked", "Host"),
    ] {
        let request = format!("POST /inbound/intelepeer HTTP/1.1\r\n{head}\r\n\r\n0\r\n\r\n{behind}");
        let (status, answer, body) = raw(address, &request);
        // The HTTP library removes a length beside an encoding before the daemon sees it, so only the end of the
        // connection is checked.
        if words != "Content-Length" {
            assert_eq!(status, 400, "{head}: {answer} {body}");
            assert!(body.contains(words), "{head}: {body}");
        }
        assert!(
            !body.contains("HTTP/1.1"),
            "{head}: the connection went on: {body}"
        );
        assert!(
            answer.to_lowercase().contains("\r\nconnection: close"),
            "{answer}"
        );
    }
    assert_eq!(
        raw(address, "GET /healthz HTTP/1.0\r\n\r\n").0,
        200,
        "HTTP/1.0 needs no Host"
    );
    assert!(bridge.console().is_empty());
}

#[test]
fn wrong_basic_auth_is_challenged() {
    let bridge = Bridge::configured(CONSOLE);
    let config = std::fs::read_to_string(bridge.folder().join("config.toml")).unwrap();
    let auth = format!("secret = \"{CODE}\"\nbasic_auth = {{ username = \"carrier\", password = \"pw\" }}");
    std::fs::write(
        bridge.folder().join("config.toml"),
        config.replace(&format!("secret = \"{CODE}\""), &auth),
    )
    .unwrap();
    let mut bridge = bridge;
    bridge.run();
    let body = Bridge::body(&refid(1), "+13035550100", "x").to_string();
    let url = bridge.url("/inbound/intelepeer");
    let (status, head, _) = http("POST", &url, &[("content-type", "application/json")], &body);
    assert_eq!(status, 401);
    assert!(
        head.to_lowercase().contains("\r\nwww-authenticate: basic "),
        "{head}"
    );
    let fields = [
        ("content-type", "application/json"),
        ("authorization", "Basic Y2Fycmllcjpwdw=="),
    ];
    assert_eq!(http("POST", &url, &fields, &body).0, 200);
    let (exit, out, _) = bridge.command(&[
        "simulate",
        "--from",
        "+13035550100",
        "--to",
        "+13038675309",
        "--message",
        "x",
        "--url",
        &url,
    ]);
    assert_eq!(exit, 0, "{out}");
    assert!(out.starts_with("200 {"), "{out}");
}
