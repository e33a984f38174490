//! A real Synapse homeserver on a free port, started once for all tests of this binary.
//!
//! Its files are in a temporary folder, and it ends with the test process: a shell watches a pipe from
//! us, and when the pipe closes it stops the server it started and removes the folder.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use serde_json::{Value, json};
use sha1::Sha1;
use smsbridge::destination::http::Client;
use uuid::Uuid;

const REGISTRATION_SECRET: &str = "for tests only";
const START_PATIENCE: Duration = Duration::from_secs(60);

const WATCH: &str = r#"
"$1" -m synapse.app.homeserver -c "$2/homeserver.yaml" >"$2/output" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill "$server"
wait "$server"
rm -rf "$2"
"#;

/// The running server.
pub struct Synapse {
    port: u16,
    /// Its standard input is the pipe that keeps the server running.
    _watch: Child,
}

/// A registered user.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub token: String,
    base: String,
}

/// The server; the first caller starts it.
pub fn synapse() -> &'static Synapse {
    static SYNAPSE: OnceLock<Synapse> = OnceLock::new();
    SYNAPSE.get_or_init(start)
}

fn start() -> Synapse {
    let python = venv().join("bin/python");
    assert!(
        python.exists(),
        "no Synapse in {}: run tests/setup, or name the virtual environment in SMSBRIDGE_TEST_VENV",
        venv().display()
    );
    let folder = tempfile::Builder::new()
        .prefix("smsbridge-synapse-")
        .tempdir()
        .unwrap()
        .keep();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    configure(&folder, port);
    let watch = Command::new("sh")
        .args(["-c", WATCH, "sh"])
        .args([&python, &folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until_ready(port, &folder);
    Synapse { port, _watch: watch }
}

/// The Python environment that `tests/setup` makes.
pub fn venv() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-env/venv");
    std::env::var_os("SMSBRIDGE_TEST_VENV").map_or_else(usual, PathBuf::from)
}

fn configure(folder: &Path, port: u16) {
    let plenty = json!({ "per_second": 10_000, "burst_count": 10_000 });
    let config = json!({
        "server_name": "localhost",
        "report_stats": false,
        "listeners": [{
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": false,
            "resources": [{ "names": ["client"] }],
        }],
        "database": { "name": "sqlite3", "args": { "database": folder.join("homeserver.db") } },
        "log_config": folder.join("log.yaml"),
        "media_store_path": folder.join("media"),
        "pid_file": folder.join("pid"),
        "signing_key_path": folder.join("signing.key"),
        "registration_shared_secret": REGISTRATION_SECRET,
        "macaroon_secret_key": "for tests only",
        "form_secret": "for tests only",
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "federation_domain_whitelist": [],
        "presence": { "enabled": false },
        "rc_message": plenty,
        "rc_registration": plenty,
        "rc_joins": { "local": plenty, "remote": plenty },
        "rc_invites": { "per_room": plenty, "per_user": plenty, "per_issuer": plenty },
    });
    let log = json!({ "version": 1, "root": { "level": "WARNING", "handlers": [] } });
    let seed = [Uuid::now_v7().into_bytes(), Uuid::now_v7().into_bytes()].concat();
    // JSON is YAML.
    fs::write(folder.join("homeserver.yaml"), config.to_string()).unwrap();
    fs::write(folder.join("log.yaml"), log.to_string()).unwrap();
    fs::write(
        folder.join("signing.key"),
        format!("ed25519 a_test {}\n", STANDARD_NO_PAD.encode(seed)),
    )
    .unwrap();
}

fn wait_until_ready(port: u16, folder: &Path) {
    let deadline = Instant::now() + START_PATIENCE;
    while !healthy(port) {
        let output = fs::read_to_string(folder.join("output")).unwrap_or_default();
        assert!(
            Instant::now() < deadline,
            "Synapse was not ready in time; it says:\n{output}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn healthy(port: u16) -> bool {
    let mut answer = String::new();
    TcpStream::connect(("127.0.0.1", port))
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        })
        .is_ok_and(|_| answer.contains(" 200 "))
}

impl Synapse {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Registers a user with this prefix of the name.
    pub async fn user(&self, name: &str) -> User {
        self.register(name, false).await
    }

    /// Sets a rate limit for a user: one event, and then almost none.
    pub async fn slow_down(&self, user: &User) {
        let administrator = self.register("administrator", true).await;
        let path = format!("/_synapse/admin/v1/users/{}/override_ratelimit", user.id);
        let limit = json!({ "messages_per_second": 1, "burst_count": 1 });
        administrator.call(Method::POST, &path, Some(limit)).await;
    }

    async fn register(&self, name: &str, admin: bool) -> User {
        let nobody = User {
            id: String::new(),
            token: String::new(),
            base: self.url(),
        };
        let nonce = nobody
            .call(Method::GET, "/_synapse/admin/v1/register", None)
            .await["nonce"]
            .clone();
        let name = format!("{name}-{}", Uuid::now_v7().simple());
        let role = if admin { "admin" } else { "notadmin" };
        let signed = [nonce.as_str().unwrap(), &name, "password", role].join("\0");
        let mac = Hmac::<Sha1>::new_from_slice(REGISTRATION_SECRET.as_bytes())
            .unwrap()
            .chain_update(signed);
        let body = json!({
            "nonce": nonce,
            "username": name,
            "password": "password",
            "admin": admin,
            "mac": hex::encode(mac.finalize().into_bytes()),
        });
        let user = nobody
            .call(Method::POST, "/_synapse/admin/v1/register", Some(body))
            .await;
        User {
            id: user["user_id"].as_str().unwrap().to_owned(),
            token: user["access_token"].as_str().unwrap().to_owned(),
            base: self.url(),
        }
    }
}

impl User {
    /// Makes a room with these further options, and returns its id.
    pub async fn room(&self, options: Value) -> String {
        let room = self
            .call(Method::POST, "/_matrix/client/v3/createRoom", Some(options))
            .await;
        room["room_id"].as_str().unwrap().to_owned()
    }

    pub async fn kick(&self, room: &str, user: &User) {
        let path = format!("/_matrix/client/v3/rooms/{room}/kick");
        self.call(Method::POST, &path, Some(json!({ "user_id": user.id })))
            .await;
    }

    /// The messages in a room, oldest first.
    pub async fn messages(&self, room: &str) -> Vec<Value> {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100");
        let page = self.call(Method::GET, &path, None).await;
        let events = page["chunk"].as_array().unwrap().iter().rev();
        events
            .filter(|event| event["type"] == "m.room.message")
            .cloned()
            .collect()
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.base).parse().unwrap();
        let mut request = Client::new()
            .unwrap()
            .request(method, url)
            .timeout(Duration::from_secs(20));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }
}
