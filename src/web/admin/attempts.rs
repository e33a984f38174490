//! Failed logins: delays the response to a wrong token, and limits their log lines.
//!
//! Failures are counted per address, so that an attacker delays only their own requests. Only responses to wrong
//! tokens are delayed; a correct token is accepted immediately.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The delay after the first wrong token of an address. It doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(250);

/// Upper bound of the delay.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);

/// Upper bound of the delayed responses to one address. While it is reached, tokens of this address are rejected
/// without a comparison.
const WAITING_MAX: usize = 8;

/// The time without a failure after which the failures of an address are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Upper bound of the remembered addresses.
const ADDRESSES_MAX: usize = 1024;

/// The number of failures per address that are logged one by one: the default threshold of fail2ban. After that, one
/// line per `LOG_EVERY`.
const LOGGED_FIRST: u32 = 5;
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Upper bound of the lines per `LOG_EVERY`, for all addresses.
const LINES_MAX: u32 = 50;

/// The failed logins of one listener.
#[derive(Clone, Default)]
pub(super) struct Attempts(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    addresses: BTreeMap<IpAddr, Failures>,
    /// Lines since `lines_since`.
    lines: u32,
    lines_since: Option<Instant>,
    /// Failures since the last line that were not logged.
    unlogged: u64,
}

struct Failures {
    count: u32,
    waiting: usize,
    last: Instant,
    logged_at: Option<Instant>,
}

/// How to respond to a wrong token.
pub(super) struct Failed {
    /// The delay of the response.
    pub(super) wait: Duration,
    /// The number of failures that were not logged since the last line, if this one is to be logged; otherwise
    /// `None`.
    pub(super) line: Option<u64>,
    attempts: Attempts,
    address: IpAddr,
}

impl Attempts {
    /// Returns true if a token from this address may be compared now.
    pub(super) fn may_try(&self, address: IpAddr) -> bool {
        let inner = self.lock();
        let failures = inner.addresses.get(&network(address));
        failures.is_none_or(|failures| failures.waiting < WAITING_MAX)
    }

    /// Records a wrong token from this address.
    pub(super) fn failed(&self, address: IpAddr) -> Failed {
        let (address, now) = (network(address), Instant::now());
        let mut inner = self.lock();
        inner.make_room(address, now);
        let failures = inner.addresses.entry(address).or_insert(Failures {
            count: 0,
            waiting: 0,
            last: now,
            logged_at: None,
        });
        failures.count = failures.count.saturating_add(1);
        failures.waiting += 1;
        failures.last = now;
        let wait = WAIT_FIRST
            .saturating_mul(1 << (failures.count - 1).min(8))
            .min(WAIT_MAX);
        let due = failures.count <= LOGGED_FIRST
            || failures.logged_at.is_none_or(|logged| now - logged >= LOG_EVERY);
        let line = inner.line(address, due, now);
        Failed {
            wait,
            line,
            attempts: self.clone(),
            address,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that a delayed response was sent.
impl Drop for Failed {
    fn drop(&mut self) {
        if let Some(failures) = self.attempts.lock().addresses.get_mut(&self.address) {
            failures.waiting = failures.waiting.saturating_sub(1);
        }
    }
}

impl Inner {
    /// Forgets old failures, and the address with the oldest failure if that is not enough.
    fn make_room(&mut self, address: IpAddr, now: Instant) {
        let is_recent = |failures: &Failures| failures.waiting > 0 || now - failures.last < FORGET_AFTER;
        if self
            .addresses
            .get(&address)
            .is_some_and(|failures| !is_recent(failures))
        {
            self.addresses.remove(&address);
        }
        if self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&address) {
            return;
        }
        self.addresses.retain(|_, failures| is_recent(failures));
        if self.addresses.len() >= ADDRESSES_MAX {
            let oldest = self.addresses.iter().min_by_key(|(_, failures)| failures.last);
            let oldest = oldest.map(|(address, _)| *address);
            oldest.and_then(|oldest| self.addresses.remove(&oldest));
        }
    }

    fn line(&mut self, address: IpAddr, due: bool, now: Instant) -> Option<u64> {
        if self.lines_since.is_none_or(|since| now - since >= LOG_EVERY) {
            (self.lines, self.lines_since) = (0, Some(now));
        }
        if !due || self.lines >= LINES_MAX {
            self.unlogged += 1;
            return None;
        }
        self.lines += 1;
        if let Some(failures) = self.addresses.get_mut(&address) {
            failures.logged_at = Some(now);
        }
        Some(std::mem::take(&mut self.unlogged))
    }
}

/// The unit of counting: an IPv4 address, or the IPv6 network of one customer.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn delays_double_up_to_the_maximum_and_are_forgotten() {
        let attempts = Attempts::default();
        let stranger = address("203.0.113.7");
        let waits: Vec<u128> = (0..8)
            .map(|_| attempts.failed(stranger).wait.as_millis())
            .collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 4000, 4000, 4000]);
        assert_eq!(attempts.failed(address("203.0.113.8")).wait, WAIT_FIRST);
        tokio::time::advance(FORGET_AFTER).await;
        assert_eq!(attempts.failed(stranger).wait, WAIT_FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_too_many_delayed_responses_is_rejected_without_comparison() {
        let attempts = Attempts::default();
        let waiting: Vec<Failed> = (0..WAITING_MAX)
            .map(|host| attempts.failed(address(&format!("2001:db8::{host}"))))
            .collect();
        assert!(!attempts.may_try(address("2001:db8::ffff")) && attempts.may_try(address("2001:db8:0:1::1")));
        drop(waiting);
        assert!(attempts.may_try(address("2001:db8::ffff")));
    }

    #[tokio::test(start_paused = true)]
    async fn log_lines_are_limited_and_count_the_omitted_ones() {
        let attempts = Attempts::default();
        let lines = |from: &str, count: usize| -> Vec<u64> {
            let failed = (0..count).map(|_| attempts.failed(address(from)));
            failed.filter_map(|failed| failed.line).collect()
        };
        assert_eq!(lines("203.0.113.7", 100), [0; 5]);
        tokio::time::advance(LOG_EVERY).await;
        assert_eq!(lines("203.0.113.7", 100), [95]);
        tokio::time::advance(LOG_EVERY).await;
        let many: usize = (0..250)
            .map(|host| lines(&format!("198.51.100.{host}"), 1).len())
            .sum();
        assert_eq!(many, LINES_MAX as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn the_remembered_addresses_are_limited() {
        let attempts = Attempts::default();
        for host in 0..5_000_u32 {
            attempts.failed(std::net::Ipv4Addr::from_bits(host).into());
        }
        assert_eq!(attempts.lock().addresses.len(), ADDRESSES_MAX);
    }
}
