//! Looks up host names on threads of its own, one lookup at a time for each name, so that a slow lookup
//! delays nothing else.
//!
//! It calls getaddrinfo(3), because only this function uses everything that the machine is configured for
//! (`/etc/hosts`, nsswitch with mDNS, sssd or systemd-resolved, search domains). But it blocks, for half a
//! minute if the name servers do not answer. On the runtime's pool, such lookups would occupy the threads
//! that store reads need.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Maximum number of names that are looked up at the same time. The unit's `TasksMax` leaves room for as many
/// threads.
const THREADS_MAX: usize = 128;

/// Stack size of a lookup thread; getaddrinfo and the nsswitch modules need a part of it.
const STACK: usize = 512 * 1024;

/// How long a caller waits. Less than the default `timeout`, so that the error names the lookup.
const WAIT_MAX: Duration = Duration::from_secs(8);

type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Looks up host names. Clones share the threads and the lookups in flight.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    lookup: Box<Lookup>,
    threads: Arc<Semaphore>,
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Answer>>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::of(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }
}

impl Resolver {
    fn of(lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            lookup: Box::new(lookup),
            threads: Arc::new(Semaphore::new(THREADS_MAX)),
            under_way: Mutex::default(),
        }))
    }

    /// The addresses of a host; for an address, itself. Callers that ask for the same name share one lookup.
    ///
    /// # Errors
    /// The host has no address, or no answer arrived in time. The lookup then continues, and the next caller
    /// waits for the same one.
    pub async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let answer = tokio::time::timeout(WAIT_MAX, self.answer(host)).await;
        let answer = answer.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the name lookup got no answer from the name servers",
            )
        })?;
        answer?
            .map(|addresses| addresses.to_vec())
            .map_err(|why| io::Error::other(&*why))
    }

    async fn answer(&self, host: &str) -> io::Result<Answer> {
        let under_way = self.0.under_way().get(host).cloned();
        let mut answer = match under_way {
            Some(answer) => answer,
            None => {
                let thread = self.0.threads.clone().acquire_owned().await;
                self.begin(host, thread.map_err(io::Error::other)?)?
            }
        };
        let answer = answer.wait_for(Option::is_some).await;
        let answer = answer.ok().and_then(|answer| answer.clone());
        answer.ok_or_else(|| io::Error::other("the name lookup panicked"))
    }

    /// Starts a lookup, unless another caller has done so meanwhile.
    fn begin(&self, host: &str, thread: OwnedSemaphorePermit) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut under_way = self.0.under_way();
        if let Some(answer) = under_way.get(host) {
            return Ok(answer.clone());
        }
        let (sender, answer) = watch::channel(None);
        let ending = Ending {
            shared: self.0.clone(),
            host: host.to_owned(),
            _thread: thread,
        };
        thread::Builder::new()
            .name("lookup".into())
            .stack_size(STACK)
            .spawn(move || {
                let found = (ending.shared.lookup)(&ending.host);
                let answer = found.map(Into::into).map_err(|error| error.to_string().into());
                drop(ending);
                sender.send_replace(Some(answer));
            })?;
        under_way.insert(host.to_owned(), answer.clone());
        Ok(answer)
    }
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Answer>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a lookup when dropped, also after a panic.
struct Ending {
    shared: Arc<Shared>,
    host: String,
    _thread: OwnedSemaphorePermit,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.under_way().remove(&self.host);
    }
}

/// For HTTP clients. The port of each address comes from the URL.
impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.addresses(name.as_str()).await?;
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A resolver whose lookups block until the sender is dropped, and the number of lookups started.
    fn held() -> (Resolver, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (sender, receiver) = mpsc::channel::<()>();
        let (receiver, begun) = (Mutex::new(receiver), Arc::new(AtomicUsize::new(0)));
        let count = begun.clone();
        let resolver = Resolver::of(move |host| {
            count.fetch_add(1, Ordering::Relaxed);
            if host != "quick" {
                let _ = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        });
        (resolver, sender, begun)
    }

    async fn within(resolver: &Resolver, host: &str, wait: u64) -> Option<io::Result<Vec<IpAddr>>> {
        tokio::time::timeout(Duration::from_millis(wait), resolver.addresses(host))
            .await
            .ok()
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_at_a_time_however_often_it_is_asked_for() {
        let (resolver, sender, begun) = held();
        for _ in 0..5 {
            assert!(within(&resolver, "slow", 10).await.is_none());
        }
        assert!(within(&resolver, "quick", 5000).await.unwrap().is_ok());
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        drop(sender);
        assert!(within(&resolver, "slow", 5000).await.unwrap().is_ok());
        assert!(within(&resolver, "slow", 5000).await.unwrap().is_ok());
        let begun = begun.load(Ordering::Relaxed);
        assert!((3..=4).contains(&begun), "an answer is not kept: {begun}");
        assert!(resolver.0.under_way().is_empty());
    }

    #[tokio::test]
    async fn threads_are_bounded() {
        let (resolver, sender, begun) = held();
        for number in 0..THREADS_MAX + 20 {
            assert!(within(&resolver, &format!("slow{number}"), 1).await.is_none());
        }
        assert!(begun.load(Ordering::Relaxed) <= THREADS_MAX);
        assert!(within(&resolver, "quick", 10).await.is_none());
        drop(sender);
        assert!(within(&resolver, "quick", 5000).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_hangs_fails_in_time_and_an_address_needs_no_lookup() {
        let (resolver, _sender, _) = held();
        let error = resolver.addresses("slow").await.unwrap_err();
        assert!(error.to_string().contains("name lookup"), "{error}");
        let address = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(resolver.addresses("192.0.2.1").await.unwrap(), [address]);
    }

    #[tokio::test]
    async fn a_lookup_that_panics_or_fails_is_an_error_and_is_removed() {
        let resolver = Resolver::of(|host| match host {
            "panic" => panic!("in a lookup"),
            _ => Err(io::Error::other("no such name")),
        });
        let error = resolver.addresses("panic").await.unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        let error = resolver.addresses("other").await.unwrap_err();
        assert_eq!(error.to_string(), "no such name");
        assert!(resolver.0.under_way().is_empty());
        assert_eq!(resolver.0.threads.available_permits(), THREADS_MAX);
    }
}
