//! The bridge itself: `smsbridge serve` with a configuration file, as an operator runs it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::ask;
use crate::load::{PATH, SECRET};

/// The binary that is measured.
pub const BINARY: &str = env!("CARGO_BIN_EXE_smsbridge");

const TOKEN: &str = "yardstick-token";

/// Time limit for readiness.
const START_MAX: Duration = Duration::from_secs(300);

/// A running bridge. Killed when dropped.
pub struct Daemon {
    process: Child,
    /// The address for webhooks.
    pub public: SocketAddr,
    admin: SocketAddr,
    /// The time until `/readyz` answered 200.
    pub ready_after: Duration,
}

impl Daemon {
    /// Starts it on the store in `folder`, with these destinations and routes. All other settings are the defaults,
    /// except for the number of connections; the log goes to a file, at the default level.
    pub fn start(folder: &Path, destinations_and_routes: &str) -> Result<Self> {
        Self::start_binary(Path::new(BINARY), folder, destinations_and_routes)
    }

    /// Starts another build.
    pub fn start_binary(binary: &Path, folder: &Path, destinations_and_routes: &str) -> Result<Self> {
        let (public, admin) = (free_address()?, free_address()?);
        let config = folder.join("config.toml");
        let store = store_path(folder);
        std::fs::write(
            &config,
            format!(
                "[server]\nlisten = \"{public}\"\nmax_connections = 2048\n\
                 [admin]\nlisten = \"{admin}\"\ntoken = \"{TOKEN}\"\n\
                 [store]\npath = \"{}\"\n\
                 [source.carrier]\nkind = \"intelepeer\"\npath = \"{PATH}\"\nsecret = \"{SECRET}\"\n\
                 {destinations_and_routes}\n",
                store.display()
            ),
        )?;
        let began = Instant::now();
        let process = Command::new(binary)
            .args(["serve", "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("log"))?)
            .spawn()?;
        let mut daemon = Self {
            process,
            public,
            admin,
            ready_after: Duration::ZERO,
        };
        daemon
            .wait_until_ready()
            .with_context(|| format!("see {}", folder.join("log").display()))?;
        daemon.ready_after = began.elapsed();
        Ok(daemon)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_MAX {
            if let Some(status) = self.process.try_wait()? {
                bail!("the bridge ended at its start: {status}");
            }
            if ask::get(self.public, "/readyz", None).is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the bridge was not ready within {START_MAX:?}")
    }

    /// Sends a request to the admin API.
    pub fn get(&self, path: &str) -> Result<String> {
        let answer = ask::get(self.admin, path, Some(TOKEN))?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// `pause` or `resume`.
    pub fn tell_destination(&self, name: &str, what: &str) -> Result<()> {
        let path = format!("/api/v1/destinations/{name}/{what}");
        let answer = ask::post(self.admin, &path, Some(TOKEN))?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// Resident memory in MiB: now, and its peak.
    pub fn memory(&self) -> Result<(f64, f64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mebibytes = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(kibibytes.context("no such line")?.parse::<f64>()? / 1024.0)
        };
        Ok((mebibytes("VmRSS:")?, mebibytes("VmHWM:")?))
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it without a shutdown.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The path of the store in this folder.
pub fn store_path(folder: &Path) -> PathBuf {
    folder.join("store")
}

/// Finds a free port: it is released at once, and bound again by the bridge a moment later.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
