//! Fills a store directly, in its own process, because a million webhooks would take too long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use smsbridge::model::delivery::{Attempt, Delivery, DeliveryId, Verdict};
use smsbridge::model::message::{Message, MessageId, Name, Timestamp};
use smsbridge::model::number::Number;
use smsbridge::store::sled::{Options, Sled};
use smsbridge::store::{Arrival, Error, RetentionCutoffs, Settlement, Store};

use crate::{disk, process};

/// The role's name.
pub const ROLE: &str = "fill";

/// Concurrent callers: more than a carrier uses, for speed.
const CALLERS: u64 = 512;

const PURGE_STEPS_MAX: u64 = 1_000_000;

/// The messages to put into a store.
#[derive(Serialize, Deserialize)]
pub struct Fill {
    /// Where.
    pub store: PathBuf,
    /// The number of messages, each with a delivery to the paused destination `desk`.
    pub messages: u64,
    /// Whether they are then delivered and deleted.
    pub purge: bool,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filled {
    /// The duration of storing the messages.
    pub seconds: f64,
    /// The size of the store's files with all messages.
    pub mebibytes_full: f64,
    /// The size after they were deleted, while the store was still open.
    pub mebibytes_purged: f64,
    /// The duration of delivering and deleting.
    pub seconds_purge: f64,
}

impl Fill {
    /// Fills the store in another process.
    pub fn run(&self) -> Result<Filled> {
        process::work(ROLE, self)
    }
}

/// Plays the role.
pub fn play(fill: Fill) -> Result<()> {
    let filled = process::on_all_threads(work(fill))?;
    println!("{}", serde_json::to_string(&filled)?);
    Ok(())
}

async fn work(fill: Fill) -> Result<Filled> {
    let store = Arc::new(Sled::open(&Options::new(&fill.store, 64 << 20))?);
    let began = std::time::Instant::now();
    let desk: Name = "desk".parse()?;
    store.set_paused(&desk, true).await?;
    accept(&store, fill.messages).await?;
    let seconds = began.elapsed().as_secs_f64();
    let mebibytes_full = disk::mebibytes(&fill.store)?;
    let (mut mebibytes_purged, mut seconds_purge) = (mebibytes_full, 0.0);
    if fill.purge {
        let began = std::time::Instant::now();
        deliver(&store, &desk).await?;
        forget(&store).await?;
        seconds_purge = began.elapsed().as_secs_f64();
        mebibytes_purged = settled_size(&fill).await?;
    }
    store.close().await?;
    Ok(Filled {
        seconds,
        mebibytes_full,
        mebibytes_purged,
        seconds_purge,
    })
}

async fn accept(store: &Arc<Sled>, messages: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let start = now().0 - i64::try_from(messages)?;
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (store, next) = (Arc::clone(store), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= messages {
                        return Ok::<_, anyhow::Error>(());
                    }
                    let arrival = arrival(n, Timestamp(start + n.cast_signed()))?;
                    while let Err(error) = store.accept(arrival.clone()).await {
                        anyhow::ensure!(error == Error::Busy, "{error}");
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

async fn deliver(store: &Arc<Sled>, desk: &Name) -> Result<()> {
    loop {
        let claims = store.claim(desk, Timestamp(i64::MAX), 256).await?;
        if claims.is_empty() {
            return Ok(());
        }
        let settling = claims.into_iter().map(async |claim| {
            let attempt = Attempt::new(now(), Duration::from_millis(3), Verdict::Delivered, "HTTP 200 OK");
            let settlement = Settlement {
                token: claim.token,
                delivery: claim.delivery.delivered(attempt),
                follow_ups: Vec::new(),
                thread: None,
            };
            store.settle(&settlement).await
        });
        futures_util::future::try_join_all(settling).await?;
    }
}

async fn forget(store: &Arc<Sled>) -> Result<()> {
    let later = Timestamp(now().0 + 1000);
    let cutoffs = RetentionCutoffs {
        purge_before: Some(later),
        redact_before: None,
        dedup_before: later,
    };
    for _ in 0..PURGE_STEPS_MAX {
        if !store.prune(&cutoffs, later).await? {
            return Ok(());
        }
    }
    anyhow::bail!("the store does not come to an end with forgetting")
}

/// A store may release its space a little later.
async fn settled_size(fill: &Fill) -> Result<f64> {
    let mut size = disk::mebibytes(&fill.store)?;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = disk::mebibytes(&fill.store)?;
        size = size.min(now);
        if size <= 64.0 {
            break;
        }
    }
    Ok(size)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Message number `n`, from one of ten thousand senders.
fn arrival(n: u64, at: Timestamp) -> Result<Arrival> {
    let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = MessageId(uuid::Uuid::from_u64_pair(
        (at.0.cast_unsigned() << 16) | 0x7000 | (n & 0xFFF),
        random | 1 << 63,
    ));
    let all: Name = "all".parse()?;
    let delivery = Delivery::new(
        DeliveryId {
            message: id,
            ordinal: 1,
        },
        "desk".parse()?,
        Some(all.clone()),
        at,
    );
    Ok(Arrival {
        message: Message {
            id,
            source: "carrier".parse()?,
            provider_id: format!("{random:016X}{n:016X}"),
            from: Number::parse(&format!("+1303{:07}", n % 10_000))?,
            to: Number::parse("+13038670000")?,
            text: format!(
                "This is number {n} of many messages, about as long as usual: your table for two is booked, see you at eight."
            ),
            media: Vec::new(),
            extra: BTreeMap::new(),
            received_at: at,
            routes: vec![all],
            redacted_at: None,
        },
        deliveries: vec![delivery],
        dedup_since: Timestamp(at.0 - 7 * 86_400_000),
    })
}
