//! Reference paths: minimal programs that store a webhook on disk before they answer, and forward it. A bare server, a
//! store, and 32 workers with the product's own HTTP client; no rules, no retries, no order, no logs.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use smsbridge::destination::http::Client;
use smsbridge::web::serve::{Filter, serve};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use warp::Filter as _;

use crate::bare::{answer, limits};
use crate::process;

/// The role's name.
pub const ROLE: &str = "reference";

/// Maximum size of a commit and of the queue, as in smsbridge's store.
const GROUP_MAX: usize = 1024;

const WORKERS: usize = 32;

/// A reference path.
#[derive(Serialize, Deserialize)]
pub struct Reference {
    pub store: Store,
    /// The folder for its data.
    pub folder: PathBuf,
    /// The destination of the messages; `None` if only accepting is measured.
    pub sink: Option<SocketAddr>,
}

/// The kind of store.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Store {
    /// sled: one batch for each group, `flush`, and `fdatasync` of its file.
    Sled,
    /// One file: one write for each group, and `fdatasync`.
    Log,
}

enum Job {
    Keep(Bytes, oneshot::Sender<bool>),
    /// A stored message was posted.
    Posted(u64),
}

/// Plays the role.
pub fn play(reference: Reference) -> Result<()> {
    process::on_all_threads(async {
        let [listener] = process::listen().await?;
        serve(listener, filter(&reference)?, limits(), CancellationToken::new()).await;
        Ok(())
    })
}

fn filter(reference: &Reference) -> Result<Filter> {
    let (jobs, waiting) = mpsc::channel(GROUP_MAX);
    let (kept, to_post) = mpsc::unbounded_channel();
    let disk = Disk::open(reference.store, &reference.folder)?;
    let is_posting = reference.sink.is_some();
    std::thread::Builder::new().spawn(move || keep(disk, waiting, &kept, is_posting))?;
    if let Some(sink) = reference.sink {
        post(sink, to_post, &jobs)?;
    }
    let body = warp::post().and(warp::body::bytes());
    let filter = body.then(move |body: Bytes| {
        let jobs = jobs.clone();
        async move {
            let answer = answer(&body);
            let (done, wait) = oneshot::channel();
            let _ = jobs.send(Job::Keep(body, done)).await;
            match wait.await {
                Ok(true) => answer,
                _ => smsbridge::web::error(StatusCode::SERVICE_UNAVAILABLE, "not written"),
            }
        }
    });
    Ok(filter.boxed())
}

/// Takes all queued requests, commits them as one group, answers, and forwards new messages.
fn keep(
    mut disk: Disk,
    mut jobs: mpsc::Receiver<Job>,
    kept: &mpsc::UnboundedSender<(u64, Bytes)>,
    is_posting: bool,
) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    let mut last = 0;
    while jobs.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        let first = last + 1;
        let is_kept = disk.commit(&group, &mut last).is_ok();
        let mut number = first;
        for job in group.drain(..) {
            let Job::Keep(body, done) = job else { continue };
            let _ = done.send(is_kept);
            if is_posting && is_kept {
                let _ = kept.send((number, body));
            }
            number += 1;
        }
    }
}

fn post(
    sink: SocketAddr,
    to_post: mpsc::UnboundedReceiver<(u64, Bytes)>,
    jobs: &mpsc::Sender<Job>,
) -> Result<()> {
    let http = Client::new().map_err(anyhow::Error::msg).context("the client")?;
    let url: url::Url = format!("http://{sink}/").parse()?;
    let to_post = Arc::new(Mutex::new(to_post));
    for _ in 0..WORKERS {
        let (http, url, to_post, jobs) = (http.clone(), url.clone(), to_post.clone(), jobs.clone());
        tokio::spawn(async move {
            loop {
                let next = to_post.lock().await.recv().await;
                let Some((number, body)) = next else { return };
                let request = http
                    .request(http::Method::POST, url.clone())
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(body);
                let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
                let _ = http
                    .send(request, deadline, &smsbridge::mask::Mask::default())
                    .await;
                let _ = jobs.send(Job::Posted(number)).await;
            }
        });
    }
    Ok(())
}

enum Disk {
    Sled(sled::Db, File),
    Log(File),
}

impl Disk {
    fn open(store: Store, folder: &Path) -> Result<Self> {
        Ok(match store {
            Store::Sled => {
                let db = sled::Config::new().path(folder).flush_every_ms(None).open()?;
                let file = OpenOptions::new().write(true).open(folder.join("db"))?;
                Self::Sled(db, file)
            }
            Store::Log => Self::Log(File::create(folder.join("log"))?),
        })
    }

    /// Numbers the new messages of a group from `last` + 1.
    fn commit(&mut self, group: &[Job], last: &mut u64) -> Result<()> {
        match self {
            Self::Sled(db, file) => {
                let mut batch = sled::Batch::default();
                for job in group {
                    match job {
                        Job::Keep(body, _) => {
                            *last += 1;
                            batch.insert(&last.to_be_bytes(), &**body);
                        }
                        Job::Posted(number) => batch.remove(&number.to_be_bytes()),
                    }
                }
                db.apply_batch(batch)?;
                db.flush()?;
                Ok(file.sync_data()?)
            }
            Self::Log(file) => {
                let mut bytes = Vec::new();
                for job in group {
                    match job {
                        Job::Keep(body, _) => {
                            *last += 1;
                            bytes.extend_from_slice(body);
                        }
                        Job::Posted(number) => bytes.extend_from_slice(&number.to_be_bytes()),
                    }
                }
                file.write_all(&bytes)?;
                Ok(file.sync_data()?)
            }
        }
    }
}
