//! Several messages in one post.

use std::time::Duration;

use deserr::Deserr;

use crate::model::setting::Errors;
use crate::model::units::{Bounded, Period};

/// Which messages may share a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// Any messages.
    Any,
    /// Those of one conversation, because each conversation has its own thread.
    Conversation,
}

/// `batch = { … }` of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Batching {
    /// Upper bound of the messages of one post.
    #[deserr(default = 20, from(Bounded<2, 100>) = usize::from)]
    pub max: usize,
    /// How long after a post further messages are gathered for the next one.
    #[deserr(default = Duration::from_secs(5), from(Period) = Duration::from)]
    pub wait: Duration,
}
