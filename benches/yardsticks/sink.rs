//! A fast webhook server: answers 204 at once, and counts each message once.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{DIGITS, content_length, head_length, now_micros, read_refid};
use crate::{ask, process};

/// The role's name.
pub const ROLE: &str = "sink";

/// The messages received since the last reset.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Received {
    /// Different messages.
    pub unique: u64,
    /// All requests.
    pub total: u64,
    /// The times of the first and the last message, in microseconds since 1970.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// Milliseconds from the scheduled time of the post to the arrival here.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
}

/// The counts since the last reset; both kinds of sink use this.
pub struct Count {
    seen: HashSet<u64>,
    total: u64,
    first: u64,
    last: u64,
    micros: Histogram<u64>,
}

impl Count {
    /// Nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            seen: HashSet::new(),
            total: 0,
            first: 0,
            last: 0,
            micros: Histogram::new(DIGITS)?,
        })
    }

    /// Counts a message, identified by `key` and scheduled for that time.
    pub fn add(&mut self, key: u64, meant: u64) {
        let now = now_micros();
        self.total += 1;
        self.last = now;
        if self.total == 1 {
            self.first = now;
        }
        if self.seen.insert(key) {
            self.micros += now.saturating_sub(meant).max(1);
        }
    }

    /// The counts so far.
    pub fn received(&self) -> Received {
        let milliseconds = |quantile| self.micros.value_at_quantile(quantile) as f64 / 1000.0;
        Received {
            unique: self.seen.len() as u64,
            total: self.total,
            first: self.first,
            last: self.last,
            p50: milliseconds(0.50),
            p99: milliseconds(0.99),
        }
    }
}

/// Resets the counts.
pub fn reset(sink: SocketAddr) -> Result<()> {
    ask::get(sink, "/reset", None).map(drop)
}

/// Fetches the counts.
pub fn received(sink: SocketAddr) -> Result<Received> {
    Ok(serde_json::from_str(&ask::get(sink, "/report", None)?.body)?)
}

/// Waits until so many different messages have arrived, or until none arrived within `limit`.
pub fn wait_for(sink: SocketAddr, messages: u64, limit: Duration) -> Result<Received> {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let received = received(sink)?;
        if received.unique != before {
            (before, since) = (received.unique, Instant::now());
        }
        if received.unique >= messages || since.elapsed() > limit {
            return Ok(received);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Plays the role.
pub fn play() -> Result<()> {
    process::on_one_thread(async {
        let [listener] = process::listen().await?;
        accept(listener, Arc::new(Mutex::new(Count::new()?))).await
    })
}

/// Answers deliveries and requests for the count.
pub async fn accept(listener: TcpListener, count: Arc<Mutex<Count>>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, count.clone()));
    }
}

async fn serve(mut stream: TcpStream, count: Arc<Mutex<Count>>) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        while let Some(length) = whole(&buffer[..filled])? {
            let answer = answer(&buffer[..length], &count)?;
            stream.write_all(answer.as_bytes()).await?;
            buffer.copy_within(length..filled, 0);
            filled -= length;
        }
        if filled == buffer.len() {
            bail!("a request is too big");
        }
    }
}

/// The length of the first request, once it is complete.
fn whole(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = head_length(bytes) else {
        return Ok(None);
    };
    let length = head + content_length(&bytes[..head])?;
    Ok((length <= bytes.len()).then_some(length))
}

fn answer(request: &[u8], count: &Mutex<Count>) -> Result<String> {
    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
    if request.starts_with(b"GET /report") {
        let report = serde_json::to_string(&count.received())?;
        return Ok(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{report}",
            report.len()
        ));
    }
    if request.starts_with(b"GET /reset") {
        *count = Count::new()?;
    } else {
        let refid = refid(std::str::from_utf8(request)?);
        let (number, meant) = read_refid(refid).context("a message without its id")?;
        count.add(number, meant);
    }
    Ok("HTTP/1.1 204 No Content\r\n\r\n".to_owned())
}

/// The carrier's id, in the carrier's own request or in the bridge's.
fn refid(request: &str) -> &str {
    [r#""provider_id":""#, r#""refid":""#]
        .iter()
        .find_map(|name| request.split_once(name))
        .and_then(|(_, rest)| rest.get(..32))
        .unwrap_or_default()
}
