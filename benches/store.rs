//! Measures the speed and size of the store: `cargo bench --bench store -- WHAT [COUNT] [PATH]`.
//!
//! | WHAT | |
//! |---|---|
//! | `raw` | appends and syncs the same bytes in the same groups without a store: the limit of the disk |
//! | `accept` | 64 callers, each message with one delivery |
//! | `churn` | accepts, claims and settles at the same time |
//! | `fill` | accepts COUNT messages, which stay pending |
//! | `open` | opens the store of `fill`; reports the time and the memory |
//! | `search` | first pages of the usual searches in the store of `fill` |
//!
//! Without arguments, `raw` and `accept` run briefly. On a machine with other load, compare the figures with `raw` of
//! the same minute.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use smsbridge::model::delivery::{Attempt, Delivery, DeliveryId, Verdict};
use smsbridge::model::message::{Message, MessageId, Name, Timestamp};
use smsbridge::model::number::{Number, Pattern};
use smsbridge::store::sled::{Options, Sled};
use smsbridge::store::{Arrival, Error, MessageState, Query, Settlement, Store};

const CALLERS: u64 = 64;
const START: i64 = 1_790_000_000_000;

fn main() -> Result<()> {
    // Cargo passes `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let count = |fallback| {
        arguments
            .get(1)
            .map_or(Ok(fallback), |count| count.parse())
            .context("COUNT")
    };
    let temporary = tempfile::tempdir_in(".")?;
    let path = arguments
        .get(2)
        .map_or_else(|| temporary.path().join("store"), PathBuf::from);
    match arguments.first().map(String::as_str) {
        None => {
            raw(200, temporary.path())?;
            run(accept(20_000, &path))
        }
        Some("raw") => raw(count(2_000)?, temporary.path()),
        Some("accept") => run(accept(count(200_000)?, &path)),
        Some("churn") => run(churn(count(200_000)?, &path)),
        Some("fill") => run(fill(count(1_000_000)?, &path)),
        Some("open") => open(&path),
        Some("search") => run(search(&path)),
        Some(what) => bail!("nothing called {what} is measured"),
    }
}

fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Groups of 64 messages of 400 bytes, each appended and synced.
fn raw(groups: u64, folder: &Path) -> Result<()> {
    let mut file = std::fs::File::create(folder.join("log"))?;
    let bytes = vec![7; CALLERS as usize * 400];
    let began = Instant::now();
    for _ in 0..groups {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    report("raw append and fdatasync, groups of 64", groups * CALLERS, began);
    Ok(())
}

async fn accept(count: u64, path: &Path) -> Result<()> {
    let store = opened(path)?;
    let began = Instant::now();
    accept_all(&store, count, CALLERS).await?;
    report("accepts, 64 callers", count, began);
    println!("  {} commits", store.health().commits);
    Ok(())
}

async fn fill(count: u64, path: &Path) -> Result<()> {
    let store = opened(path)?;
    let began = Instant::now();
    accept_all(&store, count, 512).await?;
    report("accepts, 512 callers", count, began);
    store.close().await?;
    Ok(())
}

async fn accept_all(store: &Arc<Sled>, count: u64, callers: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(store.counts().await?.accepted));
    let end = next.load(Ordering::Relaxed) + count;
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (store, next) = (Arc::clone(store), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= end {
                        return Ok::<_, anyhow::Error>(());
                    }
                    while let Err(error) = store.accept(arrival(n)?).await {
                        if error != Error::Busy {
                            return Err(error.into());
                        }
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn churn(count: u64, path: &Path) -> Result<()> {
    let store = opened(path)?;
    let destination: Name = "desk".parse()?;
    let done = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let lane = {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        tokio::spawn(async move {
            let mut settled = 0;
            loop {
                let last = done.load(Ordering::Acquire);
                let claims = store.claim(&destination, Timestamp(i64::MAX), 64).await?;
                if claims.is_empty() && last {
                    return Ok::<u64, anyhow::Error>(settled);
                }
                if claims.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                settled += claims.len() as u64;
                futures_util::future::try_join_all(claims.into_iter().map(async |claim| {
                    let attempt = Attempt::new(
                        Timestamp(START),
                        Duration::from_millis(3),
                        Verdict::Delivered,
                        "ok",
                    );
                    let settlement = Settlement {
                        token: claim.token,
                        delivery: claim.delivery.delivered(attempt),
                        follow_ups: Vec::new(),
                        thread: None,
                    };
                    store.settle(&settlement).await
                }))
                .await?;
            }
        })
    };
    accept_all(&store, count, CALLERS).await?;
    let accepted = began.elapsed();
    done.store(true, Ordering::Release);
    let settled = lane.await??;
    report("accepted, claimed and settled", settled, began);
    println!(
        "  the last was accepted after {accepted:.1?}; {} commits",
        store.health().commits
    );
    Ok(())
}

fn open(path: &Path) -> Result<()> {
    let began = Instant::now();
    let store = opened(path)?;
    println!(
        "open {:.2?}, memory {} MiB, at most {} MiB",
        began.elapsed(),
        memory("VmRSS")?,
        memory("VmHWM")?
    );
    let health = store.health();
    println!(
        "  {} MiB on disk, findings {:?}",
        health.bytes >> 20,
        health.findings
    );
    Ok(())
}

async fn search(path: &Path) -> Result<()> {
    let store = opened(path)?;
    println!("opened: memory {} MiB", memory("VmRSS")?);
    let from = |pattern: &str| {
        let from = Some(Pattern::parse(pattern)?);
        Ok::<_, anyhow::Error>(Query {
            from,
            ..Query::default()
        })
    };
    let searches = [
        ("all", Query::default()),
        ("exact sender", from("+13030000007")?),
        ("no such sender", from("+13039999999")?),
        ("prefix of senders", from("+1303000000*")?),
        (
            "to an unknown number",
            Query {
                to: Some(Pattern::parse("+1999*")?),
                ..Query::default()
            },
        ),
        (
            "source",
            Query {
                source: Some("carrier".parse()?),
                ..Query::default()
            },
        ),
        (
            "other source",
            Query {
                source: Some("other".parse()?),
                ..Query::default()
            },
        ),
        (
            "pending",
            Query {
                state: Some(MessageState::Pending),
                ..Query::default()
            },
        ),
        (
            "dead",
            Query {
                state: Some(MessageState::Dead),
                ..Query::default()
            },
        ),
        (
            "unrouted",
            Query {
                state: Some(MessageState::Unrouted),
                ..Query::default()
            },
        ),
        (
            "old",
            Query {
                until: Some(Timestamp(START + 100_000)),
                ..Query::default()
            },
        ),
        (
            "body of one",
            Query {
                text: Some("number 77 ".into()),
                ..Query::default()
            },
        ),
        (
            "body of none",
            Query {
                text: Some("no such words".into()),
                ..Query::default()
            },
        ),
    ];
    for (what, query) in searches {
        let query = Query { limit: 50, ..query };
        let began = Instant::now();
        let page = store.messages(&query).await?;
        let first = began.elapsed();
        let (mut calls, mut found, mut next) = (1, page.items.len(), page.next);
        while found < 50
            && let Some(cursor) = next
        {
            let page = store
                .messages(&Query {
                    cursor: Some(cursor),
                    ..query.clone()
                })
                .await?;
            (calls, found, next) = (calls + 1, found + page.items.len(), page.next);
        }
        println!(
            "{what:20} first {first:8.1?} with {:2}; {found:2} in {calls} calls, {:.1?}, memory {} MiB",
            page.items.len(),
            began.elapsed(),
            memory("VmRSS")?
        );
    }
    println!("memory at most {} MiB", memory("VmHWM")?);
    Ok(())
}

fn opened(path: &Path) -> Result<Arc<Sled>> {
    Ok(Arc::new(Sled::open(&Options::new(path, 64 << 20))?))
}

fn arrival(n: u64) -> Result<Arrival> {
    let now = Timestamp(START + n.cast_signed());
    let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = MessageId(uuid::Uuid::from_u64_pair(
        (now.0.cast_unsigned() << 16) | 0x7000 | (n & 0xFFF),
        random | 1 << 63,
    ));
    let all: Name = "all".parse()?;
    let destination: Name = "desk".parse()?;
    let delivery = Delivery::new(
        DeliveryId {
            message: id,
            ordinal: 1,
        },
        destination,
        Some(all.clone()),
        now,
    );
    Ok(Arrival {
        message: Message {
            id,
            source: "carrier".parse()?,
            provider_id: format!("{random:016x}{n:016x}"),
            from: Number::parse(&format!("+1303{:07}", n % 10_000))?,
            to: Number::parse("+13038670000")?,
            text: format!(
                "This is number {n} of many messages, about as long as usual: your table for two is booked, see you at eight. Reply STOP to end."
            ),
            media: Vec::new(),
            extra: std::collections::BTreeMap::new(),
            received_at: now,
            routes: vec![all],
            redacted_at: None,
        },
        deliveries: vec![delivery],
        dedup_since: Timestamp(START - 86_400_000),
    })
}

fn report(what: &str, count: u64, began: Instant) {
    let took = began.elapsed();
    println!(
        "{what}: {count} in {took:.2?}, {:.0}/s",
        count as f64 / took.as_secs_f64()
    );
}

/// A line of `/proc/self/status`, in MiB.
fn memory(line: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|status| status.starts_with(line))
        .context("no such line")?;
    let kilobytes = line.split_whitespace().nth(1).context("no number")?;
    Ok(kilobytes.parse::<u64>()? >> 10)
}
