//! Limits of certificate fetches. The requests that cause them are not verified yet, so a stranger must neither make the
//! bridge call AWS often nor prevent the fetch for a genuine request.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Fetches for all clients together.
const TOTAL: Rate = Rate {
    interval: Duration::from_millis(100),
    burst: 20,
};

/// Fetches for one client. A genuine client needs one for each certificate.
const PER_CLIENT: Rate = Rate {
    interval: Duration::from_secs(10),
    burst: 8,
};

/// Upper bound of the clients that are tracked. By the time that many have fetched, `TOTAL` is the limit.
const CLIENTS_MAX: usize = 1024;

/// Upper bound of the paths that are remembered as failed.
const FAILED_MAX: usize = 64;

/// A token bucket: `burst` at once, then one per `interval`.
#[derive(Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// Returns true if a bucket that is full again at `full_at` has a token.
    fn permits(self, full_at: Instant, now: Instant) -> bool {
        full_at.saturating_duration_since(now) <= self.interval * (self.burst - 1)
    }
}

/// The fetches of one source.
#[derive(Default)]
pub(super) struct FetchLimits {
    /// The time of the next attempt, by the path that failed.
    failed: BTreeMap<String, Instant>,
    /// When the bucket of each client is full again; full ones are left out.
    clients: BTreeMap<IpAddr, Instant>,
    /// When the bucket of all clients is full again.
    total: Option<Instant>,
}

impl FetchLimits {
    /// Takes a token for a fetch.
    ///
    /// # Errors
    /// Why the fetch must wait.
    pub(super) fn permit(&mut self, path: &str, client: IpAddr, now: Instant) -> Result<(), &'static str> {
        if self.failed.get(path).is_some_and(|&at| now < at) {
            return Err("the certificate of SNS could not be fetched a moment ago");
        }
        let client = network(client);
        self.clients.retain(|_, full_at| *full_at > now);
        let of_client = self.clients.get(&client).copied().unwrap_or(now);
        let of_all = self.total.unwrap_or(now).max(now);
        if !PER_CLIENT.permits(of_client, now) || !TOTAL.permits(of_all, now) {
            return Err("too many certificates of SNS were requested");
        }
        self.total = Some(of_all + TOTAL.interval);
        if self.clients.len() < CLIENTS_MAX || self.clients.contains_key(&client) {
            self.clients.insert(client, of_client + PER_CLIENT.interval);
        }
        Ok(())
    }

    /// Prevents the next attempt with this path until the pause is over.
    pub(super) fn failed(&mut self, path: &str, pause: Duration, now: Instant) {
        self.failed.retain(|_, at| *at > now);
        if self.failed.len() >= FAILED_MAX {
            let first = self.failed.iter().min_by_key(|(_, at)| **at);
            if let Some(first) = first.map(|(path, _)| path.clone()) {
                self.failed.remove(&first);
            }
        }
        self.failed.insert(path.to_owned(), now + pause);
    }
}

/// The network that counts as one client: everyone with IPv6 has at least a /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/SimpleNotificationService-0.pem";

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_client_with_a_hundred_names_a_second_prevents_no_fetch_for_another() {
        let (mut limits, start) = (FetchLimits::default(), Instant::now());
        let (mut fetched, mut genuine) = (0, 0);
        for request in 0..6000_u32 {
            let now = start + Duration::from_millis(10) * request;
            let path = format!("/SimpleNotificationService-{request:x}.pem");
            if limits.permit(&path, client(1), now).is_ok() {
                fetched += 1;
                limits.failed(&path, Duration::from_secs(15), now);
            }
            if request % 2000 == 1999 {
                genuine += usize::from(limits.permit(PATH, client(2), now).is_ok());
            }
        }
        assert_eq!(genuine, 3);
        assert_eq!(fetched, 13, "a burst of eight, and one per 10 s");
    }

    #[test]
    fn many_clients_together_are_limited_and_so_is_the_memory_for_them() {
        let (mut limits, start) = (FetchLimits::default(), Instant::now());
        let mut fetched = 0;
        for request in 0..20_000_u32 {
            let now = start + Duration::from_micros(500) * request;
            let client = IpAddr::from((0xc000_0000 + request).to_be_bytes());
            fetched += u32::from(limits.permit(PATH, client, now).is_ok());
        }
        assert!((100..=120).contains(&fetched), "{fetched}");
        assert!(limits.clients.len() <= CLIENTS_MAX);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let (mut limits, now) = (FetchLimits::default(), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for last in 1..=8 {
            let client = address(&format!("2001:db8::{last}"));
            assert_eq!(limits.permit(PATH, client, now), Ok(()));
        }
        assert!(limits.permit(PATH, address("2001:db8::9"), now).is_err());
        assert_eq!(limits.permit(PATH, address("2001:db8:0:1::9"), now), Ok(()));
    }

    #[test]
    fn a_failed_path_is_fetched_again_after_its_pause_only() {
        let (mut limits, now) = (FetchLimits::default(), Instant::now());
        let pause = Duration::from_secs(15);
        limits.failed(PATH, pause, now);
        assert!(limits.permit(PATH, client(1), now).is_err());
        assert_eq!(limits.permit("/other.pem", client(1), now), Ok(()));
        assert_eq!(limits.permit(PATH, client(1), now + pause), Ok(()));
        for other in 0..1000 {
            limits.failed(&format!("/{other}"), pause, now);
        }
        assert_eq!(limits.failed.len(), FAILED_MAX);
    }
}
