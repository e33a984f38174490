//! A carrier that records what was acknowledged, a receiver that records what it got, and an audit of the bridge's
//! own figures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::bridge::refid;
use crate::bridge::{Bridge, try_http};
use crate::servers::recorder::{Received, Recorder, Reply};

/// The bridge's ids by provider id.
pub type Acknowledged = BTreeMap<String, String>;

/// Posts as fast as possible over several connections, records what was acknowledged, and resends what was not.
pub struct Carrier {
    address: Arc<Mutex<String>>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Carrier {
    /// `offset` keeps the ids of one carrier apart from those of another.
    pub fn start(bridge: &Bridge, connections: usize, offset: usize) -> Self {
        let address = Arc::new(Mutex::new(bridge.url("/inbound/intelepeer")));
        let acknowledged: Arc<Mutex<Acknowledged>> = Arc::default();
        let (stop, next) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(offset)),
        );
        let threads = (0..connections)
            .map(|connection| {
                let (address, acknowledged) = (address.clone(), acknowledged.clone());
                let (stop, next) = (stop.clone(), next.clone());
                let from = format!("+130355501{connection:02}");
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let refid = refid(next.fetch_add(1, Ordering::Relaxed));
                        let id = until_acknowledged(&address, &refid, &from, &stop);
                        acknowledged.lock().unwrap().extend(id.map(|id| (refid, id)));
                    }
                })
            })
            .collect();
        Self {
            address,
            acknowledged,
            stop,
            threads,
        }
    }

    /// The bridge was restarted on another port.
    pub fn follow(&self, bridge: &Bridge) {
        *self.address.lock().unwrap() = bridge.url("/inbound/intelepeer");
    }

    /// The messages acknowledged so far.
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().unwrap().clone()
    }

    pub fn end(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::try_unwrap(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

/// The bridge's id, once it answered 200. A refused or broken connection is tried again, as a carrier would.
fn until_acknowledged(address: &Mutex<String>, refid: &str, from: &str, stop: &AtomicBool) -> Option<String> {
    let body = Bridge::body(refid, from, &format!("text {refid}")).to_string();
    loop {
        let url = address.lock().unwrap().clone();
        let answer = try_http("POST", &url, &[("content-type", "application/json")], &body);
        if let Some((200, _, body)) = answer {
            let body: Value = serde_json::from_str(&body).unwrap();
            return Some(body["id"].as_str().unwrap().to_owned());
        }
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A webhook receiver that records the `webhook-id` of everything it accepted (answered 2xx), in order.
pub struct Receiver {
    pub recorder: Recorder,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub async fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let taken: Arc<Mutex<Vec<String>>> = Arc::default();
        let keep = taken.clone();
        let recorder = Recorder::start(move |received| {
            let reply = match received.method {
                Method::POST => answer(received),
                _ => Reply::new(405, ""),
            };
            if reply.status < 300 {
                keep.lock()
                    .unwrap()
                    .push(received.header("webhook-id").to_owned());
            }
            reply
        })
        .await;
        Self { recorder, taken }
    }

    pub async fn good() -> Self {
        Self::start(|_| Reply::new(200, "ok")).await
    }

    /// `[destination.NAME]`
    pub fn config(&self, name: &str, more: &str) -> String {
        crate::servers::recorder::webhook(name, &self.recorder, more)
    }

    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

/// An unreachable destination, so that everything stays pending.
pub fn nowhere(name: &str) -> String {
    format!("[destination.{name}]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/sms\"\n")
}

/// `[routing]` to these.
pub fn unmatched(names: &[&str]) -> String {
    format!("[routing]\nunmatched = {names:?}\n")
}

/// All messages that the bridge has, by provider id.
pub fn stored(bridge: &Bridge) -> BTreeMap<String, Value> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let path = format!("/messages?limit=500{cursor}");
        let (status, mut page) = bridge.admin("GET", &path, "").expect("the admin API answers");
        assert_eq!(status, 200, "{page}");
        for message in page["items"].as_array_mut().unwrap() {
            let refid = message["provider_id"].as_str().unwrap().to_owned();
            let twice = all.insert(refid, message.take());
            assert!(twice.is_none(), "a message is stored twice: {twice:?}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Asserts that message, deliveries, deduplication entry, schedule and counters agree, and that everything
/// acknowledged is there. Each message has deliveries for exactly `destinations`.
pub fn audit(bridge: &Bridge, acknowledged: &Acknowledged, destinations: &[&str]) {
    assert_no_findings(bridge);
    let stored = stored(bridge);
    let lost: Vec<&String> = acknowledged
        .keys()
        .filter(|refid| !stored.contains_key(*refid))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged messages were lost: {:?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(5)]
    );
    let mut expected: Vec<&str> = destinations.to_vec();
    expected.sort_unstable();
    for (refid, message) in &stored {
        let mut to: Vec<&str> = deliveries(message)
            .map(|delivery| delivery["destination"].as_str().unwrap())
            .collect();
        to.sort_unstable();
        assert_eq!(to, expected, "{refid} is there in part: {message}");
        if let Some(id) = acknowledged.get(refid) {
            assert_eq!(
                message["id"],
                id.as_str(),
                "{refid} has another id than was acknowledged"
            );
        }
    }
    let accepted = bridge.status()["messages"]["accepted"].as_u64().unwrap();
    assert!(accepted >= stored.len() as u64, "{accepted} of {}", stored.len());
    let newest = acknowledged.iter().next_back().into_iter();
    for (refid, id) in newest.chain(acknowledged.iter().next()) {
        let (status, body) = bridge.post_message(refid, "+13035550100", "again");
        assert_eq!(
            (status, body["status"].as_str()),
            (200, Some("duplicate")),
            "{refid}"
        );
        assert_eq!(body["id"], id.as_str(), "{refid}");
    }
}

/// Asserts that the audit at start found nothing to repair.
pub fn assert_no_findings(bridge: &Bridge) {
    let findings = bridge.status()["store"]["findings"].clone();
    assert_eq!(
        findings,
        Value::Array(Vec::new()),
        "the start had to repair the store"
    );
}

pub fn deliveries(message: &Value) -> impl Iterator<Item = &Value> {
    message["deliveries"].as_array().unwrap().iter()
}

/// Waits until nothing is pending any more; `limit` is the longest time in which the number does
/// not decrease.
pub fn drained(bridge: &Bridge, limit: Duration) {
    let pending = || bridge.status()["messages"]["pending"].as_u64().unwrap();
    let (mut least, mut last) = (u64::MAX, std::time::Instant::now());
    loop {
        let pending = pending();
        // The sum may include a commit a moment before the list does.
        let listed = || bridge.admin("GET", "/deliveries?state=pending", "");
        if pending == 0 && listed().is_some_and(|(_, page)| page["items"] == serde_json::json!([])) {
            return;
        }
        if pending < least {
            (least, last) = (pending, std::time::Instant::now());
        }
        assert!(last.elapsed() < limit, "{pending} messages are held back");
        std::thread::sleep(Duration::from_millis(20));
    }
}
