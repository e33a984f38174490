//! The labels of the metrics, and the values of those with a fixed set.

use prometheus_client::encoding::EncodeLabelSet;

/// `{source="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BySource {
    /// The source's name.
    pub source: String,
}

/// `{source="…",reason="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rejected {
    /// The source's name; empty if the path belongs to no source.
    pub source: String,
    /// One of [`REASONS`] or [`REASONS_WITHOUT_SOURCE`].
    pub reason: &'static str,
}

/// `{source="…",event="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByEvent {
    /// The source's name.
    pub source: String,
    /// One of [`EVENTS`].
    pub event: &'static str,
}

/// Webhook events that are not received messages: delivery statuses of sent messages, and all others.
pub const EVENTS: [&str; 2] = ["status", "other"];

/// `{destination="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByDestination {
    /// The destination's name.
    pub destination: String,
}

/// `{destination="…",outcome="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The destination's name.
    pub destination: String,
    /// One of [`OUTCOMES`].
    pub outcome: &'static str,
}

/// `{destination="…",state="…"}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByState {
    /// The destination's name.
    pub destination: String,
    /// Its state.
    pub state: &'static str,
}

/// The results of attempts.
pub const OUTCOMES: [&str; 3] = ["delivered", "retried", "dead"];

/// Why a request to a source is rejected.
pub const REASONS: [&str; 15] = [
    "method",
    "body",
    "media_type",
    "malformed",
    "unauthorized",
    "forbidden",
    "public_url",
    "clock",
    "unsigned",
    "carrier",
    "busy",
    "full",
    "slow",
    "unavailable",
    "failed",
];

/// Why a request that belongs to no source is rejected.
pub const REASONS_WITHOUT_SOURCE: [&str; 2] = ["path", "tls"];
