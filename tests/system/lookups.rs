//! Name lookups that hang: each delays its own destination and nothing else.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::bridge::refid;
use crate::bridge::{Bridge, wait_for};
use crate::faults::private_mounts;
use crate::promises::disk::as_root;
use crate::servers::recorder::{Recorder, Reply};

/// Knows `alive.test` and never answers for any other name.
const NAME_SERVER: &str = r#"
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    name, kind = query[12:end - 4], query[end - 4:end - 2]
    if name.lower() != b"\5alive\4test\0":
        continue
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x7f\0\0\1" if kind == b"\0\1" else b""
    head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0"
    server.sendto(head + query[12:end] + answer, client)
"#;

struct NameServer {
    address: String,
    process: Child,
}

impl NameServer {
    fn start() -> Self {
        // An address of its own, so that tests do not interfere.
        let id = std::process::id();
        let address = format!("127.53.{}.{}", id / 250 % 250 + 1, id % 250 + 1);
        let mut process = as_root("python3")
            .args(["-c", NAME_SERVER, &address])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the name server needs port 53 of {address}");
        Self { address, process }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn threads(bridge: &Bridge) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", bridge.pid()));
    tasks.unwrap().count()
}

/// The duration of the test.
const WATCHED: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a name server: tests/run"]
async fn a_hundred_hanging_name_lookups_delay_no_list_no_other_destination_and_no_shutdown() {
    let server = NameServer::start();
    // Each message needs its own connection, and so its own lookup.
    let alive = Recorder::start(|_| Reply::new(200, "ok").with("connection", "close")).await;
    let url = alive.url("/sms").replace("127.0.0.1", "alive.test");
    let impatient = "timeout = \"2s\"\nretry = { initial = \"100ms\", max = \"200ms\" }";
    let dead: Vec<String> = (0..100).map(|number| format!("dead{number}")).collect();
    let mut config = format!("[destination.alive]\nkind = \"webhook\"\nurl = \"{url}\"\n");
    for name in &dead {
        config += &format!(
            "[destination.{name}]\nkind = \"webhook\"\nurl = \"http://{name}.test/\"\n{impatient}\n"
        );
    }
    config += &format!(
        "[smtp.mail]\nhost = \"mail.test\"\nsecurity = \"none\"\n[destination.desk]\nkind = \"email\"\nsmtp = \"mail\"\n\
         from = \"a@example.com\"\nto = [\"b@example.com\"]\n{impatient}\n[routing]\nunmatched = {:?}\n",
        [&dead[..], &["desk".to_owned(), "alive".to_owned()]].concat()
    );
    let mut bridge = Bridge::configured(&config);
    run_with_names_of(&mut bridge, &server);
    let before = threads(&bridge);

    let (mut slowest, mut latest, mut most) = (Duration::ZERO, Duration::ZERO, 0);
    let (started, mut posted) = (Instant::now(), 0);
    while started.elapsed() < WATCHED {
        bridge.post_message(&refid(posted), &format!("+1303555{posted:04}"), "x");
        posted += 1;
        let accepted = Instant::now();
        wait_for("the destination that is alive", || {
            (alive.received().len() == posted).then_some(())
        });
        latest = latest.max(accepted.elapsed());
        let asked = Instant::now();
        assert_eq!(bridge.admin("GET", "/messages?limit=10", "").unwrap().0, 200);
        bridge.status();
        slowest = slowest.max(asked.elapsed());
        most = most.max(threads(&bridge) - before);
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("delivered within {latest:.1?}, lists within {slowest:.1?}, {most} threads more");
    assert!(latest < Duration::from_secs(3), "a delivery took {latest:?}");
    assert!(slowest < Duration::from_secs(2), "a list took {slowest:?}");
    // Reads of the store have separate threads, too.
    assert!(
        most <= dead.len() + 50,
        "{most} threads for {} names",
        dead.len() + 1
    );
    let status = bridge.status();
    let down = |one: &&serde_json::Value| one["state"] == "down";
    let all = status["destinations"].as_array().unwrap();
    assert_eq!(all.iter().filter(down).count(), dead.len() + 1, "{status}");

    let ended = Instant::now();
    bridge.signal("TERM");
    assert!(bridge.end().success());
    let took = ended.elapsed();
    assert!(took < Duration::from_secs(8), "it took {took:?} to end");
}

/// Runs the daemon with a `/etc/resolv.conf` of its own. glibc asks each server twice, for five seconds each time.
fn run_with_names_of(bridge: &mut Bridge, server: &NameServer) {
    let file = |name: &str, text: &str| {
        let path = bridge.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let resolv = file(
        "resolv.conf",
        &format!("nameserver {}\n", server.address).repeat(3),
    );
    let nsswitch = file("nsswitch.conf", "hosts: files dns\n");
    let mut command = private_mounts(
        "mount --bind \"$2\" /etc/resolv.conf && mount --bind \"$3\" /etc/nsswitch.conf && exec \"$0\" serve --config \"$1\"",
    );
    command
        .arg(bridge.folder().join("config.toml"))
        .arg(resolv)
        .arg(nsswitch);
    bridge.run_as_it_is(command, &[]).unwrap();
}
