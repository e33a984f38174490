//! A PostgreSQL server of its own for tests: a new cluster with real syncs below `target/tmp`, on a free port of the
//! loopback interface. It stops when the value is dropped or the process ends.
//!
//! PostgreSQL refuses to run as root, so it runs as the user `postgres` if the tests do.

#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

/// Where Debian has the programs, by version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Settings of every cluster.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 200\n\
                        fsync = on\nfull_page_writes = on\nsynchronous_commit = on\nlog_min_messages = warning\n";

/// Numbers the folders and databases of one process.
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A running server.
pub struct Cluster {
    folder: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Cluster {
    /// A new cluster with these additional lines in `postgresql.conf`.
    pub fn start(settings: &str) -> Self {
        let mut cluster = Self::empty();
        let mut initdb = unprivileged(&program("initdb"));
        initdb.args([
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]);
        checked(initdb.arg("--pgdata").arg(cluster.data()));
        cluster.configure(&format!("{SETTINGS}{settings}\n"));
        cluster.start_again();
        cluster
    }

    /// A cluster whose files a Bash script makes, like those of a standby. The script names its folder `main`.
    pub fn scripted(script: &str, main: &str) -> Self {
        let mut cluster = Self::empty();
        let script = script.replace(main, cluster.data().to_str().unwrap());
        let programs = program("postgres").parent().unwrap().display().to_string();
        let mut bash = unprivileged(Path::new("bash"));
        bash.args(["-eu", "-c", &format!("PATH={programs}:$PATH\n{script}")]);
        checked(&mut bash);
        cluster.start_again();
        cluster
    }

    /// A folder that the server's user may write.
    fn empty() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("target/tmp/postgres-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        remove_abandoned();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        if is_root() {
            checked(Command::new("chown").arg("postgres").arg(&folder));
        }
        Self {
            folder,
            port: free_port(),
            server: None,
        }
    }

    /// A standby of this server, which replays what that writes.
    pub fn standby(&self) -> Self {
        let mut standby = Self::empty();
        let mut copy = unprivileged(&program("pg_basebackup"));
        copy.args([
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
        ]);
        copy.args(["--dbname", &self.url("postgres")]);
        checked(copy.arg("--pgdata").arg(standby.data()));
        standby.start_again();
        standby
    }

    /// Appends lines to `postgresql.conf`; they apply at the next start.
    pub fn configure(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        let old = fs::read_to_string(&path).unwrap();
        fs::write(path, old + lines).unwrap();
    }

    /// The folder of its files.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// Creates a database and returns its name.
    pub fn create(&self) -> String {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sms{number}");
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Runs statements as the superuser and returns what they print, without headings.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let output = self.psql(database, statements);
        assert!(output.status.success(), "{statements}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn psql(&self, database: &str, statements: &str) -> Output {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--set=ON_ERROR_STOP=1",
        ]);
        psql.args(["--dbname", &self.url(database), "--command", statements]);
        psql.output().unwrap()
    }

    /// Kills the server as `kill -9` or a power cut does, with all its processes.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).unwrap_or_default();
        let _ = server.kill();
        for child in children.split_whitespace() {
            let _ = Command::new("kill")
                .args(["-9", child])
                .stderr(Stdio::null())
                .status();
        }
        let _ = server.wait();
    }

    /// Stops the server: SIGINT ends its connections.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        checked(Command::new("kill").args(["-INT", &server.id().to_string()]));
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if server.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.server = Some(server);
        self.kill();
    }

    /// Starts a stopped server again.
    pub fn start_again(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let mut postgres = unprivileged(&program("postgres"));
        postgres
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()]);
        postgres
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.server = Some(spawn(postgres));
        let end = Instant::now() + Duration::from_secs(60);
        while !self.psql("postgres", "SELECT 1").status.success() {
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "the server did not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The cluster that the tests of a process share. Each test creates its own database.
pub fn shared() -> &'static Cluster {
    static SHARED: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(""));
    &SHARED
}

/// Gives a file of a cluster to the user that the server runs as, and to no one else.
pub fn own(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    if is_root() {
        checked(Command::new("chown").arg("postgres").arg(path));
    }
}

/// The path of a program of the newest installed version.
fn program(name: &str) -> PathBuf {
    let versions =
        fs::read_dir(VERSIONS).unwrap_or_else(|_| panic!("no PostgreSQL below {VERSIONS}: tests/setup"));
    let newest = versions
        .filter_map(|version| version.ok()?.file_name().into_string().ok()?.parse::<u32>().ok())
        .filter(|version| {
            Path::new(VERSIONS)
                .join(version.to_string())
                .join("bin/postgres")
                .exists()
        })
        .max();
    let newest = newest.unwrap_or_else(|| panic!("no PostgreSQL below {VERSIONS}: tests/setup"));
    Path::new(VERSIONS)
        .join(newest.to_string())
        .join("bin")
        .join(name)
}

/// Removes the folders of processes that have ended: a shared cluster is never dropped.
fn remove_abandoned() {
    let tmp = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name
            .strip_prefix("postgres-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A command that runs a program without the rights of root, and interrupts it when its parent ends.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "INT"]).arg(program).current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own))
        .unwrap()
        == 0
}

/// Starts a process from a thread that never ends: the kernel sends the signal for the end of the parent when the
/// thread ends that started the process, and a test's thread ends with the test.
fn spawn(command: Command) -> Child {
    type Request = (Command, mpsc::Sender<Child>);
    static STARTER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn().unwrap());
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    STARTER.send((command, answer)).unwrap();
    child.recv().unwrap()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn checked(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
