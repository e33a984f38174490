//! Reads and writes the bytes of an SMTP connection over TCP or TLS.
//!
//! Only the three digits of a response matter ([RFC 5321, section
//! 4.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.2)): its text may be missing or in any character set, and
//! lines may end without CR. The time of a response is limited by the caller's deadline, its size by [`ANSWER_MAX`].

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::classes::Cause;
use super::reply::Reply;
use crate::model::message::dated;
use crate::resolver::Resolver;

/// Upper bound of one response, in bytes; far more than any real one.
const ANSWER_MAX: usize = 64 * 1024;

/// Bytes read at once.
const READ_MAX: usize = 4 * 1024;

const NOT_SMTP: &str = "the server answered something that is not SMTP";
const CLOSED: &str = "the server closed the connection";
const TOO_LONG: &str = "the server's answer is not terminated or too long";
const EARLY: &str = "the server replied before a command was sent";

/// The TLS configuration for one server.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

/// An open connection.
pub(super) struct Wire {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    /// Bytes that were read but not used yet.
    unread: BytesMut,
    /// Whether every response was read completely.
    is_complete: bool,
}

/// One response of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The three digits.
    pub(super) code: u16,
    /// The text after the digits, line by line.
    pub(super) lines: Vec<String>,
    /// Why the response is incomplete, if it is.
    pub(super) broken: Option<Cause>,
}

impl Answer {
    /// The response as an error for the operator.
    pub(super) fn reply(&self) -> Reply {
        Reply::new(self.code, &self.lines.join(" "))
    }

    /// Adds a line. Returns true if the response continues after it, and `None` if this is not a line of a response.
    fn add(&mut self, line: &[u8]) -> Option<bool> {
        let Some((code, text)) = digits(line) else {
            // Some servers omit the digits on lines between the first and the last one.
            self.lines.push(String::from_utf8_lossy(line).into_owned());
            return (self.code > 0).then_some(true);
        };
        self.code = code;
        let goes_on = text.first() == Some(&b'-');
        let text = text
            .strip_prefix(b"-")
            .or(text.strip_prefix(b" "))
            .unwrap_or(text);
        self.lines.push(String::from_utf8_lossy(text).into_owned());
        Some(goes_on)
    }
}

/// The code at the beginning of a line, and the rest of the line.
fn digits(line: &[u8]) -> Option<(u16, &[u8])> {
    let (&[a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'], text) = line.split_first_chunk()? else {
        return None;
    };
    let code = [a, b, c]
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some((code, text))
}

impl Wire {
    /// Resolves the host and tries its addresses in turn. Each gets a share of the time, so that a broken IPv6 route
    /// does not use all of it.
    pub(super) async fn connect(
        resolver: &Resolver,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Self, Cause> {
        let lost = |error: io::Error| Cause::Lost(format!("{host}: {error}"));
        let found = in_time(deadline, resolver.addresses(host)).await?;
        let addresses = found.map_err(lost)?;
        let mut last = Cause::Lost(format!("{host} has no address"));
        for (index, &address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
            match in_time(Instant::now() + share, TcpStream::connect((address, port))).await {
                Ok(Ok(stream)) => return Self::over(stream),
                Ok(Err(error)) => last = Cause::Lost(error.to_string()),
                Err(late) => last = late,
            }
        }
        Err(last)
    }

    fn over(stream: TcpStream) -> Result<Self, Cause> {
        stream
            .set_nodelay(true)
            .map_err(|error| Cause::Lost(error.to_string()))?;
        Ok(Self {
            stream: Either::Left(stream),
            unread: BytesMut::new(),
            is_complete: true,
        })
    }

    /// Starts TLS. Bytes received before it could come from an attacker, so none may be left in the buffer.
    pub(super) async fn secure(self, tls: &Tls, deadline: Instant) -> Result<Self, Cause> {
        let Either::Left(stream) = self.stream else {
            return Ok(self);
        };
        if !self.unread.is_empty() {
            return Err(Cause::Lost(EARLY.to_owned()));
        }
        let connector = TlsConnector::from(tls.config.clone());
        let handshake = in_time(deadline, connector.connect(tls.name.clone(), stream)).await?;
        let stream = handshake.map_err(|error| distrust(&error).unwrap_or_else(|| lost(&error)))?;
        Ok(Self {
            stream: Either::Right(Box::new(stream)),
            ..self
        })
    }

    /// Returns true if another command may follow: all responses were read completely and nothing else was received.
    pub(super) fn is_in_step(&self) -> bool {
        self.is_complete && self.unread.is_empty()
    }

    /// Writes in one piece.
    pub(super) async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Cause> {
        let written = in_time(deadline, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        written.await?.map_err(|error| lost(&error))
    }

    /// Reads a response. If the connection breaks after the digits, the response counts, but the connection must not
    /// be used any more.
    pub(super) async fn answer(&mut self, deadline: Instant) -> Result<Answer, Cause> {
        let mut answer = Answer::default();
        let mut left = ANSWER_MAX;
        loop {
            let (line, broken) = self.line(&mut left, deadline).await;
            let goes_on = answer.add(&line);
            self.is_complete = self.is_complete && broken.is_none() && goes_on.is_some();
            match (goes_on, broken) {
                (_, Some(cause)) if answer.code == 0 => return Err(cause),
                (None, None) => return Err(Cause::Lost(NOT_SMTP.to_owned())),
                (Some(true), None) => {}
                (Some(false), None) => return Ok(answer),
                (_, broken) => return Ok(Answer { broken, ..answer }),
            }
        }
    }

    /// The next line without its end, or an incomplete line and the reason.
    async fn line(&mut self, left: &mut usize, deadline: Instant) -> (BytesMut, Option<Cause>) {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].iter().position(|&byte| byte == b'\n') {
                let mut line = self.unread.split_to(searched + at + 1);
                let end = line.trim_ascii_end().len();
                line.truncate(end);
                return (line, None);
            }
            searched = self.unread.len();
            if let Err(cause) = self.read(left, deadline).await {
                return (self.unread.split(), Some(cause));
            }
        }
    }

    async fn read(&mut self, left: &mut usize, deadline: Instant) -> Result<(), Cause> {
        if *left == 0 {
            return Err(Cause::Lost(TOO_LONG.to_owned()));
        }
        self.unread.reserve(READ_MAX);
        let mut room = (&mut self.unread).limit((*left).min(READ_MAX));
        match in_time(deadline, self.stream.read_buf(&mut room)).await? {
            Ok(0) => Err(Cause::Lost(CLOSED.to_owned())),
            Ok(read) => {
                *left -= read;
                Ok(())
            }
            Err(error) => Err(lost(&error)),
        }
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Cause> {
    timeout_at(deadline, work).await.map_err(|_| Cause::Late)
}

fn lost(error: &io::Error) -> Cause {
    Cause::Lost(match error.kind() {
        // Over TLS the connection may be closed without a close notification.
        io::ErrorKind::UnexpectedEof => CLOSED.to_owned(),
        _ => error.to_string(),
    })
}

/// The problem of the server's certificate, if the error is about it.
fn distrust(error: &io::Error) -> Option<Cause> {
    let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
    matches!(error, rustls::Error::InvalidCertificate(_)).then(|| Cause::Untrusted(dated(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    /// The responses of a server that writes these pieces and then closes the connection.
    async fn answers(pieces: Vec<Vec<u8>>) -> (Vec<Answer>, Cause) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let deadline = Instant::now() + Duration::from_secs(10);
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for piece in pieces {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
            }
        });
        let mut wire = Wire::connect(&Resolver::default(), "127.0.0.1", port, deadline)
            .await
            .unwrap();
        let mut answers = Vec::new();
        let cause = loop {
            match wire.answer(deadline).await {
                Ok(answer) => answers.push(answer),
                Err(cause) => break cause,
            }
        };
        drop(wire);
        server.await.unwrap();
        (answers, cause)
    }

    #[tokio::test]
    async fn responses_are_separated_however_their_bytes_are_split() {
        let said = b"220-a\r\n220 b\r\n250\n354 \xfc\r\n250-x\r\nodd\r\n-\r\n550 y\r\n250";
        let expected = [
            (220, vec!["a", "b"]),
            (250, vec![""]),
            (354, vec!["\u{fffd}"]),
            (550, vec!["x", "odd", "-", "y"]),
            (250, vec![""]),
        ];
        for size in [1, 2, 3, 7, said.len()] {
            let pieces = said.chunks(size).map(<[u8]>::to_vec).collect();
            let (answers, cause) = answers(pieces).await;
            let found: Vec<(u16, Vec<&str>)> = answers
                .iter()
                .map(|answer| (answer.code, answer.lines.iter().map(String::as_str).collect()))
                .collect();
            assert_eq!(found, expected);
            assert_eq!(cause, Cause::Lost(CLOSED.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_line_without_a_code_is_not_a_response() {
        for said in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"25\r\n",
            b"199 x\r\n",
            b"600 x\r\n",
            b"\x012\n",
        ] {
            let (answers, cause) = answers(vec![said.to_vec()]).await;
            assert_eq!((answers, cause), (vec![], Cause::Lost(NOT_SMTP.to_owned())));
        }
    }

    #[tokio::test]
    async fn a_response_cut_by_the_deadline_counts_only_if_it_has_digits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let soon = || Instant::now() + Duration::from_millis(200);
        let mut wire = Wire::connect(&Resolver::default(), "127.0.0.1", port, soon())
            .await
            .unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        assert_eq!(wire.answer(soon()).await, Err(Cause::Late));
        server.write_all(b"250-2.0.0 Ok\r\n").await.unwrap();
        assert_eq!(wire.answer(soon()).await.map(|answer| answer.code), Ok(250));
        assert!(!wire.is_in_step());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// No response uses more bytes than were sent, and an endless one is cut off.
        #[test]
        fn any_bytes_are_read_to_their_end(
            noise in prop::collection::vec(any::<u8>(), 1..5_000),
            length in 0..300_000_usize,
            line in 1..5_000_usize,
        ) {
            let mut said: Vec<u8> = noise.iter().copied().cycle().take(length).collect();
            // Lines of various lengths; some begin like responses.
            for (number, at) in (0..length).step_by(line).enumerate() {
                let beginning = if number % 3 == 0 { &b"\n250-"[..] } else { &b"\n"[..] };
                let end = (at + beginning.len()).min(length);
                said[at..end].copy_from_slice(&beginning[..end - at]);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (answers, _) = runtime.block_on(answers(vec![said]));
            for answer in answers {
                let text: usize = answer.lines.iter().map(String::len).sum();
                // An invalid byte becomes three bytes.
                prop_assert!(text <= 3 * (ANSWER_MAX + READ_MAX));
            }
        }
    }
}
