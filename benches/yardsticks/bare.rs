//! Servers for comparison: each does less of the bridge's work, behind the same serving loop. The difference is the
//! cost of the bridge's promises.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use smsbridge::destination::http::Client;
use smsbridge::web::serve::{Filter, Limits, serve};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use warp::Filter as _;
use warp::reply::Response;

use crate::process;

/// The role's name.
pub const ROLE: &str = "bare";

/// Maximum size of a group and of the queue, as in the bridge's store.
const GROUP_MAX: usize = 1024;

/// Simultaneous POSTs to the sink: the maximum of a destination's `concurrency`.
const POSTS_MAX: usize = 64;

/// A server for comparison.
#[derive(Serialize, Deserialize)]
pub enum Bare {
    /// Reads the JSON, and answers.
    Parse,
    /// Also passes the body to another thread and waits for its answer.
    HandOver,
    /// Also appends queued bodies to this file and syncs it before it answers.
    Log(PathBuf),
    /// Reads the JSON, starts a task that posts it to this sink, and answers.
    Straight(SocketAddr),
}

/// The fields of a carrier's webhook.
#[derive(Deserialize)]
struct Fields<'a> {
    refid: &'a str,
    #[serde(borrow)]
    message: std::borrow::Cow<'a, str>,
}

/// Plays the role.
pub fn play(bare: Bare) -> Result<()> {
    process::on_all_threads(async {
        let [listener] = process::listen().await?;
        serve(listener, filter(bare)?, limits(), CancellationToken::new()).await;
        Ok(())
    })
}

/// The limits of smsbridge, with enough connections for a benchmark.
pub fn limits() -> Limits {
    Limits {
        connections: 2048,
        header_timeout: Duration::from_secs(60),
        request_timeout: Some(Duration::from_secs(10)),
    }
}

fn filter(bare: Bare) -> Result<Filter> {
    let body = warp::post().and(warp::body::bytes());
    Ok(match bare {
        Bare::Parse => body.then(async |body: Bytes| answer(&body)).boxed(),
        Bare::HandOver => over(thread(None)?),
        Bare::Log(path) => over(thread(Some(File::create(path)?))?),
        Bare::Straight(sink) => {
            let poster = Poster::new(sink)?;
            body.then(move |body: Bytes| {
                let poster = poster.clone();
                async move {
                    let answer = answer(&body);
                    poster.post(body).await;
                    answer
                }
            })
            .boxed()
        }
    })
}

/// Reads the JSON, and answers as smsbridge does.
pub fn answer(body: &[u8]) -> Response {
    match serde_json::from_slice::<Fields<'_>>(body) {
        Ok(fields) => smsbridge::web::json(
            StatusCode::OK,
            &serde_json::json!({ "status": "accepted", "id": fields.refid, "length": fields.message.len() }),
        ),
        Err(error) => smsbridge::web::error(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

/// A body for the thread, and the channel for its reply.
type Parcel = (Bytes, oneshot::Sender<bool>);

fn over(thread: mpsc::Sender<Parcel>) -> Filter {
    let body = warp::post().and(warp::body::bytes());
    body.then(move |body: Bytes| {
        let thread = thread.clone();
        async move {
            let answer = answer(&body);
            let (done, wait) = oneshot::channel();
            let _ = thread.send((body, done)).await;
            match wait.await {
                Ok(true) => answer,
                _ => smsbridge::web::error(StatusCode::SERVICE_UNAVAILABLE, "not written"),
            }
        }
    })
    .boxed()
}

/// Takes all queued bodies, writes and syncs them if there is a file, and replies to all.
fn thread(mut file: Option<File>) -> Result<mpsc::Sender<Parcel>> {
    let (sender, mut parcels) = mpsc::channel::<Parcel>(GROUP_MAX);
    std::thread::Builder::new().spawn(move || {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while parcels.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            let written = file.as_mut().is_none_or(|file| append(file, &group).is_ok());
            for (_, done) in group.drain(..) {
                let _ = done.send(written);
            }
        }
    })?;
    Ok(sender)
}

fn append(file: &mut File, group: &[Parcel]) -> std::io::Result<()> {
    let bytes: Vec<u8> = group.iter().flat_map(|(body, _)| body.iter().copied()).collect();
    file.write_all(&bytes)?;
    file.sync_data()
}

/// Posts bodies with the bridge's own client, with limited concurrency.
#[derive(Clone)]
struct Poster {
    http: Client,
    url: url::Url,
    permits: Arc<Semaphore>,
}

impl Poster {
    fn new(sink: SocketAddr) -> Result<Self> {
        Ok(Self {
            http: Client::new().map_err(anyhow::Error::msg).context("the client")?,
            url: format!("http://{sink}/").parse()?,
            permits: Arc::new(Semaphore::new(POSTS_MAX)),
        })
    }

    async fn post(&self, body: Bytes) {
        let Ok(permit) = self.permits.clone().acquire_owned().await else {
            return;
        };
        let request = self
            .http
            .request(http::Method::POST, self.url.clone())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body);
        let http = self.http.clone();
        tokio::spawn(async move {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            let _ = http
                .send(request, deadline, &smsbridge::mask::Mask::default())
                .await;
            drop(permit);
        });
    }
}
