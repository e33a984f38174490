//! The carrier: posts webhooks over keep-alive connections, with little overhead, and records the time of each.
//!
//! Every message has a `refid` of its own: its scheduled time, in microseconds since 1970, and a number
//! that no other message of this machine has. Its age can be computed from the `refid` alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use crate::process;

/// The role's name.
pub const ROLE: &str = "load";

/// The path of the webhooks, and their shared code.
pub const PATH: &str = "/inbound/carrier";
/// See [`PATH`].
pub const SECRET: &str = "yardstick";

/// The default number of senders.
const SENDERS: u64 = 10_000;

/// Significant digits of the histograms.
pub const DIGITS: u8 = 3;

/// The delay before the first request of an open loop.
const HEAD_START: Duration = Duration::from_millis(50);

/// The requests to post.
#[derive(Serialize, Deserialize)]
pub struct Load {
    /// Whom to.
    pub address: SocketAddr,
    /// The number of connections.
    pub connections: usize,
    /// For how long.
    pub seconds: f64,
    /// The number of senders, each with its own conversation, which take turns.
    pub senders: u64,
    /// Requests per second, independent of the answers; `None` for a new request after each answer.
    pub rate: Option<f64>,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub struct Posted {
    /// Answered 200.
    pub accepted: u64,
    /// Requests with another answer or none.
    pub refused: u64,
    /// The time from the first request to the last answer.
    pub seconds: f64,
    /// The time of the first request, in microseconds since 1970.
    pub began: u64,
    /// Milliseconds from the scheduled time of a request to its answer.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
}

impl Load {
    /// A load over 64 connections, each of which sends a request after each answer.
    pub fn flat_out(address: SocketAddr, seconds: f64) -> Self {
        Self {
            address,
            connections: 64,
            seconds,
            senders: SENDERS,
            rate: None,
        }
    }

    /// Posts all messages from one sender.
    pub fn one_conversation(address: SocketAddr, seconds: f64) -> Self {
        Self {
            senders: 1,
            ..Self::flat_out(address, seconds)
        }
    }

    /// A load over 64 connections with a fixed number of requests per second.
    pub fn at(address: SocketAddr, rate: f64, seconds: f64) -> Self {
        Self {
            rate: Some(rate),
            ..Self::flat_out(address, seconds)
        }
    }

    /// Posts from another process, and waits until it ends.
    pub fn run(&self) -> Result<Posted> {
        process::work(ROLE, self)
    }
}

impl Posted {
    /// Accepted messages per second.
    pub fn per_second(&self) -> f64 {
        self.accepted as f64 / self.seconds
    }
}

/// Microseconds since 1970, with which each `refid` begins.
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or_default()
}

/// The number in a `refid`, and the scheduled time of its message.
pub fn read_refid(refid: &str) -> Option<(u64, u64)> {
    let part = |range| u64::from_str_radix(refid.get(range)?, 16).ok();
    Some((part(16..32)?, part(0..16)?))
}

/// Plays the role.
pub fn play(load: Load) -> Result<()> {
    let posted = process::on_one_thread(post_all(load))?;
    println!("{}", serde_json::to_string(&posted)?);
    Ok(())
}

/// The scheduled time of a request.
type Turn = Instant;

async fn post_all(load: Load) -> Result<Posted> {
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(load.address).await?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let first = u64::from(rand::random::<u32>()) << 32;
    let next = Arc::new(AtomicU64::new(first));
    let began = now_micros();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(load.seconds);
    let turns = load
        .rate
        .map(|rate| Arc::new(Mutex::new(pace(rate, load.seconds))));
    let mut tasks = Vec::new();
    for stream in connections {
        let caller = Caller {
            stream,
            next: next.clone(),
            senders: load.senders,
            tally: Tally::new()?,
        };
        tasks.push(match turns.clone() {
            Some(turns) => tokio::spawn(caller.post_at(turns)),
            None => tokio::spawn(caller.post_until(end)),
        });
    }
    let mut all = Tally::new()?;
    for task in tasks {
        all.add(&task.await?)?;
    }
    let milliseconds = |quantile| all.micros.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Posted {
        accepted: all.accepted,
        refused: all.refused,
        seconds: start.elapsed().as_secs_f64(),
        began,
        p50: milliseconds(0.50),
        p99: milliseconds(0.99),
        p999: milliseconds(0.999),
    })
}

/// The schedule of an open loop. A separate thread follows it, because an async timer would round to milliseconds. When
/// all connections are busy, requests are delayed, and the delay counts.
fn pace(rate: f64, seconds: f64) -> mpsc::UnboundedReceiver<Turn> {
    let (sender, turns) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let start = Instant::now() + HEAD_START;
        for n in 0..(rate * seconds) as u64 {
            let turn = start + Duration::from_secs_f64(n as f64 / rate);
            std::thread::sleep(turn.saturating_duration_since(Instant::now()));
            if sender.send(turn).is_err() {
                return;
            }
        }
    });
    turns
}

/// The results of one connection.
struct Tally {
    accepted: u64,
    refused: u64,
    micros: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            accepted: 0,
            refused: 0,
            micros: Histogram::new(DIGITS)?,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.accepted += other.accepted;
        self.refused += other.refused;
        Ok(self.micros.add(&other.micros)?)
    }
}

/// One connection.
struct Caller {
    stream: TcpStream,
    next: Arc<AtomicU64>,
    senders: u64,
    tally: Tally,
}

impl Caller {
    async fn post_until(mut self, end: Instant) -> Tally {
        let mut request = Request::new();
        while Instant::now() < end && self.post(&mut request, Instant::now()).await.is_ok() {}
        self.tally
    }

    async fn post_at(mut self, turns: Arc<Mutex<mpsc::UnboundedReceiver<Turn>>>) -> Tally {
        let mut request = Request::new();
        loop {
            let turn = turns.lock().await.recv().await;
            let Some(turn) = turn else { return self.tally };
            if self.post(&mut request, turn).await.is_err() {
                return self.tally;
            }
        }
    }

    async fn post(&mut self, request: &mut Request, turn: Instant) -> Result<()> {
        let late = u64::try_from(turn.elapsed().as_micros())?;
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        request.set(now_micros().saturating_sub(late), n, n % self.senders);
        let status = match self.exchange(&request.bytes).await {
            Ok(status) => status,
            Err(error) => {
                self.tally.refused += 1;
                return Err(error);
            }
        };
        if status == *b"200" {
            self.tally.accepted += 1;
        } else {
            self.tally.refused += 1;
        }
        self.tally
            .micros
            .record(u64::try_from(turn.elapsed().as_micros())?)?;
        Ok(())
    }

    /// Sends a request, reads its answer completely, and returns the three digits of the status.
    async fn exchange(&mut self, request: &[u8]) -> Result<[u8; 3]> {
        self.stream.write_all(request).await?;
        let mut buffer = [0; 2048];
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                bail!("the connection was closed");
            }
            filled += read;
            if let Some(status) = answered(&buffer[..filled])? {
                return Ok(status);
            }
        }
    }
}

/// The status of an answer, once it is complete.
fn answered(answer: &[u8]) -> Result<Option<[u8; 3]>> {
    let Some(head) = head_length(answer) else {
        return Ok(None);
    };
    if answer.len() < head + content_length(&answer[..head])? {
        return Ok(None);
    }
    Ok(Some(answer.get(9..12).context("no status")?.try_into()?))
}

/// The length of the head of an HTTP message, with its empty line.
pub fn head_length(message: &[u8]) -> Option<usize> {
    let end = message.windows(4).position(|part| part == b"\r\n\r\n")?;
    Some(end + 4)
}

/// The body length according to a response head.
pub fn content_length(head: &[u8]) -> Result<usize> {
    const NAME: &[u8] = b"content-length:";
    let line = head
        .split(|&byte| byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME));
    let Some(line) = line else { return Ok(0) };
    Ok(std::str::from_utf8(&line[NAME.len()..])?.trim().parse()?)
}

/// A request that is built once; the parts that differ are overwritten for each message.
struct Request {
    bytes: Vec<u8>,
    refid: usize,
    sender: usize,
}

impl Request {
    fn new() -> Self {
        let body = format!(
            r#"{{"refid":"{:032}","from":"+1303{:07}","to":"+13038670000","message":"Your table for two is booked, see you at eight. Bring the forms of last week, please, and call when you are late.","signature":"{SECRET}"}}"#,
            0, 0
        );
        let text = format!(
            "POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let after = |words: &str| text.find(words).unwrap_or_default() + words.len();
        Self {
            refid: after(r#""refid":""#),
            sender: after(r#""from":"+1303"#),
            bytes: text.into_bytes(),
        }
    }

    fn set(&mut self, micros: u64, n: u64, sender: u64) {
        use std::io::Write as _;
        let mut refid = &mut self.bytes[self.refid..self.refid + 32];
        let _ = write!(refid, "{micros:016X}{n:016X}");
        let mut digits = &mut self.bytes[self.sender..self.sender + 7];
        let _ = write!(digits, "{sender:07}");
    }
}
