//! The way from one daemon to several, as the documentation describes it: every command and configuration is read from
//! it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bridge::{Bridge, http, refid, try_http, wait_for, wait_within};
use crate::pages::block;
use crate::postgres::{self, Cluster};
use crate::servers::Owned;
use crate::servers::recorder::{Recorder, Reply, webhook};

const OPERATIONS: &str = "docs/operations.md";
const SCALING: &str = "docs/scaling.md";

/// The text with these replacements, each of which must match.
fn adapted(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "`{from}` is not in:\n{text}");
        text.replace(from, to)
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn address(bridge: &Bridge) -> String {
    bridge.url("").trim_start_matches("http://").to_owned()
}

fn variables(bridge: &Bridge) -> [(&'static str, String); 2] {
    let folder = bridge.folder().display().to_string();
    [
        ("CREDENTIALS_DIRECTORY", format!("{folder}/credentials")),
        ("SMSBRIDGE_CONFIG", format!("{folder}/config.toml")),
    ]
}

fn run(bridge: &mut Bridge) {
    let variables = variables(bridge);
    bridge.run_with(
        &[],
        &variables.each_ref().map(|(name, value)| (*name, value.as_str())),
    );
}

/// Runs a documented block of commands on a "machine", the folder of a daemon: `systemctl` starts and stops that daemon.
fn follow(bridge: &mut Bridge, commands: &str) -> String {
    let folder = bridge.folder().display().to_string();
    let programs = Path::new(env!("CARGO_BIN_EXE_smsbridge")).parent().unwrap();
    let mut said = String::new();
    for line in commands.lines() {
        if line.starts_with("systemctl stop ") {
            assert!(bridge.stop().0.success());
            continue;
        } else if line.starts_with("systemctl ") {
            run(bridge);
            continue;
        }
        let line = line.replace("/etc/smsbridge", &folder).replace("/root", &folder);
        let output = Command::new("bash")
            .args(["-euc", &format!("PATH={}:$PATH\n{line}", programs.display())])
            .envs(variables(bridge))
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        said += &String::from_utf8(output.stdout).unwrap();
    }
    said
}

/// nginx with this configuration inside of `http`, and reloads it when it changes.
struct Nginx {
    folder: tempfile::TempDir,
    port: u16,
    _process: Owned,
}

impl Nginx {
    fn start(port: u16, content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::write(folder.path(), content);
        let child = Self::command(folder.path()).stdin(Stdio::null()).spawn();
        let process = Owned(child.expect("tests/setup installs nginx"));
        wait_for("nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self {
            folder,
            port,
            _process: process,
        }
    }

    fn command(folder: &Path) -> Command {
        let mut nginx = Command::new("nginx");
        nginx
            .arg("-p")
            .arg(folder)
            .args(["-e", "stderr", "-c", "nginx.conf"]);
        nginx
    }

    fn write(folder: &Path, content: &str) {
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", folder.join(name).display()))
            .concat();
        let whole = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\nevents {{}}\n\
             http {{\naccess_log off;\n{places}{content}}}\n"
        );
        fs::write(folder.join("nginx.conf"), whole).unwrap();
    }

    fn reload(&mut self, content: &str) {
        // A single process does not reload: another one takes its place.
        let old = std::mem::replace(&mut self._process, Owned(Command::new("true").spawn().unwrap()));
        drop(old);
        Self::write(self.folder.path(), content);
        self._process = Owned(Self::command(self.folder.path()).spawn().unwrap());
        let port = self.port;
        wait_for("nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
    }
}

/// Posts message `number` as the carrier does, until it gets 200 or `tries` are used up. Returns the last status.
fn post(port: u16, number: usize, tries: usize) -> u16 {
    let url = format!("http://127.0.0.1:{port}/inbound/intelepeer");
    let body = Bridge::body(&refid(number), "+13035550100", &format!("message {number}")).to_string();
    let mut status = 0;
    for _ in 0..tries {
        let answer = try_http("POST", &url, &[("content-type", "application/json")], &body);
        status = answer.map_or(0, |(status, _, _)| status);
        if status == 200 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    status
}

/// The messages that the recorder answered with 200.
fn arrived(recorder: &Recorder, count: usize) {
    let expected: BTreeSet<String> = (0..count).map(|number| format!("message {number}")).collect();
    wait_for("all messages", || {
        let bodies = recorder.received();
        let found: BTreeSet<String> = bodies
            .iter()
            .filter_map(|one| one.json()["text"].as_str().map(str::to_owned))
            .collect();
        (found == expected).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL, nginx and HAProxy: tests/run"]
async fn the_way_from_one_machine_to_several_loses_no_message() {
    let cluster = postgres::shared();
    let url = cluster.url(&cluster.create());
    // The destination is down until the move is over.
    let up = Arc::new(AtomicBool::new(false));
    let answer = up.clone();
    let recorder = Recorder::start(move |_| match answer.load(Ordering::Relaxed) {
        true => Reply::new(200, ""),
        false => Reply::new(503, ""),
    })
    .await;
    let retry = "retry = { initial = \"100ms\", max = \"500ms\" }";
    let rest = webhook("desk", &recorder, retry) + "[routing]\nunmatched = [\"desk\"]\n";
    let mut bridges = [Bridge::configured(&rest), Bridge::configured(&rest)];
    let old = fs::read_to_string(bridges[0].folder().join("config.toml")).unwrap();
    for (bridge, node) in bridges.iter().zip(["sms1", "sms2"]) {
        let (folder, credentials) = (bridge.folder(), bridge.folder().join("credentials"));
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("postgres-url"), &url).unwrap();
        let ours = block(OPERATIONS, "toml", "credential = \"postgres-url\"");
        let listen = [("0.0.0.0:8080", "127.0.0.1:0"), ("192.0.2.10", "127.0.0.1")];
        let new = adapted(&ours, &listen) + &format!("node = \"{node}\"\nlane_lease = \"4s\"\n");
        let replaced = [
            ("[server]\nlisten = \"127.0.0.1:0\"\n", ""),
            ("[store]\npath = \"data\"\nmin_free = \"1MiB\"\n", new.as_str()),
        ];
        let name = if node == "sms1" {
            "config.new.toml"
        } else {
            "config.toml"
        };
        fs::write(folder.join(name), adapted(&old, &replaced)).unwrap();
    }
    run(&mut bridges[0]);

    let port = free_port();
    let proxied = |bridge: &Bridge| {
        format!(
            "server {{\nlisten 127.0.0.1:{port};\nlocation /inbound/ {{ proxy_pass http://{}; }}\n}}\n",
            address(bridge)
        )
    };
    let mut nginx = Nginx::start(port, &proxied(&bridges[0]));
    (0..20).for_each(|number| assert_eq!(post(port, number, 1), 200));

    let prepared = follow(
        &mut bridges[0],
        &block(OPERATIONS, "sh", "config.new.toml store init"),
    );
    assert!(prepared.contains("created the tables"), "{prepared}");
    let refusing = block(OPERATIONS, "nginx", "return 503");
    nginx.reload(&format!("server {{\nlisten 127.0.0.1:{port};\n{refusing}}}\n"));
    assert_eq!(post(port, 20, 1), 503);
    let moved = follow(&mut bridges[0], &block(OPERATIONS, "sh", "config.sled.toml"));
    assert!(
        moved.contains("20 messages with 20 deliveries restored into PostgreSQL"),
        "{moved}"
    );
    let shown = follow(
        &mut bridges[1],
        &block(
            OPERATIONS,
            "sh",
            "systemctl enable --now smsbridge\nsmsbridge store",
        ),
    );
    assert!(shown.contains("sms1") && shown.contains("sms2"), "{shown}");

    let addresses = bridges.each_ref().map(address);
    let both = adapted(
        &block(OPERATIONS, "nginx", "upstream smsbridge"),
        &[
            ("sms1.example.com:8080", &addresses[0]),
            ("sms2.example.com:8080", &addresses[1]),
            ("listen 443 ssl", &format!("listen 127.0.0.1:{port}")),
            ("ssl_certificate ", "# "),
            ("ssl_certificate_key ", "# "),
        ],
    );
    nginx.reload(&both);
    // The carrier repeats the message that was refused.
    (20..40).for_each(|number| assert_eq!(post(port, number, 1), 200));
    for bridge in &bridges {
        let metrics = http("GET", &bridge.url("/readyz"), &[], "");
        assert_eq!(metrics.0, 200, "{}", metrics.2);
    }
    let balancer = HaProxy::start(&addresses);
    assert_eq!(post(balancer.port, 40, 1), 200);
    up.store(true, Ordering::Relaxed);
    arrived(&recorder, 41);

    // One daemon dies: no request fails at either load balancer.
    bridges[0].kill();
    (41..51).for_each(|number| assert_eq!(post(port, number, 1), 200, "nginx"));
    (51..61).for_each(|number| assert_eq!(post(balancer.port, number, 1), 200, "HAProxy"));
    arrived(&recorder, 61);
}

/// HAProxy with the documented configuration.
struct HaProxy {
    port: u16,
    _folder: tempfile::TempDir,
    _process: Owned,
}

impl HaProxy {
    fn start(addresses: &[String; 2]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = adapted(
            &block(SCALING, "haproxy", "frontend carriers"),
            &[
                (
                    "bind :443 ssl crt /etc/haproxy/sms.example.com.pem",
                    &format!("bind 127.0.0.1:{port}"),
                ),
                ("sms1.example.com:8080", &addresses[0]),
                ("sms2.example.com:8080", &addresses[1]),
            ],
        );
        let path = folder.path().join("haproxy.cfg");
        fs::write(&path, config).unwrap();
        let child = Command::new("haproxy").arg("-db").arg("-f").arg(&path).spawn();
        let process = Owned(child.expect("tests/setup installs HAProxy"));
        wait_for("HAProxy", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self {
            port,
            _folder: folder,
            _process: process,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_standby_as_documented_has_every_message_when_the_primary_is_lost() {
    let mut primary = Cluster::start("");
    let database = primary.create();
    let role = block(SCALING, "sql", "REPLICATION").replace('…', "secret");
    primary.sql("postgres", &role);
    let copied = adapted(
        &block(SCALING, "sh", "pg_basebackup"),
        &[(
            "host=db1.example.com",
            &format!("host=127.0.0.1 port={}", primary.port()),
        )],
    );
    let standby = Cluster::scripted(&copied, "/var/lib/postgresql/15/main");
    let state = "SELECT state FROM pg_stat_replication WHERE application_name = 'db2'";
    wait_for("the standby", || {
        (primary.sql("postgres", state) == "streaming").then_some(())
    });
    for statement in block(SCALING, "sql", "synchronous_standby_names").lines() {
        primary.sql("postgres", statement);
    }

    let (first, second) = (primary.port(), standby.port());
    let url = format!(
        "postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/{database}?sslmode=disable&target_session_attrs=read-write"
    );
    let screen = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    let mut bridge = Bridge::on_database(&url, "node = \"one\"\nlane_lease = \"4s\"\n", screen);
    bridge.run();
    let (_, shown, _) = bridge.command(&["store", "status"]);
    assert!(shown.contains("synchronous standbys db2"), "{shown}");
    let port = address(&bridge).rsplit(':').next().unwrap().parse().unwrap();
    (0..20).for_each(|number| assert_eq!(post(port, number, 1), 200));

    primary.kill();
    standby.sql("postgres", &block(SCALING, "sql", "pg_promote"));
    assert_eq!(post(port, 20, 150), 200, "accepted by the new primary");
    assert_eq!(standby.sql(&database, "SELECT count(*) FROM message"), "21");
    wait_within(std::time::Duration::from_secs(60), "the last message", || {
        bridge
            .console()
            .iter()
            .any(|line| line.contains("message 20"))
            .then_some(())
    });
}
