//! The real daemon as a child process: its own folder, a free port, its console and its log at hand.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time limit for operations that take a healthy daemon milliseconds.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The shared code of the configurations made here.
pub const CODE: &str = "canary-shared-code";

/// A folder with a configuration, and the daemon that runs on it, if it runs.
pub struct Bridge {
    folder: tempfile::TempDir,
    /// The store, if it is not in the folder.
    store: Option<Place>,
    running: Option<Running>,
}

struct Place {
    path: PathBuf,
    /// The keys of the section.
    keys: String,
}

/// The process and its output.
pub struct Running {
    child: Child,
    address: String,
    pub console: Lines,
    pub log: Lines,
}

/// The lines read from a pipe of the process.
#[derive(Clone, Default)]
pub struct Lines {
    read: Arc<Mutex<Vec<String>>>,
    /// While set, the reader does not read: the pipe fills up.
    pub stopped: Arc<AtomicBool>,
    /// Set at the end of the stream.
    ended: Arc<AtomicBool>,
}

impl Lines {
    fn read(stream: impl std::io::Read + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                kept.read.lock().unwrap().push(line);
                while kept.stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            kept.ended.store(true, Ordering::Relaxed);
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }
}

/// The beginning of every configuration: a free port, JSON logs, the source `intelepeer`.
pub fn head() -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[store]\npath = \"data\"\nmin_free = \"1MiB\"\n[log]\nformat = \"json\"\n\
         [source.intelepeer]\nkind = \"intelepeer\"\nsecret = \"{CODE}\"\n"
    )
}

/// Waits until `ready` returns a value; panics with `what` after [`TIMEOUT`].
pub fn wait_for<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    wait_within(TIMEOUT, what, ready)
}

/// Waits with another time limit than [`TIMEOUT`].
pub fn wait_within<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "timed out after {limit:?} waiting for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Bridge {
    /// Writes this configuration after [`head`] into a new folder; starts nothing.
    pub fn configured(rest: &str) -> Self {
        Self::new(None, rest)
    }

    /// Configures a daemon whose store is elsewhere, for example on its own file system.
    pub fn placed(store: &Path, keys: &'static str, rest: &str) -> Self {
        let path = store.to_owned();
        let keys = format!("path = \"{}\"\n{keys}", path.display());
        Self::new(Some(Place { path, keys }), rest)
    }

    /// Configures a daemon whose store is the database at a URL. `keys` are further keys of `[store]`.
    #[allow(dead_code, reason = "only tests/system has a database")]
    pub fn on_database(url: &str, keys: &str, rest: &str) -> Self {
        // Contains only the socket.
        let path = PathBuf::from("smsbridge-data");
        let keys = format!("kind = \"postgres\"\nurl = \"{url}\"\n{keys}");
        Self::new(Some(Place { path, keys }), rest)
    }

    fn new(store: Option<Place>, rest: &str) -> Self {
        let bridge = Self {
            folder: tempfile::tempdir().unwrap(),
            store,
            running: None,
        };
        bridge.configure(rest);
        bridge
    }

    /// Configures and starts a daemon.
    pub fn start(rest: &str) -> Self {
        let mut bridge = Self::configured(rest);
        bridge.run();
        bridge
    }

    /// Writes another configuration after [`head`].
    pub fn configure(&self, rest: &str) {
        let mut head = head();
        if let Some(Place { keys, .. }) = &self.store {
            head = head.replace("path = \"data\"\nmin_free = \"1MiB\"", keys);
        }
        std::fs::write(self.folder.path().join("config.toml"), head + rest).unwrap();
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        let path = self.store.as_ref().map_or(Path::new("data"), |place| &place.path);
        self.folder().join(path)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Starts the daemon and waits until it is ready.
    pub fn run(&mut self) {
        self.run_with(&[], &[]);
    }

    /// Starts the daemon and kills it after this time.
    pub fn run_and_kill(&mut self, after: Duration) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
            .arg("serve")
            .arg("--config")
            .arg(self.config())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it with further arguments and environment variables.
    pub fn run_with(&mut self, arguments: &[&str], variables: &[(&str, &str)]) {
        let command = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
        self.run_command(command, arguments, variables)
            .unwrap_or_else(|ended| panic!("{ended}"));
    }

    /// Starts a command that becomes the daemon, and waits until that is ready.
    ///
    /// # Errors
    /// If the daemon ends instead.
    pub fn run_command(
        &mut self,
        mut command: Command,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(), String> {
        command
            .arg("serve")
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null());
        self.run_as_it_is(command, variables)
    }

    /// Starts a command that already has all its arguments, and waits until the daemon is ready.
    ///
    /// # Errors
    /// If the daemon ends instead.
    pub fn run_as_it_is(&mut self, command: Command, variables: &[(&str, &str)]) -> Result<(), String> {
        self.run_logging(command, variables, Vec::new)
    }

    /// Starts a command and waits until the daemon is ready, according to standard error or to the lines of `elsewhere`.
    ///
    /// # Errors
    /// If the daemon ends instead.
    pub fn run_logging(
        &mut self,
        mut command: Command,
        variables: &[(&str, &str)],
        elsewhere: impl Fn() -> Vec<String>,
    ) -> Result<(), String> {
        let mut child = command
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let console = Lines::read(child.stdout.take().unwrap());
        let log = Lines::read(child.stderr.take().unwrap());
        let address = wait_for("the daemon to be ready", || {
            let status = child.try_wait().unwrap();
            // Its last lines may still be in the pipe.
            if status.is_some() && !log.ended.load(Ordering::Relaxed) {
                return None;
            }
            let lines = [log.all(), elsewhere()].concat();
            if let Some(status) = status {
                return Some(Err(format!("the daemon ended with {status}: {lines:#?}")));
            }
            let ready = lines.iter().find(|line| line.contains("ready: listening on "))?;
            let address = ready.split("listening on ").nth(1)?;
            Some(Ok(address
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                .collect::<String>()))
        })?;
        self.running = Some(Running {
            child,
            address,
            console,
            log,
        });
        Ok(())
    }

    /// The daemon, which must run.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("the daemon does not run")
    }

    /// `http://ADDRESS` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running().address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// The output of the console destination.
    pub fn console(&self) -> Vec<String> {
        self.running().console.all()
    }

    /// The log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.running().log.all()
    }

    /// Waits for a log line with these words.
    pub fn logged(&self, words: &str) -> String {
        wait_for(&format!("the log line `{words}`"), || {
            self.log().into_iter().find(|line| line.contains(words))
        })
    }

    /// The carrier's JSON body for a message.
    pub fn body(refid: &str, from: &str, text: &str) -> serde_json::Value {
        serde_json::json!({ "refid": refid, "from": from, "to": "+13038675309", "message": text, "signature": CODE })
    }

    /// Posts a message as the carrier would; returns the status and body of the answer.
    pub fn post_message(&self, refid: &str, from: &str, text: &str) -> (u16, serde_json::Value) {
        self.post(&Self::body(refid, from, text).to_string(), "application/json")
    }

    /// Posts any body to the source.
    pub fn post(&self, body: &str, media_type: &str) -> (u16, serde_json::Value) {
        let url = self.url("/inbound/intelepeer");
        let (status, _, body) = http("POST", &url, &[("content-type", media_type)], body);
        (
            status,
            serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)),
        )
    }

    /// Sends a signal by name (`HUP`, `TERM`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the daemon does not run");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }

    /// Sends a request to the admin API over its socket; `None` without a response.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Option<(u16, serde_json::Value)> {
        ask(&self.store().join("admin.sock"), method, path, body)
    }

    /// `GET /metrics`
    pub fn metrics(&self) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(self.store().join("admin.sock")).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).unwrap();
        metrics
    }

    /// `GET /api/v1/status`
    pub fn status(&self) -> serde_json::Value {
        let (code, status) = self.admin("GET", "/status", "").expect("an answer to `status`");
        assert_eq!(code, 200, "{status}");
        status
    }

    /// Waits until it ends by itself and returns its status.
    pub fn end(&mut self) -> ExitStatus {
        let running = self.running.as_mut().expect("the daemon does not run");
        let status = wait_for("the daemon to end", || running.child.try_wait().unwrap());
        self.running = None;
        status
    }

    /// Stops it with SIGTERM; returns its status, the log and the console.
    pub fn stop(&mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        self.signal("TERM");
        let mut running = self.running.take().unwrap();
        let status = wait_for("the daemon to end", || running.child.try_wait().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        (status, running.log.all(), running.console.all())
    }

    /// Runs another command of the same binary on the same configuration: status, output, errors.
    pub fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_smsbridge"))
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

/// Stops the daemon, and prints its log if the test failed.
impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
            if std::thread::panicking() {
                eprintln!("the daemon's log:\n{}", running.log.all().join("\n"));
            }
        }
    }
}

/// Sends a request to the admin API at this socket; `None` without a response in time.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, serde_json::Value)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let length = body.len();
    let head = format!("{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

/// Status, head and body.
pub type Answer = (u16, String, String);

/// One HTTP request over a connection of its own: status, head, body. Not a library, because tests send requests that a
/// well-behaved client would not send.
pub fn http(method: &str, url: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    try_http(method, url, fields, body).unwrap_or_else(|| panic!("no answer from {url}"))
}

/// Like [`http`], but `None` if the connection is refused or breaks.
pub fn try_http(method: &str, url: &str, fields: &[(&str, &str)], body: &str) -> Option<Answer> {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    let head = format!("{method} /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    try_raw(
        address,
        &format!("{head}content-length: {length}\r\n{fields}\r\n{body}"),
    )
}

/// Sends these bytes and reads the response to the end; `None` if the connection is refused or breaks.
pub fn try_raw(address: &str, request: &str) -> Option<Answer> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    // The other side may answer and close before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok())?;
    Some((status, head.to_owned(), body.to_owned()))
}

/// The refid of a numbered message.
pub fn refid(number: usize) -> String {
    format!("{number:032X}")
}
