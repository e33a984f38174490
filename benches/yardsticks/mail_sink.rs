//! A fast mail server that accepts every message and counts each Message-ID once; and lettre without a bridge, for
//! comparison. A second port serves the counts, like [`crate::sink`].

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lettre::message::Message;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::TcpStream;

use crate::load::now_micros;
use crate::process;
use crate::sink::{self, Count};

/// The names of the roles.
pub const ROLE: &str = "mail-sink";
/// See [`ROLE`].
pub const BARE_ROLE: &str = "bare-lettre";

/// The work for lettre alone.
#[derive(Serialize, Deserialize)]
pub struct Bare {
    /// The mail server.
    pub address: SocketAddr,
    /// The number of persistent connections.
    pub connections: usize,
    /// For how long.
    pub seconds: f64,
}

impl Bare {
    /// Sends from another process; returns the messages per second.
    pub fn run(&self) -> Result<f64> {
        process::work(BARE_ROLE, self)
    }
}

/// Plays lettre alone. Does not use lettre's pool, which sends `NOOP` before each message, nor its `send`, which writes
/// the final dot separately and so waits for an acknowledgement: both would make the bridge look faster.
pub fn play_bare(bare: Bare) -> Result<()> {
    let rate: f64 = process::on_all_threads(async move {
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(bare.seconds);
        let tasks: Vec<_> = (0..bare.connections)
            .map(|_| tokio::spawn(send_until(bare.address, end)))
            .collect();
        let mut sent = 0;
        for task in tasks {
            sent += task.await??;
        }
        Ok(f64::from(sent) / start.elapsed().as_secs_f64())
    })?;
    println!("{rate}");
    Ok(())
}

async fn send_until(address: SocketAddr, end: Instant) -> Result<u32> {
    let hello = ClientId::Domain("bench".to_owned());
    let mut connection =
        AsyncSmtpConnection::connect_tokio1(address, Some(Duration::from_secs(5)), &hello, None, None)
            .await?;
    let mut sent = 0;
    while Instant::now() < end {
        // Built for each message, as a bridge must.
        let message = Message::builder()
            .from("SMS bridge <sms@example.com>".parse()?)
            .to("desk@example.com".parse()?)
            .message_id(None)
            .subject("SMS from +13030000001")
            .body(
                "Your table for two is booked, see you at eight. Bring the forms of last week, please."
                    .to_owned(),
            )?;
        let (from, to) = ("sms@example.com".parse()?, "desk@example.com".parse()?);
        connection.command(Mail::new(Some(from), Vec::new())).await?;
        connection.command(Rcpt::new(to, Vec::new())).await?;
        connection.command(Data).await?;
        let content = String::from_utf8(message.formatted())?;
        connection.command(format!("{content}\r\n.\r\n")).await?;
        sent += 1;
    }
    Ok(sent)
}

/// Runs the mail server.
pub fn play() -> Result<()> {
    process::on_one_thread(async {
        let [listener, reports] = process::listen().await?;
        let count = Arc::new(Mutex::new(Count::new()?));
        tokio::spawn(sink::accept(reports, count.clone()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, count.clone()));
        }
    })
}

/// Buffers writes until a flush, and allows reading ahead.
type Stream = BufReader<BufWriter<TcpStream>>;

async fn serve(stream: TcpStream, count: Arc<Mutex<Count>>) -> Result<()> {
    let mut stream = BufReader::new(BufWriter::new(stream));
    say(&mut stream, "220 bench").await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        match line.get(..4) {
            Some(b"DATA") => {
                say(&mut stream, "354 go on").await?;
                let key = message(&mut stream, &mut line).await?;
                count
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(key, now_micros());
                say(&mut stream, "250 taken").await?;
            }
            Some(b"EHLO") => say(&mut stream, "250-bench\r\n250 PIPELINING").await?,
            Some(b"QUIT") => return say(&mut stream, "221 bye").await,
            _ => say(&mut stream, "250 fine").await?,
        }
    }
}

/// Reads a message up to its final dot, and returns a key derived from its Message-ID.
async fn message(stream: &mut Stream, line: &mut Vec<u8>) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', line).await? == 0 {
            bail!("the connection was closed within a message");
        }
        if line == b".\r\n" {
            return Ok(hasher.finish());
        }
        if line.starts_with(b"Message-ID:") {
            line.hash(&mut hasher);
        }
    }
}

/// Answers all commands that arrived together in one write, as good servers do.
async fn say(stream: &mut Stream, line: &str) -> Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    if stream.buffer().is_empty() {
        stream.flush().await?;
    }
    Ok(())
}
