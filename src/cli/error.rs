//! The errors of commands, each with its exit status.

use super::{Exit, complain};

/// Why a command failed.
#[derive(Debug)]
pub(super) struct CommandError {
    exit: Exit,
    /// `None` if it was printed already.
    words: Option<String>,
}

impl CommandError {
    /// The command failed at run time.
    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self::new(Exit::Failed, words)
    }

    /// The arguments or the configuration are wrong.
    pub(super) fn wrong(words: impl Into<String>) -> Self {
        Self::new(Exit::Wrong, words)
    }

    /// The daemon refused the request, or is not running.
    pub(super) fn refused(words: impl Into<String>) -> Self {
        Self::new(Exit::Refused, words)
    }

    fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self {
            exit,
            words: Some(words.into()),
        }
    }

    /// Prints the error on standard error, and returns the exit status.
    pub(super) fn print(&self) -> Exit {
        if let Some(words) = &self.words {
            complain(words);
        }
        self.exit
    }
}

/// The error was printed already.
impl From<Exit> for CommandError {
    fn from(exit: Exit) -> Self {
        Self { exit, words: None }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}
