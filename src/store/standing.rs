//! How each destination stood, for the next run: a restart must not make one that is parked look as if it worked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mask::Reason;
use crate::message::{Name, Timestamp};

/// How the destinations stood when the daemon last wrote it down.
pub type Standings = BTreeMap<Name, Standing>;

/// How one destination stood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether an attempt has ended since it was configured as it is.
    pub is_tested: bool,
    /// When it last took a message.
    pub delivered_at: Option<Timestamp>,
    /// Why deliveries to it were held back, if they were.
    pub fault: Option<Fault>,
}

/// Why deliveries to a destination are held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind of failure.
    pub cause: Cause,
    /// What happened, and what the other side said of it.
    #[serde(with = "whole")]
    pub reason: Reason,
    /// Since when deliveries have failed.
    pub since: Timestamp,
    /// How much longer the destination asked to be left alone.
    pub pause: Duration,
}

/// The kinds of failure that concern a whole destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The destination asked for a pause (429, `Retry-After`).
    Limited,
    /// The destination is unreachable or reports a server error.
    Down,
    /// The destination is misconfigured, and the operator must act.
    Parked,
}

/// A reason with both of its forms: what the other side said must not get into the log of the next run either.
mod whole {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::mask::Reason;

    pub(super) fn serialize<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
        (reason.logged(), reason.shown()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Reason, D::Error> {
        let (logged, shown) = <(String, String)>::deserialize(deserializer)?;
        Ok(Reason::recalled(logged, shown))
    }
}

impl Standing {
    /// Returns true if nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
