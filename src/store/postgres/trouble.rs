//! Errors of the database: which of them a repetition may overcome, and what they mean for the caller of the store.

use tokio_postgres::error::SqlState;

use super::pool::Pool;
use super::session::described;
use crate::store::Error;

/// Why a request to the database failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The database, or the connection to it.
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Trouble {
    /// Another transaction was in the way. Nothing was changed, and the transaction can be repeated at once.
    pub(super) fn is_conflict(&self) -> bool {
        let codes = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ];
        let code = match self {
            Self::Database(error) => error.code(),
            Self::Store(_) => None,
        };
        code.is_some_and(|code| codes.contains(code))
    }

    /// The database rejects these values, and would do so again: a data exception, a violated constraint, or a limit.
    pub(super) fn is_rejection(&self) -> bool {
        match self {
            Self::Database(error) => error.code().is_some_and(|code| {
                let classes = ["22", "23", "54"];
                classes.iter().any(|class| code.code().starts_with(class))
            }),
            Self::Store(_) => false,
        }
    }

    /// What the server says, if it refuses a request that it does not know or allow.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Database(error) => {
                let code = error.code()?.code();
                let is_passing = is_passing(error) || code.starts_with("25");
                (!is_passing).then(|| described(error))
            }
            Self::Store(_) => None,
        }
    }

    /// What the server says, if its disk is full.
    pub(super) fn full(&self) -> Option<String> {
        match self {
            Self::Database(error) if error.code() == Some(&SqlState::DISK_FULL) => Some(described(error)),
            _ => None,
        }
    }

    /// Closes the connections of a pool whose server accepts no writes any more: another one has taken its place.
    pub(super) fn tell(&self, pool: &Pool) {
        if let Self::Database(error) = self
            && error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
        {
            pool.renew();
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error,
            Trouble::Database(error) if error.code() == Some(&SqlState::DISK_FULL) => {
                Self::Full(format!("the database server: {}", described(&error)))
            }
            Trouble::Database(error) if is_passing(&error) => Self::Unavailable(described(&error)),
            Trouble::Database(error) => Self::Failed(described(&error)),
        }
    }
}

/// Returns true if the same request may succeed later, without a change of the program or its data.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // No answer of the server: the connection is lost.
        return true;
    };
    // Connection exceptions, rollbacks because of others, a lack of resources, locks that are not free, an operator's
    // intervention (also a timeout), and failures of the server itself. A transaction fails as a whole with its first
    // error (25P02), or because it was read only (25006) or idle for too long (25P03).
    let classes = ["08", "40", "53", "55", "57", "58", "XX"];
    let codes = ["25P02", "25006", "25P03"];
    classes.iter().any(|class| code.code().starts_with(class)) || codes.contains(&code.code())
}
