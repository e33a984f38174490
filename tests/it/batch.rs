//! Several messages in one post, to a Slack that takes a limited number of posts.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bridge::{Bridge, refid, wait_for, wait_within};
use crate::servers::recorder::{Received, Recorder, Reply};
use crate::servers::slack;

/// An incoming webhook at this server, with further keys.
fn config(server: &Recorder, more: &str) -> String {
    let url = server.url("/services/T0/B0/key");
    format!(
        "[destination.ops]\nkind = \"slack\"\nwebhook_url = \"{url}\"\n{more}\n[routing]\nunmatched = [\"ops\"]\n"
    )
}

/// A Slack that takes a post per `interval`, and three more in a burst, and answers 429 to others.
async fn limited(interval: Duration, taken: Arc<Mutex<Vec<Received>>>) -> Recorder {
    let full = Mutex::new(Instant::now());
    Recorder::start(move |request| {
        let (mut full, now) = (full.lock().unwrap(), Instant::now());
        let next = (*full).max(now) + interval;
        if next > now + interval * 4 {
            return Reply::new(429, "ratelimited").with("retry-after", "1");
        }
        *full = next;
        taken.lock().unwrap().push(request.clone());
        slack::answer(request, &mut Vec::new())
    })
    .await
}

/// The numbers of the messages in the blocks of a post, in order.
fn shown(post: &Received) -> Vec<usize> {
    let payload = post.json();
    let blocks = payload["blocks"].as_array().cloned().unwrap_or_default();
    let sections = blocks.iter().filter(|block| block["type"] == "section");
    let texts = sections.filter_map(|block| block["text"]["text"].as_str());
    texts
        .filter_map(|text| text.strip_prefix("message ")?.parse().ok())
        .collect()
}

fn text(bridge: &Bridge, n: usize, from: usize) -> String {
    let from = format!("+13035{from:06}");
    let (status, body) = bridge.post_message(&refid(n), &from, &format!("message {n}"));
    assert_eq!(status, 200, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

fn pending(bridge: &Bridge) -> u64 {
    bridge.status()["messages"]["pending"].as_u64().unwrap()
}

/// A thousand messages in a minute, half of them of one conversation, to a Slack that takes a post each second; with
/// everything `scale` times as fast.
async fn a_storm(scale: u32) {
    const COUNT: usize = 1_000;
    let second = Duration::from_secs(1) / scale;
    let taken = Arc::<Mutex<Vec<Received>>>::default();
    let server = limited(second, taken.clone()).await;
    let keys = format!(
        "rate = \"{scale}/s\"\nbatch = {{ max = 20, wait = \"{}ms\" }}",
        second.as_millis() * 2
    );
    let bridge = Bridge::start(&config(&server, &keys));
    let began = Instant::now();
    for n in 0..COUNT {
        let due = began + second * 60 * u32::try_from(n).unwrap() / u32::try_from(COUNT).unwrap();
        tokio::time::sleep_until(due.into()).await;
        text(&bridge, n, if n % 2 == 0 { 0 } else { n });
    }
    let accepted = began.elapsed();
    let seen = || {
        let all: Vec<Vec<usize>> = taken.lock().unwrap().iter().map(shown).collect();
        (all.concat().len() >= COUNT).then_some(all)
    };
    let posts = wait_within(second * 90, "all messages", seen);
    let took = began.elapsed();
    println!(
        "{COUNT} messages accepted in {accepted:?}, readable after {took:?} in {} posts",
        posts.len()
    );
    let mut all = posts.concat();
    assert!(posts.iter().all(|post| post.len() <= 20));
    assert_eq!(posts[0], [0], "the first message waits for no other");
    assert!(
        all.iter().filter(|n| *n % 2 == 0).is_sorted(),
        "a conversation keeps its order"
    );
    all.sort_unstable();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>(), "each once");
    assert!(took <= accepted + second * 30, "{took:?}");
    wait_for("all outcomes", || (pending(&bridge) == 0).then_some(()));
    assert_eq!(bridge.status()["messages"]["delivered"], COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_messages_is_readable_soon() {
    a_storm(10).await;
}

#[ignore = "takes more than a minute"]
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_messages_is_readable_soon_at_full_length() {
    a_storm(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_slack_rejects_is_found_and_the_others_of_its_post_are_delivered() {
    let is_down = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let down = is_down.clone();
    let server = Recorder::start(move |request| match &request.body {
        _ if down.load(std::sync::atomic::Ordering::Relaxed) => Reply::new(503, "service_unavailable"),
        body if body.contains("message 13") => Reply::new(400, "too_many_attachments"),
        _ => slack::answer(request, &mut Vec::new()),
    })
    .await;
    let retry = "retry = { initial = \"1s\", max = \"1s\" }";
    let mut bridge = Bridge::start(&config(
        &server,
        &format!("rate = \"50/s\"\nbatch = {{ max = 20 }}\n{retry}"),
    ));
    // Nothing is delivered at first: all of them wait.
    let ids: Vec<String> = (10..30).map(|n| text(&bridge, n, n / 10)).collect();
    wait_for("a failed attempt", || {
        server.received().len().gt(&1).then_some(())
    });
    assert_eq!(pending(&bridge), 20);
    bridge.kill();
    bridge.run();
    is_down.store(false, std::sync::atomic::Ordering::Relaxed);
    let end = |state: &str| {
        let messages = &bridge.status()["messages"];
        messages[state].as_u64().unwrap()
    };
    wait_for("the end of all", || (end("pending") == 0).then_some(()));
    assert_eq!((end("delivered"), end("dead")), (19, 1));
    let (_, shown_as, _) = bridge.command(&["message", "show", &ids[3]]);
    assert!(shown_as.contains("too_many_attachments"), "{shown_as}");
    let (_, shown_as, _) = bridge.command(&["message", "show", &ids[19]]);
    assert!(
        shown_as.contains("(one post with ") && shown_as.contains(": delivered at "),
        "{shown_as}"
    );
    let posts = server.received();
    let taken = posts.iter().filter(|post| !post.body.contains("message 13"));
    let taken = taken.filter(|post| !post.body.is_empty()).count();
    println!("{} requests, {taken} without the rejected message", posts.len());
}
