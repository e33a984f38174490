//! The state of a destination, as metrics, events, API and commands name it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationState {
    /// Messages are delivered.
    Up,
    /// Nothing was sent since the start, or since its configuration changed.
    Untested,
    /// It asked for a pause.
    Limited,
    /// It cannot be reached, or fails for every message.
    Down,
    /// It fails until its configuration or account is fixed.
    Parked,
    /// An operator paused it.
    Paused,
    /// It is no longer configured.
    Removed,
}

impl DestinationState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Up,
        Self::Untested,
        Self::Limited,
        Self::Down,
        Self::Parked,
        Self::Paused,
        Self::Removed,
    ];

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Untested => "untested",
            Self::Limited => "limited",
            Self::Down => "down",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for DestinationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
