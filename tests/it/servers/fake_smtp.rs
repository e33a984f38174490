//! A fake mail server that follows a script.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The reaction of the server to one line, if not the usual response.
pub enum Turn {
    /// Answers with this line (without the line end).
    Say(&'static str),
    /// Answers with this line after a delay.
    SayAfter(Duration, &'static str),
    /// Answers with this line and closes the connection.
    SayAndClose(&'static str),
    /// Answers with these bytes and adds nothing.
    Bytes(&'static [u8]),
    /// Sends the response and closes the connection.
    BytesAndClose(&'static [u8]),
    /// Answers with the first bytes, and then repeats the second ones, up to [`FLOOD_MAX`].
    Flood(&'static [u8], &'static [u8]),
    /// Closes the connection without an answer.
    Close,
    /// Never answers.
    Hang,
}

/// Called with the number of the connection (from 1), the number of the message in it (from 1) and the line.
/// `.` stands for the end of a message, [`GREETING`] for what comes before all lines.
type Script = dyn Fn(usize, usize, &str) -> Option<Turn> + Send + Sync;

/// The argument of the script before the first line.
pub const GREETING: &str = "(greeting)";

/// Upper bound of the bytes of a flood, so that a failing test does not exhaust the machine.
pub const FLOOD_MAX: usize = 256 << 20;

/// What came in.
#[derive(Default)]
struct Ears {
    flooded: AtomicUsize,
    lines: Mutex<Vec<String>>,
    reads: Mutex<Vec<String>>,
}

/// A running fake; dropping it ends it.
pub struct FakeSmtp {
    /// Where it listens.
    pub port: u16,
    ears: Arc<Ears>,
    task: JoinHandle<()>,
}

impl FakeSmtp {
    /// Starts a server that offers `extensions`; `script` overrides its answers.
    pub async fn start(
        extensions: &'static [&'static str],
        script: impl Fn(usize, usize, &str) -> Option<Turn> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let ears = Arc::new(Ears::default());
        let task = tokio::spawn(serve(listener, extensions, Arc::new(script), ears.clone()));
        Self { port, ears, task }
    }

    /// All lines of all connections, without their ends; a new connection shows as `connection N`.
    pub fn heard(&self) -> Vec<String> {
        self.ears.lines.lock().expect("the lines").clone()
    }

    /// The number of bytes of floods that the client accepted.
    pub fn flooded(&self) -> usize {
        self.ears.flooded.load(Ordering::Relaxed)
    }

    /// The received bytes, one string for each read.
    pub fn reads(&self) -> Vec<String> {
        self.ears.reads.lock().expect("the reads").clone()
    }
}

impl Drop for FakeSmtp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    extensions: &'static [&'static str],
    script: Arc<Script>,
    ears: Arc<Ears>,
) {
    let mut talks = tokio::task::JoinSet::new();
    for number in 1.. {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        ears.lines
            .lock()
            .expect("the lines")
            .push(format!("connection {number}"));
        talks.spawn(talk(stream, number, extensions, script.clone(), ears.clone()));
    }
}

async fn talk(
    stream: TcpStream,
    connection: usize,
    extensions: &'static [&'static str],
    script: Arc<Script>,
    ears: Arc<Ears>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut message, mut line) = (1, GREETING.to_owned());
    loop {
        let usual = match line.as_str() {
            GREETING => "220 fake ESMTP".to_owned(),
            "" => "535 5.7.8 these credentials are wrong".to_owned(),
            "DATA" => "354 go on".to_owned(),
            "." => "250 2.0.0 Ok: queued as FAKE".to_owned(),
            "QUIT" => "221 bye".to_owned(),
            _ if line.starts_with("AUTH") => "235 2.7.0 welcome".to_owned(),
            _ if line.starts_with("EHLO") => {
                let all: Vec<&str> = ["fake"].iter().chain(extensions).copied().collect();
                let (last, others) = all.split_last().expect("one at least");
                others
                    .iter()
                    .map(|one| format!("250-{one}\r\n"))
                    .collect::<String>()
                    + "250 "
                    + last
            }
            _ => "250 2.1.0 Ok".to_owned(),
        };
        let turn = script(connection, message, &line);
        if matches!(turn, Some(Turn::Close)) {
            return Ok(());
        }
        if matches!(turn, Some(Turn::Hang)) {
            std::future::pending::<()>().await;
        }
        if let Some(Turn::SayAfter(pause, _)) = turn {
            tokio::time::sleep(pause).await;
        }
        if let Some(Turn::Flood(first, again)) = turn {
            stream.get_mut().write_all(first).await?;
            let block = again.repeat(65_536 / again.len());
            while ears.flooded.load(Ordering::Relaxed) < FLOOD_MAX {
                stream.get_mut().write_all(&block).await?;
                ears.flooded.fetch_add(block.len(), Ordering::Relaxed);
            }
            return Ok(());
        }
        let (answer, close) = match turn {
            Some(Turn::SayAfter(_, answer)) => (with_end(answer), false),
            Some(Turn::Say(answer)) => (with_end(answer), false),
            Some(Turn::SayAndClose(answer)) => (with_end(answer), true),
            Some(Turn::Bytes(answer)) => (answer.to_vec(), false),
            Some(Turn::BytesAndClose(answer)) => (answer.to_vec(), true),
            _ => (with_end(&usual), line == "QUIT"),
        };
        stream.get_mut().write_all(&answer).await?;
        if close {
            return Ok(());
        }
        let in_data = line == "DATA" && answer.starts_with(b"3");
        message += usize::from(line == ".");
        loop {
            line.clear();
            if stream.buffer().is_empty() {
                let read = String::from_utf8_lossy(stream.fill_buf().await?).into_owned();
                ears.reads.lock().expect("the reads").push(read);
            }
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            line.truncate(line.trim_end_matches(['\r', '\n']).len());
            ears.lines.lock().expect("the lines").push(line.clone());
            if !in_data || line == "." {
                break;
            }
        }
    }
}

fn with_end(answer: &str) -> Vec<u8> {
    format!("{answer}\r\n").into_bytes()
}
