//! Slack, with answers that a test may script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::recorder::{Received, Recorder, Reply};
use super::slack::{CHANNEL, TOKEN, answer};

pub struct FakeSlack {
    recorder: Recorder,
    script: Arc<Mutex<VecDeque<Reply>>>,
}

impl FakeSlack {
    pub async fn start() -> Self {
        let script: Arc<Mutex<VecDeque<Reply>>> = Arc::default();
        let posted: Arc<Mutex<Vec<String>>> = Arc::default();
        let scripted = script.clone();
        let recorder = Recorder::start(move |request| {
            let next = scripted.lock().unwrap().pop_front();
            next.unwrap_or_else(|| answer(request, &mut posted.lock().unwrap()))
        })
        .await;
        Self { recorder, script }
    }

    /// Sets the answer to the next request.
    pub fn script(&self, reply: Reply) {
        self.script.lock().unwrap().push_back(reply);
    }

    pub fn webhook(&self) -> Value {
        json!({ "webhook_url": self.recorder.url("/services/T0/B0/key") })
    }

    pub fn token(&self) -> Value {
        json!({ "token": TOKEN, "channel": CHANNEL, "api_url": self.recorder.url("/api") })
    }

    pub fn received(&self) -> Vec<Received> {
        self.recorder.received()
    }

    pub fn payloads(&self) -> Vec<Value> {
        self.received().iter().map(Received::json).collect()
    }
}
