//! Sends a single HTTP request: for readiness, the admin API and the sinks' reports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::load::head_length;

/// The response.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// `GET`, with a bearer token if there is one.
pub fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Result<Answer> {
    ask(address, "GET", path, token)
}

/// `POST` without a body.
pub fn post(address: SocketAddr, path: &str, token: Option<&str>) -> Result<Answer> {
    ask(address, "POST", path, token)
}

fn ask(address: SocketAddr, method: &str, path: &str, token: Option<&str>) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let authorization = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    // A single write, because a second one would wait for the acknowledgement of the first.
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n{authorization}Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    read_answer(&mut stream, &mut answer)?;
    let head = head_length(&answer).context("no answer")?;
    let status = std::str::from_utf8(answer.get(9..12).context("no status")?)?.parse()?;
    let body = String::from_utf8_lossy(&answer[head..]).into_owned();
    Ok(Answer { status, body })
}

/// Reads to the end of the connection, or of the body if the server keeps the connection open.
fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    let mut part = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut part)?;
        answer.extend_from_slice(&part[..read]);
        let whole = match head_length(answer) {
            Some(head) => answer.len() >= head + crate::load::content_length(&answer[..head])?,
            None => false,
        };
        if read == 0 || whole {
            return Ok(());
        }
    }
}
