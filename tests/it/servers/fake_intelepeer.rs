//! A fake of IntelePeer's management API that follows a script.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request as the API saw it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seen {
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query as sent, so that encoding shows.
    pub target: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The JSON body.
    pub body: Option<Value>,
}

/// The response.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// 0 closes the connection instead.
    pub status: u16,
    /// Header fields.
    pub headers: BTreeMap<String, String>,
    /// A JSON body.
    pub body: Option<Value>,
    /// Or any other.
    pub text: String,
}

/// One request that is expected, and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub request: Seen,
    pub answer: Answer,
}

type Script = Box<dyn FnMut(&Seen) -> Answer + Send>;

/// The server; it ends when dropped.
pub struct FakeIntelepeer {
    address: SocketAddr,
    problems: Arc<Mutex<Vec<String>>>,
    left: Arc<Mutex<VecDeque<Exchange>>>,
    accepting: JoinHandle<()>,
}

impl FakeIntelepeer {
    /// Expects exactly these requests in this order and answers them.
    pub async fn play(exchanges: Vec<Exchange>) -> Self {
        let left = Arc::new(Mutex::new(VecDeque::from(exchanges)));
        let problems = Arc::new(Mutex::new(Vec::new()));
        let script = {
            let (left, problems) = (left.clone(), problems.clone());
            move |seen: &Seen| match left.lock().unwrap().pop_front() {
                Some(exchange) if exchange.request == *seen => exchange.answer,
                Some(exchange) => unexpected(
                    &problems,
                    format!("expected {:#?}\nbut saw {seen:#?}", exchange.request),
                ),
                None => unexpected(&problems, format!("expected nothing more, but saw {seen:#?}")),
            }
        };
        let mut server = Self::start(script).await;
        (server.left, server.problems) = (left, problems);
        server
    }

    /// Answers what the script returns.
    pub async fn start(script: impl FnMut(&Seen) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(accept(listener, Arc::new(Mutex::new(Box::new(script)))));
        Self {
            address,
            problems: Arc::default(),
            left: Arc::default(),
            accepting,
        }
    }

    /// For `api_url` and `auth_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Panics if an unexpected request was made.
    pub fn assert_no_surprise(&self, name: &str) {
        let problems = self.problems.lock().unwrap().join("\n");
        assert!(problems.is_empty(), "{name}: {problems}");
    }

    /// Panics unless all expected requests were made.
    pub fn assert_played(&self, name: &str) {
        self.assert_no_surprise(name);
        let left = self.left.lock().unwrap();
        assert!(left.is_empty(), "{name}: never asked: {left:#?}");
    }
}

impl Drop for FakeIntelepeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn unexpected(problems: &Mutex<Vec<String>>, problem: String) -> Answer {
    problems.lock().unwrap().push(problem);
    Answer {
        status: 418,
        ..Answer::default()
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = script.clone();
        let service = service_fn(move |request| answer(request, script.clone()));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// An error closes the connection without an answer.
async fn answer(
    request: hyper::Request<Incoming>,
    script: Arc<Mutex<Script>>,
) -> Result<hyper::Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        authorization: header("authorization"),
        body: serde_json::from_slice(&body).ok(),
    };
    let answer = (script.lock().unwrap())(&seen);
    if answer.status == 0 {
        return Err(std::io::Error::other("closed as the script says"));
    }
    let text = answer.body.map_or(answer.text, |body| body.to_string());
    let mut response = hyper::Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = answer.status.try_into().unwrap();
    for (name, value) in &answer.headers {
        response
            .headers_mut()
            .insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    Ok(response)
}
