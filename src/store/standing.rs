//! The states of the destinations, stored for the next run: after a restart, a parked destination must not look as if
//! it worked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mask::Reason;
use crate::model::message::{Name, Timestamp};

/// The last stored states of all destinations.
pub type Standings = BTreeMap<Name, Standing>;

/// The state of one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether an attempt has ended since its configuration last changed.
    pub is_tested: bool,
    /// When it last accepted a message.
    pub delivered_at: Option<Timestamp>,
    /// Why its deliveries are held back, if they are.
    pub fault: Option<Fault>,
}

/// Why the deliveries of a destination are held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredFault", into = "StoredFault")]
pub struct Fault {
    /// The kind of failure.
    pub cause: Cause,
    /// The reason, with the response of the destination.
    pub reason: Reason,
    /// The time of the first failure.
    pub since: Timestamp,
    /// The pause that the destination asked for, if it has not ended.
    pub pause: Option<Pause>,
}

/// A pause that a destination asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The remaining time when it was stored.
    pub left: Duration,
    /// The end according to the wall clock; `None` if it was stored by an earlier version.
    pub until: Option<Timestamp>,
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

impl Standing {
    /// Returns true if nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The stored form of a fault. The first format had three fields after the cause, which are still written if there is
/// no pause; of a pause it contained only the remaining time.
#[derive(Serialize, Deserialize)]
enum StoredFault {
    Limited(Bare),
    Down(Bare),
    Parked(Bare),
    Pausing {
        cause: Cause,
        #[serde(with = "whole")]
        reason: Reason,
        since: Timestamp,
        left: Duration,
        until: Timestamp,
    },
}

#[derive(Serialize, Deserialize)]
struct Bare {
    #[serde(with = "whole")]
    reason: Reason,
    since: Timestamp,
    pause: Duration,
}

impl From<Fault> for StoredFault {
    fn from(fault: Fault) -> Self {
        let Fault {
            cause,
            reason,
            since,
            pause,
        } = fault;
        let pause = pause.unwrap_or(Pause {
            left: Duration::ZERO,
            until: None,
        });
        if let Some(until) = pause.until {
            return Self::Pausing {
                cause,
                reason,
                since,
                left: pause.left,
                until,
            };
        }
        let bare = Bare {
            reason,
            since,
            pause: pause.left,
        };
        match cause {
            Cause::Limited => Self::Limited(bare),
            Cause::Down => Self::Down(bare),
            Cause::Parked => Self::Parked(bare),
        }
    }
}

impl From<StoredFault> for Fault {
    fn from(stored: StoredFault) -> Self {
        let (cause, bare) = match stored {
            StoredFault::Limited(bare) => (Cause::Limited, bare),
            StoredFault::Down(bare) => (Cause::Down, bare),
            StoredFault::Parked(bare) => (Cause::Parked, bare),
            StoredFault::Pausing {
                cause,
                reason,
                since,
                left,
                until,
            } => {
                let pause = Some(Pause {
                    left,
                    until: Some(until),
                });
                return Self {
                    cause,
                    reason,
                    since,
                    pause,
                };
            }
        };
        let left = bare.pause;
        Self {
            cause,
            reason: bare.reason,
            since: bare.since,
            pause: (!left.is_zero()).then_some(Pause { left, until: None }),
        }
    }
}

/// The two forms of a reason: the response of the destination must not be logged in the next run either.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A fault in the first format.
    #[derive(Serialize)]
    struct Former {
        cause: Cause,
        reason: (&'static str, &'static str),
        since: Timestamp,
        pause: Duration,
    }

    #[test]
    fn the_first_format_is_read_and_still_written_without_a_pause() {
        for (cause, seconds) in [
            (Cause::Limited, 0),
            (Cause::Limited, 30),
            (Cause::Down, 0),
            (Cause::Parked, 0),
        ] {
            let left = Duration::from_secs(seconds);
            let former = Former {
                cause,
                reason: ("HTTP 429", "HTTP 429: later"),
                since: Timestamp(7),
                pause: left,
            };
            let fault = Fault {
                cause,
                reason: Reason::recalled("HTTP 429".to_owned(), "HTTP 429: later".to_owned()),
                since: Timestamp(7),
                pause: (seconds > 0).then_some(Pause { left, until: None }),
            };
            let bytes = postcard::to_stdvec(&former).unwrap();
            assert_eq!(postcard::from_bytes::<Fault>(&bytes).unwrap(), fault);
            assert_eq!(postcard::to_stdvec(&fault).unwrap(), bytes);
        }
    }

    #[test]
    fn the_end_of_a_pause_survives_a_round_trip() {
        for cause in [Cause::Limited, Cause::Down, Cause::Parked] {
            let fault = Fault {
                cause,
                reason: "HTTP 429".into(),
                since: Timestamp(7),
                pause: Some(Pause {
                    left: Duration::from_secs(30),
                    until: Some(Timestamp(1_790_000_000_000)),
                }),
            };
            let bytes = postcard::to_stdvec(&vec![&fault, &fault]).unwrap();
            let read: Vec<Fault> = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(read, [fault.clone(), fault]);
        }
    }
}
