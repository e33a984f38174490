//! The admin API as scripts and browsers use it: authentication, answers, and that they match the OpenAPI
//! description.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{TOKEN, ask, bearer, host, start};
use crate::bridge::{TIMEOUT, http, wait_for};

#[test]
fn no_request_is_accepted_without_the_token() {
    let (_bridge, page) = start();
    let paths = [
        "api/v1/status",
        "api/v1/messages",
        "api/v1/events",
        "api/v1/openapi.json",
        "api/v1/nothing",
        "metrics",
        "nothing",
        "assets",
    ];
    for path in paths {
        for fields in [
            vec![],
            vec![("authorization", "Bearer wrong")],
            vec![("authorization", "Basic eDp5")],
            vec![("cookie", "smsbridge_session=guess")],
        ] {
            let (status, head, body) = http("GET", &format!("{page}{path}"), &fields, "");
            assert_eq!(status, 401, "{path} {fields:?}");
            assert!(head.to_lowercase().contains("www-authenticate: bearer"), "{head}");
            assert!(body.starts_with("{\"error\":"), "{body}");
        }
    }
    for path in ["", "assets/app.js", "healthz", "readyz"] {
        assert_eq!(http("GET", &format!("{page}{path}"), &[], "").0, 200, "{path}");
    }
}

#[test]
fn a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let (_bridge, page) = start();
    let login = |token: &str, origin: &str| {
        let body = json!({ "token": token }).to_string();
        http(
            "POST",
            &format!("{page}login"),
            &[("origin", origin), ("content-type", "application/json")],
            &body,
        )
    };
    assert_eq!(login("wrong", &host(&page)).0, 401);
    assert_eq!(login(TOKEN, "http://evil.example").0, 403);
    let (status, head, _) = login(TOKEN, &host(&page));
    assert_eq!(status, 200);
    let cookie = head
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    for flag in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    let (_, head, _) = login(TOKEN, &host(&page).replace("http://", "https://"));
    assert!(head.contains("; Secure"), "behind a proxy that ends TLS: {head}");
    let session = cookie.split(';').next().unwrap();
    let with = |method: &str, path: &str, origin: &[(&str, &str)]| {
        let fields = [&[("cookie", session)], origin].concat();
        http(method, &format!("{page}{path}"), &fields, "").0
    };
    assert_eq!(with("GET", "api/v1/status", &[]), 200);
    assert_eq!(
        with(
            "POST",
            "api/v1/destinations/screen/pause",
            &[("origin", &host(&page))]
        ),
        200
    );
    assert_eq!(
        with(
            "POST",
            "api/v1/destinations/screen/pause",
            &[("origin", "http://evil.example")]
        ),
        403
    );
    assert_eq!(
        with("POST", "api/v1/destinations/screen/pause", &[("origin", "null")]),
        403
    );
    assert_eq!(
        with(
            "POST",
            "api/v1/destinations/screen/pause",
            &[("sec-fetch-site", "cross-site")]
        ),
        403
    );
    assert_eq!(with("POST", "logout", &[("origin", &host(&page))]), 200);
    assert_eq!(
        with("GET", "api/v1/status", &[]),
        401,
        "the session has ended, not only the cookie"
    );
}

#[test]
fn every_answer_keeps_browsers_safe() {
    let (_bridge, page) = start();
    for (method, path) in [
        ("GET", ""),
        ("GET", "assets/app.js"),
        ("GET", "api/v1/status"),
        ("GET", "nothing"),
        ("POST", "login"),
        ("GET", "metrics"),
    ] {
        let (_, head, _) = ask(&page, method, path, "");
        for field in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';",
        ] {
            assert!(head.contains(field), "{method} /{path} lacks {field}\n{head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
    }
}

#[test]
fn wrong_paths_methods_and_parameters_are_named() {
    let (_bridge, page) = start();
    for path in [
        "nothing",
        "assets/nothing.js",
        "assets/../api.js",
        "api/v1/nothing",
        "api/v1/messages/1/2/3",
        "api/v2/status",
        "/",
        "api/v1/",
    ] {
        let (status, _, body) = ask(&page, "GET", path, "");
        assert_eq!(status, 404, "{path}");
        assert!(body["error"].is_string(), "{path}: {body}");
    }
    for (method, path, allow) in [
        ("POST", "", "get, head"),
        ("PUT", "assets/app.js", "get, head"),
        ("POST", "api/v1/openapi.json", "get, head"),
        ("POST", "api/v1/events", "get, head"),
        ("DELETE", "api/v1/events", "get, head"),
        ("POST", "api/v1/status", "get, head"),
        ("DELETE", "api/v1/status", "get, head"),
        ("OPTIONS", "api/v1/deliveries/retry", "post"),
        ("GET", "api/v1/deliveries/retry", "post"),
        ("GET", "api/v1/deliveries/acknowledge", "post"),
        ("GET", "api/v1/reload", "post"),
        ("GET", "api/v1/destinations/screen/pause", "post"),
        ("GET", "login", "post"),
        ("POST", "metrics", "get, head"),
    ] {
        let (status, head, body) = ask(&page, method, path, "");
        assert_eq!(status, 405, "{method} /{path}");
        assert!(
            head.contains(&format!("allow: {allow}")),
            "{method} /{path}\n{head}"
        );
        assert!(body["error"].is_string(), "{body}");
    }
    for (path, named) in [
        ("api/v1/messages?limit=0", "`limit`"),
        ("api/v1/messages?limit=501", "`limit`"),
        ("api/v1/messages?since=yesterday", "`since`"),
        ("api/v1/messages?cursor=x", "`cursor`"),
        ("api/v1/messages?colour=red", "`colour`"),
        ("api/v1/messages?state=lost", "`state`"),
        ("api/v1/deliveries?destination=a%20b", "`destination`"),
        ("api/v1/messages/1234", "message id"),
        ("api/v1/deliveries/1234", "delivery id"),
    ] {
        let (status, _, body) = ask(&page, "GET", path, "");
        assert_eq!(status, 400, "{path}");
        assert!(body["error"].as_str().unwrap().contains(named), "{path}: {body}");
    }
    for (path, body, named) in [
        ("api/v1/deliveries/retry", "{}", "`ids`"),
        ("api/v1/deliveries/acknowledge", "{}", "`ids`"),
        (
            "api/v1/deliveries/discard",
            "{\"destination\":\"gone\",\"state\":\"delivered\"}",
            "`state`",
        ),
        (
            "api/v1/deliveries/discard",
            "{\"destination\":\"gone\",\"state\":\"dead\"}",
            "given up already",
        ),
        (
            "api/v1/route",
            "{\"from\":\"Google\",\"to\":\"+13038675309\",\"source\":\"nowhere\"}",
            "no source `nowhere`",
        ),
        (
            "api/v1/route",
            "{\"from\":\"1-1\",\"to\":\"1-1\",\"at_once\":1}",
            "`at_once`",
        ),
        ("api/v1/route", "{", "the body"),
    ] {
        let (status, _, answer) = ask(&page, "POST", path, body);
        assert_eq!(status, 400, "{path} {body}");
        assert!(
            answer["error"].as_str().unwrap().contains(named),
            "{path}: {answer}"
        );
    }
    assert_eq!(ask(&page, "POST", "api/v1/route", &" ".repeat(513 * 1024)).0, 413);
}

#[test]
fn a_cursor_lists_every_item_once() {
    let (bridge, page) = start();
    for n in 0..7 {
        assert_eq!(
            bridge
                .post_message(&format!("{n:032}"), "+13035550100", &format!("text {n}"))
                .0,
            200
        );
    }
    let (mut path, mut seen) = ("api/v1/messages?limit=3&from=%2B1303*".to_owned(), Vec::new());
    for _ in 0..5 {
        let (status, _, body) = ask(&page, "GET", &path, "");
        assert_eq!(status, 200, "{body}");
        seen.extend(
            body["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["text"].as_str().unwrap().to_owned()),
        );
        let Some(next) = body["next"].as_str() else { break };
        path = format!("api/v1/messages?limit=3&from=%2B1303*&cursor={next}");
    }
    let newest_first: Vec<String> = (0..7).rev().map(|n| format!("text {n}")).collect();
    assert_eq!(seen, newest_first);
}

#[test]
fn the_routes_are_shown_as_they_are_configured() {
    let (_bridge, page) = start();
    let (status, _, routes) = ask(&page, "GET", "api/v1/routes", "");
    assert_eq!(status, 200);
    let lost = json!({
        "name": "lost", "from": null, "to": null, "source": null, "message": "lost", "keyword": null,
        "unless": { "from": ["1-1234", "+1303867*"], "to": null, "source": null, "message": null, "keyword": null },
        "active": [], "muted": [], "urgent": false,
        "deliver": ["gone"], "continue": false, "template": false,
    });
    assert_eq!(routes, json!({ "routes": [lost], "unmatched": ["screen"] }));
}

#[test]
fn the_rates_count_what_goes_through() {
    let (bridge, page) = start();
    let rates = || ask(&page, "GET", "api/v1/status", "").2["rates"].clone();
    let none = json!({ "last_1m": 0.0, "last_5m": 0.0, "last_15m": 0.0 });
    assert_eq!(rates(), json!({ "accepted": none, "delivered": none }));
    for n in 0..3 {
        // The last one is a repetition.
        bridge.post_message(&format!("{:032}", n.min(1)), "+13035550100", "hello");
    }
    bridge.post_message("c", "+13035550100", "lost");
    let counted = wait_for("the deliveries to be counted", || {
        let rates = rates();
        (rates["delivered"]["last_1m"] == 2.0).then_some(rates)
    });
    assert_eq!(
        counted["accepted"],
        json!({ "last_1m": 3.0, "last_5m": 0.6, "last_15m": 0.2 })
    );
}

/// An open event stream.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(page: &str) -> Self {
        let address = page
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let token = bearer();
        write!(
            stream,
            "GET /api/v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: {token}\r\n\r\n"
        )
        .unwrap();
        let mut stream = Self(BufReader::new(stream));
        assert!(stream.next("content-type:").contains("text/event-stream"));
        stream.next("retry:");
        stream
    }

    /// Returns the next line with this prefix.
    fn next(&mut self, begins: &str) -> String {
        for _ in 0..200 {
            let mut line = String::new();
            assert!(
                self.0.read_line(&mut line).unwrap() > 0,
                "the stream ended before `{begins}`"
            );
            if line.starts_with(begins) {
                return line;
            }
        }
        panic!("no line begins with `{begins}`");
    }

    fn event(&mut self, kind: &str) -> Value {
        self.next(&format!("event:{kind}"));
        serde_json::from_str(self.next("data:").trim_start_matches("data:")).unwrap()
    }
}

#[test]
fn events_are_sent_as_they_happen_and_end_with_the_daemon() {
    let (mut bridge, page) = start();
    let mut stream = Stream::open(&page);
    let (_, accepted) = bridge.post_message("a", "+13035550100", "hello");
    assert_eq!(stream.event("message"), json!({ "id": accepted["id"] }));
    let delivered = stream.event("delivery");
    assert_eq!(
        (&delivered["destination"], &delivered["state"]),
        (&json!("screen"), &json!("delivered"))
    );
    let (_, lost) = bridge.post_message("b", "+13035550100", "lost");
    assert_eq!(
        stream.event("destination"),
        json!({ "name": "gone", "state": "down" })
    );
    let retried = stream.event("delivery");
    assert_eq!(retried["state"], "pending");
    let id = format!("{}-1", lost["id"].as_str().unwrap());
    assert_eq!(retried["id"], *id);
    wait_for("the delivery to be discarded", || {
        let (_, _, touched) = ask(
            &page,
            "POST",
            "api/v1/deliveries/discard",
            &json!({ "ids": [id] }).to_string(),
        );
        (touched["deliveries"] == 1).then_some(())
    });
    while stream.event("delivery")["state"] != "dead" {}
    assert_eq!(ask(&page, "POST", "api/v1/destinations/screen/pause", "").0, 200);
    while stream.event("destination") != json!({ "name": "screen", "state": "paused" }) {}
    assert_eq!(ask(&page, "POST", "api/v1/reload", "").0, 200);
    assert_eq!(stream.event("reload"), json!({}));
    let asked = Instant::now();
    let (status, _, _) = bridge.stop();
    assert!(status.success());
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "the stream held the end up"
    );
    let mut rest = String::new();
    let _ = stream.0.read_to_string(&mut rest);
    assert!(rest.ends_with("0\r\n\r\n"), "the stream was cut: {rest:?}");
}

#[test]
fn event_streams_do_not_take_all_connections() {
    let (_bridge, page) = start();
    let streams: Vec<Stream> = (0..32).map(|_| Stream::open(&page)).collect();
    let (status, _, body) = ask(&page, "GET", "api/v1/events", "");
    assert_eq!(status, 503, "{body}");
    assert_eq!(ask(&page, "GET", "api/v1/status", "").0, 200);
    drop(streams);
    wait_for("a place for one more", || {
        let head = http(
            "HEAD",
            &format!("{page}api/v1/events"),
            &[("authorization", &bearer())],
            "",
        );
        (head.0 == 200).then_some(())
    });
}

/// A message and a delivery in every state, and every object of the answers, compared with the description.
#[test]
fn stored_items_are_shown_as_described() {
    let (bridge, page) = start();
    let (_, text) = bridge.post_message("a", "+13035550100", "hello \u{202e} <b>");
    let id = text["id"].as_str().unwrap().to_owned();
    let (_, _, description) = ask(&page, "GET", "api/v1/openapi.json", "");
    let schemas = &description["components"]["schemas"];
    let message = wait_for("the delivery", || {
        let (_, _, message) = ask(&page, "GET", &format!("api/v1/messages/{id}"), "");
        (message["state"] == "delivered").then_some(message)
    });
    let described = |name: &str, shown: &Value| {
        let properties = schemas[name]["properties"]
            .as_object()
            .unwrap_or_else(|| panic!("{name} is not described"));
        let shown: Vec<&String> = shown.as_object().unwrap().keys().collect();
        let mut known: Vec<&String> = properties.keys().collect();
        known.sort();
        assert_eq!(shown, known, "{name}");
    };
    described("Message", &message);
    described("Delivery", &message["deliveries"][0]);
    described("Attempt", &message["deliveries"][0]["attempts"][0]);
    ask(&page, "POST", "api/v1/destinations/screen/pause", "");
    let screen = "{\"destinations\":[\"screen\"]}";
    ask(&page, "POST", &format!("api/v1/messages/{id}/resend"), screen);
    let retry = json!({ "ids": [format!("{id}-2")] }).to_string();
    let (_, _, retried) = ask(&page, "POST", "api/v1/deliveries/retry", &retry);
    described("Retried", &retried);
    described("RetryResult", &retried["results"][0]);
    described("Pending", &retried["results"][0]["pending"]);
    ask(&page, "POST", "api/v1/destinations/screen/resume", "");
    let (_, _, status) = ask(&page, "GET", "api/v1/status", "");
    described("Status", &status);
    described("Destination", &status["destinations"][0]);
    assert_eq!(status["nodes"], Value::Null, "the store is not shared");
    let (_, _, nodes) = ask(&page, "GET", "api/v1/nodes", "");
    described("Nodes", &nodes);
    described("Node", &nodes["nodes"][0]);
    described("Lane", &nodes["lanes"][0]);
    assert_eq!(
        (&nodes["shared"], nodes["nodes"].as_array().map(Vec::len)),
        (&json!(false), Some(1))
    );
    let (_, _, series) = ask(&page, "GET", "api/v1/series", "");
    described("Series", &series);
    described("Minute", &series["minutes"][0]);
    described("Rate", &status["rates"]["accepted"]);
    ask(&page, "POST", "api/v1/destinations/screen/pause", "");
    bridge.post_message("b", "+13035550100", "paused");
    let (_, _, paused) = ask(&page, "GET", "api/v1/status", "");
    described("StatusProblem", &paused["problems"][0]);
    ask(&page, "POST", "api/v1/destinations/screen/resume", "");
    let (_, _, routes) = ask(&page, "GET", "api/v1/routes", "");
    described("Routes", &routes);
    described("Route", &routes["routes"][0]);
    described("Conditions", &routes["routes"][0]["unless"]);
    described(
        "Tested",
        &ask(&page, "POST", "api/v1/destinations/screen/test", "").2,
    );
    described(
        "Touched",
        &ask(&page, "POST", &format!("api/v1/messages/{id}/resend"), screen).2,
    );
    let question = json!({ "from": "+13035550100", "to": "1-1234", "message": "lost", "render": true });
    described(
        "Explanation",
        &ask(&page, "POST", "api/v1/route", &question.to_string()).2,
    );
}
