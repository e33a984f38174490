//! Why a command ends before it is done, and the exit status that tells.

use super::{Exit, complain};

/// What stands in a command's way.
#[derive(Debug)]
pub(super) struct Stop {
    exit: Exit,
    /// Nothing when it was said already.
    words: Option<String>,
}

impl Stop {
    /// It was tried and failed.
    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self::new(Exit::Failed, words)
    }

    /// What was typed, or configured, makes no sense.
    pub(super) fn wrong(words: impl Into<String>) -> Self {
        Self::new(Exit::Wrong, words)
    }

    /// The daemon refused it, or is not there.
    pub(super) fn refused(words: impl Into<String>) -> Self {
        Self::new(Exit::Refused, words)
    }

    fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self {
            exit,
            words: Some(words.into()),
        }
    }

    /// Says it on standard error, and gives the exit status.
    pub(super) fn say(&self) -> Exit {
        if let Some(words) = &self.words {
            complain(words);
        }
        self.exit
    }
}

/// Everything was said already.
impl From<Exit> for Stop {
    fn from(exit: Exit) -> Self {
        Self { exit, words: None }
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}
