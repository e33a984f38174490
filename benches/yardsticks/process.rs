//! Roles: the load, the sinks and the servers for comparison are separate processes of this binary. A server prints
//! `ready ADDRESS …` on its first line and ends when its standard input is closed; a worker prints its result as JSON
//! and ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

/// The first argument of a process that plays a role; the role's name and its settings as JSON follow.
pub const ROLE: &str = "role";

/// A server process. Ended when dropped.
pub struct Server {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// The address for the counts of a sink; the same address if the sink speaks HTTP anyway.
    pub reports: SocketAddr,
}

impl Server {
    /// Starts a role and waits until it listens.
    pub fn start(role: &str, settings: &impl Serialize) -> Result<Self> {
        let mut process = command(role, settings)?.stdin(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let mut addresses = line.split_whitespace().skip(1).map(str::parse);
        let address = addresses
            .next()
            .with_context(|| format!("the {role} did not start"))??;
        let reports = addresses.next().transpose()?.unwrap_or(address);
        Ok(Self {
            process,
            address,
            reports,
        })
    }
}

impl Server {
    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }
}

/// The processor time that a process has used so far, in all its threads.
pub fn processor_seconds(process: u32) -> Result<f64> {
    /// `USER_HZ`: the unit that Linux counts in, independent of its kernel configuration.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may have spaces.
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("too short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a worker to its end, and reads its result.
pub fn work<R: DeserializeOwned>(role: &str, settings: &impl Serialize) -> Result<R> {
    let output = command(role, settings)?.stdin(Stdio::null()).output()?;
    anyhow::ensure!(output.status.success(), "the {role} failed: {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("the {role} said nothing of use"))
}

fn command(role: &str, settings: &impl Serialize) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([ROLE, role, &serde_json::to_string(settings)?])
        .stdout(Stdio::piped());
    Ok(command)
}

/// Runs a server: announces its listeners on loopback, and ends when the parent process ends.
pub async fn listen<const N: usize>() -> Result<[TcpListener; N]> {
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0").await?);
    }
    let addresses: Result<Vec<_>, _> = listeners.iter().map(TcpListener::local_addr).collect();
    let addresses: Vec<_> = addresses?.iter().map(SocketAddr::to_string).collect();
    println!("ready {}", addresses.join(" "));
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    listeners
        .try_into()
        .map_err(|_| anyhow::anyhow!("as many as were asked for"))
}

/// Runs a role that must leave the cores to others, on one thread.
pub fn on_one_thread<R>(work: impl Future<Output = Result<R>>) -> Result<R> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Runs a role that is compared with the product, with the same kind of runtime.
pub fn on_all_threads<R>(work: impl Future<Output = Result<R>>) -> Result<R> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
