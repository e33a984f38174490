//! TLS on the carriers' listener, with curl and reqwest as the carrier.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bridge::refid;
use crate::bridge::{Bridge, TIMEOUT, head};
use crate::servers::certificate::{self, CONFIG, bridge, certificate};

fn running() -> Bridge {
    let mut bridge = bridge();
    bridge.run();
    bridge
}

fn address(bridge: &Bridge) -> String {
    bridge.url("").trim_start_matches("http://").to_owned()
}

fn url(bridge: &Bridge) -> String {
    let port = address(bridge).rsplit(':').next().unwrap().to_owned();
    format!("https://localhost:{port}/inbound/intelepeer")
}

/// A client that trusts only the current `cert.pem`.
fn client(bridge: &Bridge) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pem = std::fs::read(bridge.folder().join("cert.pem")).unwrap();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .timeout(TIMEOUT)
        .build()
        .unwrap()
}

async fn post(client: &reqwest::Client, bridge: &Bridge, number: usize) -> Result<u16, reqwest::Error> {
    let body = Bridge::body(&refid(number), "+13035550100", "hello").to_string();
    let request = client
        .post(url(bridge))
        .header("content-type", "application/json");
    let response = request.body(body).send().await?;
    assert_eq!(response.version(), http::Version::HTTP_11);
    let status = response.status().as_u16();
    response.bytes().await?;
    Ok(status)
}

fn curl(bridge: &Bridge, number: usize, more: &[&str]) -> (bool, String) {
    let body = Bridge::body(&refid(number), "+13035550100", "hello").to_string();
    let output = certificate::curl(bridge.folder())
        .args(["--json", &body, "--write-out", " %{http_code}"])
        .args(more)
        .arg(url(bridge))
        .output()
        .expect("curl");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_accepted_over_tls_1_2_and_1_3() {
    let bridge = running();
    for (number, version) in [
        ["--tlsv1.2", "--tls-max", "1.2"],
        ["--tlsv1.3", "--tls-max", "1.3"],
    ]
    .iter()
    .enumerate()
    {
        let (done, said) = curl(&bridge, number, version);
        assert!(
            done && said.contains("accepted") && said.ends_with(" 200"),
            "{said}"
        );
    }
    let (done, said) = curl(
        &bridge,
        2,
        &["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"],
    );
    assert!(!done && said.contains("alert"), "refused by the server: {said}");
    assert_eq!(post(&client(&bridge), &bridge, 3).await.unwrap(), 200);
    bridge.logged("receives webhooks on https://127.0.0.1:");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_exchanges_the_certificate_and_leaves_open_connections_alone() {
    let bridge = running();
    let before = client(&bridge);
    assert_eq!(post(&before, &bridge, 1).await.unwrap(), 200);
    certificate(bridge.folder(), 91);
    let (status, said, _) = bridge.command(&["reload"]);
    assert!(
        status == 0 && said.contains("server.tls changed") && !said.contains("restart"),
        "{said}"
    );
    assert_eq!(
        post(&before, &bridge, 2).await.unwrap(),
        200,
        "the open connection continues"
    );
    assert_eq!(
        post(&client(&bridge), &bridge, 3).await.unwrap(),
        200,
        "a new one gets the new certificate"
    );
    let (_, said) = curl(&bridge, 4, &[]);
    assert!(said.ends_with(" 200"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_certificate_is_reported_and_the_previous_one_stays_in_use() {
    let bridge = running();
    let good = client(&bridge);
    let file = |name: &str| bridge.folder().join(name);
    let (cert, key) = (
        std::fs::read(file("cert.pem")).unwrap(),
        std::fs::read(file("key.pem")).unwrap(),
    );
    let other = tempfile::tempdir().unwrap();
    certificate(other.path(), 90);
    let other_key = std::fs::read(other.path().join("key.pem")).unwrap();
    let broken = b"-----BEGIN CERTIFICATE-----\ncanary-7\n-----END CERTIFICATE-----\n";
    let cases: [(&str, Option<&[u8]>, &str); 6] = [
        ("cert.pem", None, "cert.pem cannot be read: No such file"),
        ("key.pem", None, "key.pem cannot be read: No such file"),
        (
            "cert.pem",
            Some(b"canary-7"),
            "server.tls: there is no certificate in `certificate`",
        ),
        ("cert.pem", Some(broken), "server.tls: `certificate`"),
        (
            "key.pem",
            Some(b"canary-7"),
            "server.tls: there is no private key in `key`",
        ),
        (
            "key.pem",
            Some(&other_key),
            "server.tls: `key` is not the key of the first certificate",
        ),
    ];
    for (number, (name, content, words)) in cases.into_iter().enumerate() {
        match content {
            Some(content) => std::fs::write(file(name), content).unwrap(),
            None => std::fs::remove_file(file(name)).unwrap(),
        }
        for command in ["check", "reload"] {
            let (status, _, said) = bridge.command(&[command]);
            assert_eq!(status, 2, "{command}: {said}");
            assert!(
                said.contains(words) && !said.contains("canary"),
                "{command}: {words}: {said}"
            );
        }
        assert_eq!(post(&good, &bridge, number).await.unwrap(), 200);
        std::fs::write(file("cert.pem"), &cert).unwrap();
        std::fs::write(file("key.pem"), &key).unwrap();
    }
    // A new connection still gets the old certificate.
    assert_eq!(post(&client(&bridge), &bridge, 10).await.unwrap(), 200);
    assert_eq!(bridge.command(&["check"]).0, 0);
}

#[test]
fn plain_http_on_the_tls_port_ends_the_connection_and_nothing_else() {
    let bridge = running();
    let mut stream = TcpStream::connect(address(&bridge)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the connection is closed");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    bridge.logged("a TLS handshake failed, so no webhook could come");
    let (_, said) = curl(&bridge, 1, &[]);
    assert!(said.ends_with(" 200"), "{said}");
}

#[test]
fn a_slow_handshake_is_closed_and_frees_its_connection() {
    let mut bridge = bridge();
    let limits = "[server]\nheader_timeout = \"400ms\"\nmax_connections = 1\n";
    let config = head().replace("[server]\n", limits) + CONFIG;
    std::fs::write(bridge.folder().join("config.toml"), config).unwrap();
    bridge.run();
    let started = Instant::now();
    let mut stream = TcpStream::connect(address(&bridge)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).unwrap();
    let (_, said) = curl(&bridge, 1, &[]);
    assert!(said.ends_with(" 200"), "the only place was free again: {said}");
    assert!(
        started.elapsed() >= Duration::from_millis(400),
        "it was not taken"
    );
    assert_eq!(stream.read(&mut [0; 16]).expect("the connection is closed"), 0);
}

#[test]
fn simulate_trusts_only_the_configured_certificate() {
    let mut bridge = bridge();
    let listen = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = head().replace("127.0.0.1:0", &listen.to_string()) + CONFIG;
    std::fs::write(bridge.folder().join("config.toml"), config).unwrap();
    bridge.run();
    let simulate = [
        "simulate",
        "--from",
        "+13035550100",
        "--to",
        "+13038675309",
        "--message",
        "hello",
    ];
    let (status, said, error) = bridge.command(&simulate);
    assert!(status == 0 && said.starts_with("200 "), "{said}{error}");
    certificate(bridge.folder(), 90);
    let (status, _, error) = bridge.command(&simulate);
    assert!(
        status == 3 && error.contains("another certificate than its file contains; run `smsbridge reload`"),
        "{error}"
    );
    assert_eq!(bridge.command(&["reload"]).0, 0);
    assert_eq!(bridge.command(&simulate).0, 0);
}

#[test]
fn a_certificate_that_expires_soon_is_a_warning() {
    let mut bridge = bridge();
    let (_, _, said) = bridge.command(&["check"]);
    assert!(!said.contains("warning"), "{said}");
    certificate(bridge.folder(), 5);
    let (status, _, said) = bridge.command(&["check"]);
    assert!(
        status == 0 && said.contains("server.tls.certificate: the TLS certificate expires in 4 days"),
        "{said}"
    );
    bridge.run();
    let (_, said, _) = bridge.command(&["status"]);
    assert!(said.contains("the TLS certificate expires in 4 days"), "{said}");
    let (status, out, said) = bridge.command(&["reload"]);
    assert!(
        status == 0 && said.contains(": warning: ") && said.contains("the TLS certificate expires in 4 days"),
        "{out}{said}"
    );
}
