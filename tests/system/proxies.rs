//! The proxies of `docs/operations.md`: the documented configuration in a real nginx and a real Caddy in front of the
//! bridge.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::bridge::refid;
use crate::bridge::{Bridge, head, wait_for};
use crate::pages::snippets;
use crate::servers::Owned;
use crate::servers::certificate::{certificate, curl};

const LIVE: &str = "/etc/letsencrypt/live/sms.example.com";

/// The block with these replacements, each of which must match.
fn adapted(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "`{from}` is not in:\n{text}");
        text.replace(from, to)
    })
}

fn start(command: &mut Command, bridge: &Bridge, port: u16) -> Owned {
    let path = bridge.folder().join("proxy.log");
    let log = fs::File::create(&path).unwrap();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let mut proxy = Owned(child.expect("tests/setup installs nginx and caddy"));
    wait_for("the proxy", || {
        let ended = proxy.0.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "the proxy ended: {}",
            fs::read_to_string(&path).unwrap()
        );
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    proxy
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The bridge with the document's `[server]`, on its own port; only 127.0.0.2 may send it messages.
fn bridge() -> Bridge {
    let mut bridge = Bridge::configured("");
    let server = adapted(&snippets("toml")[0], &[("127.0.0.1:8080", "127.0.0.1:0")]);
    let config = head().replace("[server]\nlisten = \"127.0.0.1:0\"\n", &server)
        + "allow_from = [\"127.0.0.2\"]\n[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    assert!(config.contains("trusted_proxies"), "{config}");
    fs::write(bridge.folder().join("config.toml"), config).unwrap();
    certificate(bridge.folder(), 90);
    bridge.run();
    bridge
}

fn address(bridge: &Bridge) -> String {
    bridge.url("").trim_start_matches("http://").to_owned()
}

/// Posts a message from one of the loopback addresses; returns the status of the answer.
fn post(bridge: &Bridge, url: &str, from: &str, number: usize, more: &[&str]) -> String {
    let body = Bridge::body(&refid(number), "+13035550100", "hello").to_string();
    let output = curl(bridge.folder())
        .args([
            // Over HTTP/2, a 404 may arrive and end the stream before the body is sent, which curl reports as an error.
            "--http1.1",
            "--interface",
            from,
            "--json",
            &body,
            "--output",
            "answer",
            "--write-out",
            "%{http_code}",
            url,
        ])
        .args(more)
        .output()
        .expect("curl");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The behaviour that the document promises for every proxy.
fn holds(bridge: &Bridge, port: u16) {
    let url = format!("https://sms.example.com:{port}/inbound/intelepeer");
    let resolve = format!("sms.example.com:{port}:127.0.0.1");
    let here = ["--resolve", &resolve];
    let forged = ["--resolve", &resolve, "--header", "X-Forwarded-For: 127.0.0.2"];
    assert_eq!(post(bridge, &url, "127.0.0.2", 1, &here), "200");
    wait_for("the message", || {
        bridge.console().into_iter().find(|line| line.contains("hello"))
    });
    assert_eq!(
        post(bridge, &url, "127.0.0.3", 2, &here),
        "403",
        "allow_from sees the real address"
    );
    assert_eq!(
        post(bridge, &url, "127.0.0.3", 3, &forged),
        "403",
        "a forged header is not believed"
    );
    let elsewhere = format!("https://sms.example.com:{port}/readyz");
    assert_eq!(
        post(bridge, &elsewhere, "127.0.0.2", 4, &here),
        "404",
        "only /inbound/ is let through"
    );
    let around = format!("http://{}/inbound/intelepeer", address(bridge));
    assert_eq!(
        post(bridge, &around, "127.0.0.3", 5, &forged),
        "403",
        "only the proxy is believed"
    );
}

#[test]
#[ignore = "needs nginx: tests/run"]
fn nginx_as_documented_passes_messages_and_client_addresses() {
    let bridge = bridge();
    let (folder, port) = (bridge.folder().display().to_string(), free_port());
    let server = adapted(
        &snippets("nginx")[0],
        &[
            ("listen 443", &format!("listen 127.0.0.1:{port}")),
            ("127.0.0.1:8080", &address(&bridge)),
        ],
    );
    let server = adapted(
        &server,
        &[
            (&format!("{LIVE}/fullchain.pem"), &format!("{folder}/cert.pem")),
            (&format!("{LIVE}/privkey.pem"), &format!("{folder}/key.pem")),
        ],
    );
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .concat();
    let whole = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\naccess_log off;\n{places}{server}}}\n"
    );
    fs::write(bridge.folder().join("nginx.conf"), whole).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.args([
        "-p",
        &folder,
        "-e",
        "stderr",
        "-c",
        &format!("{folder}/nginx.conf"),
    ]);
    let _nginx = start(&mut nginx, &bridge, port);
    holds(&bridge, port);
}

#[test]
#[ignore = "needs Caddy: tests/run"]
fn caddy_as_documented_passes_messages_and_client_addresses() {
    let bridge = bridge();
    let (folder, port) = (bridge.folder().display().to_string(), free_port());
    let site = format!(
        "https://sms.example.com:{port} {{\n    bind 127.0.0.1\n    tls {folder}/cert.pem {folder}/key.pem\n"
    );
    let site = adapted(
        &snippets("caddyfile")[0],
        &[
            ("sms.example.com {\n", &site),
            ("127.0.0.1:8080", &address(&bridge)),
        ],
    );
    let options = "{\n    admin off\n    auto_https disable_redirects\n}\n";
    fs::write(bridge.folder().join("Caddyfile"), format!("{options}{site}")).unwrap();
    let mut caddy = Command::new("caddy");
    caddy
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(format!("{folder}/Caddyfile"));
    caddy
        .env("HOME", &folder)
        .env("XDG_DATA_HOME", &folder)
        .env("XDG_CONFIG_HOME", &folder);
    let _caddy = start(&mut caddy, &bridge, port);
    holds(&bridge, port);
}
