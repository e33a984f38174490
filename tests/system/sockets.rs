//! Sockets that the service manager passes: all of them are served, and an unusable one is an error.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::bridge::{Bridge, try_http, wait_for};
use crate::servers::Owned;
use crate::servers::certificate::{self, CONFIG, bridge};

const CONSOLE: &str = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
const TOKEN: &str = "a-token-that-is-long-enough-for-this";

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Waits for a connection on one of the sockets, and becomes the daemon then.
fn activate(bridge: &Bridge, options: &[&str]) -> Owned {
    let mut command = Command::new("systemd-socket-activate");
    command
        .args(options)
        .args([env!("CARGO_BIN_EXE_smsbridge"), "serve", "--config"])
        .arg(bridge.folder().join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log(bridge)).unwrap());
    Owned(command.spawn().expect("systemd-socket-activate"))
}

fn log(bridge: &Bridge) -> std::path::PathBuf {
    bridge.folder().join("log")
}

fn logged(path: &Path, words: &str) -> String {
    wait_for(&format!("the line `{words}`"), || {
        let log = std::fs::read_to_string(path).unwrap();
        log.lines().find(|line| line.contains(words)).map(str::to_owned)
    })
}

fn status(url: &str, fields: &[(&str, &str)]) -> Option<u16> {
    try_http("GET", url, fields, "").map(|(status, ..)| status)
}

#[test]
#[ignore = "needs systemd-socket-activate: tests/run"]
fn all_passed_sockets_are_served() {
    let bridge = Bridge::configured(CONSOLE);
    let (first, second) = (free_address(), free_address());
    let _daemon = activate(&bridge, &["-l", &first, "-l", &second]);
    for address in [&second, &first] {
        let url = format!("http://{address}/readyz");
        wait_for(&url, || (status(&url, &[]) == Some(200)).then_some(()));
    }
    let ready = logged(&log(&bridge), "ready: ");
    assert!(
        ready.contains(&format!("listening on {first} and {second}")),
        "{ready}"
    );
}

#[test]
#[ignore = "needs systemd-socket-activate: tests/run"]
fn sockets_named_admin_serve_the_admin_api() {
    let bridge = Bridge::configured(&format!("{CONSOLE}[admin]\ntoken = \"{TOKEN}\"\n"));
    let (public, admin) = (free_address(), free_address());
    let socket = bridge.folder().join("data/admin.sock");
    std::fs::create_dir(bridge.folder().join("data")).unwrap();
    let path = socket.to_str().unwrap();
    let options = [
        "-l",
        &public,
        "-l",
        &admin,
        "-l",
        path,
        "--fdname=public:admin:admin",
    ];
    let _daemon = activate(&bridge, &options);
    let url = format!("http://{admin}/api/v1/status");
    let token = format!("Bearer {TOKEN}");
    wait_for("the operators' listener", || {
        (status(&url, &[("authorization", &token)]) == Some(200)).then_some(())
    });
    assert_eq!(status(&url, &[]), Some(401), "it wants the token");
    let elsewhere = status(
        &format!("http://{public}/api/v1/status"),
        &[("authorization", &token)],
    );
    assert_eq!(elsewhere, Some(404), "carriers' sockets have no API");
    assert_eq!(status(&format!("http://{public}/readyz"), &[]), Some(200));
    assert_eq!(bridge.status()["ready"], true, "the passed unix socket is served");
}

/// Options of `systemd-socket-activate`, how to connect, and the error of the daemon.
#[test]
#[ignore = "needs systemd-socket-activate: tests/run"]
fn an_unusable_passed_socket_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.sock").display().to_string();
    let udp = free_address();
    let (one, two) = (free_address(), free_address());
    let connect_unix = || drop(std::os::unix::net::UnixStream::connect(&path));
    let connect = |address: &str| drop(std::net::TcpStream::connect(address));
    type Case<'a> = (Vec<&'a str>, Box<dyn Fn() + 'a>, &'a str);
    let cases: Vec<Case> = vec![
        (vec!["-l", &path], Box::new(connect_unix), "socket 1 of 1"),
        (
            vec!["-l", &path],
            Box::new(connect_unix),
            "only a socket with FileDescriptorName=admin may be a unix socket",
        ),
        (
            vec!["-d", "-l", &udp],
            Box::new(|| {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.send_to(b"x", &udp).unwrap();
            }),
            "it is not a TCP socket",
        ),
        (
            vec!["-a", "-l", &one],
            Box::new(|| connect(&one)),
            "it does not listen: remove `Accept=yes` from the socket unit",
        ),
        (
            vec!["-l", &two, "--fdname=admin"],
            Box::new(|| connect(&two)),
            "`admin.token` is not set",
        ),
    ];
    for (options, connect, words) in cases {
        let _ = std::fs::remove_file(&path);
        let bridge = Bridge::configured(CONSOLE);
        let _daemon = activate(&bridge, &options);
        wait_for(words, || {
            connect();
            let log = std::fs::read_to_string(log(&bridge)).unwrap();
            log.contains(words).then_some(())
        });
    }
}

#[test]
#[ignore = "needs systemd-socket-activate: tests/run"]
fn tls_is_spoken_on_a_passed_socket_with_credentials_and_can_be_turned_off_by_a_reload() {
    let bridge = bridge();
    let folder = bridge.folder().display().to_string();
    let from = "certificate = { credential = \"cert.pem\" }\nkey = { credential = \"key.pem\" }";
    bridge.configure(&CONFIG.replace("certificate = \"cert.pem\"\nkey = \"key.pem\"", from));
    let (status, _, said) = bridge.command(&["check"]);
    assert!(
        status == 0 && said.contains("`cert.pem` was not checked"),
        "{said}"
    );
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let activated = Command::new("systemd-socket-activate")
        .args([
            format!("--listen=127.0.0.1:{port}"),
            format!("--setenv=CREDENTIALS_DIRECTORY={folder}"),
        ])
        .args([env!("CARGO_BIN_EXE_smsbridge"), "serve", "--config"])
        .arg(bridge.folder().join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("systemd-socket-activate");
    let _activated = Owned(activated);
    let get = |url: String| {
        certificate::curl(bridge.folder())
            .arg(url)
            .output()
            .unwrap()
            .stdout
    };
    let ok = b"{\"status\":\"ok\"}\n".to_vec();
    let secure = wait_for("an answer over TLS", || {
        Some(get(format!("https://localhost:{port}/healthz"))).filter(|answer| !answer.is_empty())
    });
    let plain = CONFIG.split_once("[destination").unwrap().1;
    bridge.configure(&format!("[destination{plain}"));
    let (reloaded, changes, _) = bridge.command(&["reload"]);
    let open = get(format!("http://localhost:{port}/healthz"));
    assert_eq!(secure, ok);
    assert!(
        reloaded == 0 && changes.contains("server.tls changed"),
        "{changes}"
    );
    assert_eq!(open, ok);
}
