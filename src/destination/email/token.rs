//! Tokens for XOAUTH2 logins, from a file or a command that another program keeps up to date.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::file;
use crate::model::secret::Secret;

/// Maximum length of a token, in bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// Bytes that are read of the command's output: a token with its line end, and one byte more to detect a longer one.
const PRINTED_MAX: u64 = TOKEN_MAX as u64 + 3;

/// How to get the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The file is read for each new connection.
    File(PathBuf),
    /// The command runs if there is no token, or the current one was rejected or is older than `lifetime`.
    Command { line: Vec<String>, lifetime: Duration },
}

/// The current token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) secret: Secret,
    /// Whether it was cached by an earlier login and may have expired since.
    pub(super) kept: bool,
}

/// A token source and its cached token.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Source,
    // Locked while the command runs, so that it runs once for all connections that wait for it.
    kept: Mutex<Option<(Secret, Instant)>>,
    /// Locked while the file is read.
    turn: Arc<Semaphore>,
}

impl Tokens {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            kept: Mutex::new(None),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Returns a token for a new connection. The error says what failed, but never quotes what was read.
    pub(super) async fn get(&self) -> Result<Token, String> {
        match &self.source {
            Source::File(path) => {
                let path = path.clone();
                // Moved into the thread: if the file system hangs, later deliveries wait here and do not start
                // further threads.
                let turn = self.turn.clone().acquire_owned().await;
                let read = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    file::read(&path, TOKEN_MAX as u64)
                        .map_err(|error| format!("token_file {} {error}", path.display()))
                });
                let content = read.await.map_err(|error| format!("token_file: {error}"))??;
                Ok(Token {
                    secret: token(&content.bytes).map_err(|wrong| format!("token_file {wrong}"))?,
                    kept: false,
                })
            }
            Source::Command { line, lifetime } => {
                let mut kept = self.kept.lock().await;
                if let Some((secret, since)) = &*kept
                    && since.elapsed() < *lifetime
                {
                    return Ok(Token {
                        secret: secret.clone(),
                        kept: true,
                    });
                }
                let secret = run(line).await?;
                *kept = Some((secret.clone(), Instant::now()));
                Ok(Token { secret, kept: false })
            }
        }
    }

    /// Discards a token that the server rejected, unless it was replaced already.
    pub(super) async fn forget(&self, refused: &Secret) {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|(secret, _)| secret == refused) {
            *kept = None;
        }
    }
}

/// Runs the command. It is killed if the future is dropped at the deadline, or if it prints more than a token.
async fn run(line: &[String]) -> Result<Secret, String> {
    let (program, arguments) = line.split_first().ok_or("token_command is empty")?;
    let failed = |error: io::Error| format!("token_command {program}: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut printed = Vec::new();
    if let Some(output) = child.stdout.take() {
        let mut start = output.take(PRINTED_MAX);
        start.read_to_end(&mut printed).await.map_err(failed)?;
    }
    let token = token(&printed).map_err(|wrong| format!("token_command {program} {wrong}"));
    if printed.len() as u64 == PRINTED_MAX {
        return token;
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        return Err(format!(
            "token_command {program}: {status}; run it by hand to see why"
        ));
    }
    token
}

/// The token in what was read: one line of printable ASCII.
fn token(bytes: &[u8]) -> Result<Secret, &'static str> {
    let bytes = bytes.trim_ascii();
    match std::str::from_utf8(bytes) {
        Ok("") => Err("gave no token"),
        Ok(text) if text.len() <= TOKEN_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Secret::new(text))
        }
        _ => Err("printed something other than a token (one line of printable ASCII)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(script: &str, lifetime: Duration) -> Tokens {
        Tokens::new(Source::Command {
            line: vec!["sh".into(), "-c".into(), script.into()],
            lifetime,
        })
    }

    #[tokio::test]
    async fn a_file_that_is_not_regular_is_rejected_without_waiting() {
        let tokens = Tokens::new(Source::File("/dev/zero".into()));
        let error = tokens.get().await.unwrap_err();
        assert_eq!(error, "token_file /dev/zero is a device, not a regular file");
    }

    #[tokio::test]
    async fn the_token_of_a_command_is_cached_until_it_is_rejected_or_old() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("echo x >> {0}/runs; wc -l < {0}/runs", folder.path().display());
        let tokens = command(&script, Duration::from_secs(60));
        assert_eq!(
            tokens.get().await.unwrap(),
            Token {
                secret: Secret::new("1"),
                kept: false
            }
        );
        assert_eq!(
            tokens.get().await.unwrap(),
            Token {
                secret: Secret::new("1"),
                kept: true
            }
        );
        tokens.forget(&Secret::new("0")).await;
        assert!(tokens.get().await.unwrap().kept);
        tokens.forget(&Secret::new("1")).await;
        assert_eq!(
            tokens.get().await.unwrap(),
            Token {
                secret: Secret::new("2"),
                kept: false
            }
        );
        let short_lived = command(&script, Duration::ZERO);
        assert_eq!(short_lived.get().await.unwrap().secret, Secret::new("3"));
        assert_eq!(short_lived.get().await.unwrap().secret, Secret::new("4"));
    }

    #[tokio::test]
    async fn a_file_is_read_again_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = Tokens::new(Source::File(path.clone()));
        assert!(tokens.get().await.unwrap_err().contains("token_file"));
        for text in ["one", "two"] {
            std::fs::write(&path, format!("{text}\n")).unwrap();
            assert_eq!(tokens.get().await.unwrap().secret, Secret::new(text));
        }
    }

    #[tokio::test]
    async fn a_failing_command_is_named_and_its_output_is_not() {
        for (script, expected) in [
            (
                "echo hush; exit 3",
                "token_command sh: exit status: 3; run it by hand to see why",
            ),
            ("true", "token_command sh gave no token"),
            (
                "printf 'hush\\nhush'",
                "token_command sh printed something other than a token (one line of printable ASCII)",
            ),
        ] {
            assert_eq!(command(script, Duration::ZERO).get().await.unwrap_err(), expected);
        }
    }

    #[tokio::test]
    async fn a_command_that_prints_without_end_is_stopped_and_not_read() {
        let endless = command("yes | head -c 1000000; sleep 60", Duration::ZERO);
        let read = tokio::time::timeout(Duration::from_secs(10), endless.get()).await;
        assert_eq!(
            read.unwrap().unwrap_err(),
            "token_command sh printed something other than a token (one line of printable ASCII)"
        );
    }
}
