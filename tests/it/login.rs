//! Unauthenticated clients cause operators and carriers no noticeable delay.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::admin::{TOKEN, admin, page_of};
use crate::bridge::refid;
use crate::bridge::{Bridge, http, wait_for};

const SCREEN: &str = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

/// A daemon with a page behind a proxy on this machine, which names the client.
fn start(max_connections: usize) -> (Bridge, String) {
    let mut bridge = Bridge::configured(&(admin() + SCREEN));
    let path = bridge.folder().join("config.toml");
    let server =
        format!("[server]\nmax_connections = {max_connections}\ntrusted_proxies = [\"127.0.0.1\"]\n");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("[server]\n", &server)).unwrap();
    bridge.run();
    let page = page_of(&bridge);
    (bridge, page)
}

/// Requests the status with this token; returns the code of the answer and the time it took.
fn ask(page: &str, from: &str, token: &str) -> (u16, Duration) {
    let fields = [
        ("x-forwarded-for", from),
        ("authorization", &format!("Bearer {token}")),
    ];
    let began = Instant::now();
    (
        http("GET", &format!("{page}api/v1/status"), &fields, "").0,
        began.elapsed(),
    )
}

/// Connections to the address of this URL that send nothing, or an incomplete request.
fn strangers(url: &str, count: usize, says: &str) -> Vec<TcpStream> {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(says.as_bytes()).unwrap();
        connections.push(connection);
    }
    connections
}

#[test]
fn wrong_tokens_are_logged_counted_and_slowed_down_for_their_sender_alone() {
    let (bridge, page) = start(256);
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(ask(&page, "203.0.113.7", "canary-guess").0, 401);
    }
    let login = |token: &str| {
        let fields = [
            ("x-forwarded-for", "203.0.113.7"),
            ("content-type", "application/json"),
        ];
        http(
            "POST",
            &format!("{page}login"),
            &fields,
            &format!("{{\"token\":\"{token}\"}}"),
        )
        .0
    };
    assert_eq!(login("canary-guess"), 401);
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "five guesses took {:?}",
        began.elapsed()
    );

    // Twenty more at once: some are delayed, the others are rejected immediately. Other clients are not delayed.
    let guessing: Vec<_> = (0..20)
        .map(|_| {
            let page = page.clone();
            std::thread::spawn(move || ask(&page, "203.0.113.7", "canary-guess").0)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let (status, took) = ask(&page, "198.51.100.1", TOKEN);
    assert!(
        status == 200 && took < Duration::from_secs(1),
        "{status} after {took:?}"
    );
    let answers: Vec<u16> = guessing.into_iter().map(|guess| guess.join().unwrap()).collect();
    let count = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    assert!(
        count(401) >= 4 && count(429) >= 4 && count(401) + count(429) == 20,
        "{answers:?}"
    );
    // The right token is accepted as soon as the guesses are answered.
    let (status, took) = ask(&page, "203.0.113.7", TOKEN);
    assert!(
        status == 200 && took < Duration::from_secs(1),
        "{status} after {took:?}"
    );

    let failed = 5 + count(401);
    let lines: Vec<String> = bridge
        .log()
        .into_iter()
        .filter(|line| line.contains("login failed from 203.0.113.7"))
        .collect();
    assert!((5..=failed).contains(&lines.len()), "{lines:#?}");
    assert!(!bridge.log().iter().any(|line| line.contains("canary-guess")));
    let metrics = bridge.metrics();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("smsbridge_admin_logins_failed_total "));
    assert_eq!(
        counted,
        Some(format!("smsbridge_admin_logins_failed_total {}", 5 + 20).as_str())
    );
}

#[test]
fn idle_unauthenticated_connections_delay_no_operator() {
    let (_bridge, page) = start(256);
    let half = "POST /login HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    for (count, says, limit) in [(64, "", 1), (64, half, 1), (300, "GET /api/v1/status HT", 5)] {
        let strangers = strangers(&page, count, says);
        let (status, took) = ask(&page, "198.51.100.1", TOKEN);
        assert!(
            status == 200 && took < Duration::from_secs(limit),
            "{count} {says:?}: {status} after {took:?}"
        );
        drop(strangers);
    }
}

#[test]
fn idle_unauthenticated_connections_delay_no_carrier() {
    let (bridge, _page) = start(16);
    let url = bridge.url("/inbound/intelepeer");
    let half = "POST /inbound/intelepeer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    for (number, says) in ["", "POST /inbound/inte", half].into_iter().enumerate() {
        let strangers = strangers(&url, 16, says);
        let began = Instant::now();
        assert_eq!(
            bridge.post_message(&refid(number), "+13035550100", "hello").0,
            200
        );
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{says:?}: {:?}",
            began.elapsed()
        );
        drop(strangers);
    }
    wait_for("the warning", || {
        bridge
            .log()
            .into_iter()
            .find(|line| line.contains("all 16 connections were in use"))
    });
}
