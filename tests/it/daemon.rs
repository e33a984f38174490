//! The daemon from end to end: from a carrier's request to the delivery.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::bridge::{Answer, Bridge, CODE, http, refid, try_raw, wait_for};
use crate::servers::recorder::{Recorder, Reply, webhook};

mod requests;

const CONSOLE: &str = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

fn unmatched(names: &str) -> String {
    format!("[routing]\nunmatched = [{names}]\n")
}

#[test]
fn a_message_reaches_the_console() {
    let bridge = Bridge::start(CONSOLE);
    let (status, body) = bridge.post_message(&refid(1), "+13035550100", "Hello World!");
    assert_eq!((status, body["status"].as_str()), (200, Some("accepted")));
    let line = wait_for("the message on the console", || {
        bridge.console().into_iter().next()
    });
    assert!(
        line.contains("+13035550100 → +13038675309: Hello World!"),
        "{line}"
    );
}

#[test]
fn the_providers_own_example_is_accepted() {
    let bridge = Bridge::start(CONSOLE);
    let body = format!(
        r#"{{"refid":"ABCDEF1234567890ABCDEF1234567890","from":"+7708675309","to":"+13038675309","message":"Hello World!","signature":"{CODE}"}}"#
    );
    assert_eq!(bridge.post(&body, "application/json; charset=utf-8").0, 200);
    let form = format!("refid=B&from=%2B13035550100&to=%2B13038675309&message=Hi+there&signature={CODE}");
    assert_eq!(bridge.post(&form, "application/x-www-form-urlencoded").0, 200);
    wait_for("both messages", || (bridge.console().len() == 2).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_destination_is_paused_and_the_other_is_not() {
    let limited = Recorder::start(|_| Reply::new(429, "{}").with("retry-after", "3600")).await;
    let quick = Recorder::start(|_| Reply::new(200, "ok")).await;
    let slack = format!(
        "[destination.ops]\nkind = \"slack\"\nwebhook_url = \"{}/hook\"\n",
        limited.url("")
    );
    let bridge = Bridge::start(&(slack + &webhook("crm", &quick, "") + &unmatched("\"ops\", \"crm\"")));
    for number in 0..20 {
        assert_eq!(bridge.post_message(&refid(number), "+13035550100", "text").0, 200);
    }
    wait_for("all messages at the fast one", || {
        (quick.received().len() == 20).then_some(())
    });
    bridge.logged("destination ops is rate limiting");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        limited.received().len(),
        1,
        "one 429 pauses the whole destination"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_or_hanging_destination_delays_no_other() {
    let hanging = Recorder::start(|_| {
        let mut reply = Reply::new(200, "ok");
        reply.delay = Duration::from_secs(60);
        reply
    })
    .await;
    let quick = Recorder::start(|_| Reply::new(200, "ok")).await;
    let refused = "[destination.gone]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/sms\"\n";
    let config = webhook("slow", &hanging, "timeout = \"30s\"") + refused + &webhook("quick", &quick, "");
    let bridge = Bridge::start(&(config + &unmatched("\"slow\", \"gone\", \"quick\"")));
    let started = Instant::now();
    for number in 0..100 {
        assert_eq!(
            bridge
                .post_message(&refid(number), &format!("+1303555{number:04}"), "text")
                .0,
            200
        );
    }
    wait_for("all messages at the fast one", || {
        (quick.received().len() == 100).then_some(())
    });
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    bridge.logged("destination gone is unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misconfigured_destination_is_parked_and_loses_no_message() {
    let recorder = Recorder::start(|_| Reply::new(403, "invalid_token")).await;
    let slack = |path: &str| {
        format!(
            "[destination.ops]\nkind = \"slack\"\nwebhook_url = \"{}{path}\"\nretry = {{ initial = \"50ms\", max = \"100ms\" }}\nrate = \"100/s\"\n",
            recorder.url("")
        )
    };
    let bridge = Bridge::start(&(slack("/old") + &unmatched("\"ops\"")));
    for number in 0..5 {
        bridge.post_message(&refid(number), "+13035550100", &format!("text {number}"));
    }
    bridge.logged("ops is parked");
    wait_for("probes", || (recorder.received().len() > 3).then_some(()));
    assert!(
        !bridge
            .log()
            .iter()
            .any(|line| line.contains("could not be delivered")),
        "{:#?}",
        bridge.log()
    );

    let good = Recorder::start(|_| Reply::new(200, "ok")).await;
    bridge.configure(
        &(slack("/new").replace(recorder.url("").as_str(), good.url("").as_str()) + &unmatched("\"ops\"")),
    );
    bridge.signal("HUP");
    bridge.logged("reloaded: destination.ops changed");
    wait_for("all messages after the configuration was fixed", || {
        (good.received().len() == 5).then_some(())
    });
    let order: Vec<bool> = good
        .received()
        .iter()
        .zip(0..)
        .map(|(received, number)| received.body.contains(&format!("text {number}")))
        .collect();
    assert_eq!(order, [true; 5], "in the order they were accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delivery_goes_to_the_fallback() {
    let refusing = Recorder::start(|_| Reply::new(422, "no")).await;
    let taking = Recorder::start(|_| Reply::new(200, "ok")).await;
    let config = webhook("first", &refusing, "fallback = \"second\"") + &webhook("second", &taking, "");
    let bridge = Bridge::start(&(config + &unmatched("\"first\"")));
    bridge.post_message(&refid(1), "+13035550100", "hello");
    wait_for("the fallback", || (taking.received().len() == 1).then_some(()));
    assert_eq!(
        refusing.received().len(),
        1,
        "a permanent refusal is not tried again"
    );
    bridge.logged("delivery to first failed permanently");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_keeps_its_order_across_retries() {
    // Every message fails twice, so that later ones could overtake it.
    let tries: std::sync::Mutex<HashMap<String, u32>> = std::sync::Mutex::default();
    let recorder = Recorder::start(move |received| {
        let text = received.json()["text"].as_str().unwrap_or_default().to_owned();
        let mut tries = tries.lock().unwrap();
        let count = tries.entry(text).or_default();
        *count += 1;
        if *count <= 2 {
            Reply::new(409, "again")
        } else {
            Reply::new(200, "ok")
        }
    })
    .await;
    let more = "retry = { initial = \"20ms\", max = \"60ms\" }\nconcurrency = 4";
    let bridge = Bridge::start(&(webhook("crm", &recorder, more) + &unmatched("\"crm\"")));
    for number in 0..12 {
        let from = format!("+130355501{:02}", number % 3);
        bridge.post_message(&refid(number), &from, &format!("{from} {}", number / 3));
    }
    wait_for("every message three times", || {
        (recorder.received().len() >= 36).then_some(())
    });
    let mut last: HashMap<String, (u32, String)> = HashMap::new();
    for received in recorder.received() {
        let text = received.json()["text"].as_str().unwrap().to_owned();
        let (from, number) = text.split_once(' ').unwrap();
        let number: u32 = number.parse().unwrap();
        let before = last.insert(from.to_owned(), (number, text.clone()));
        assert!(
            before.is_none_or(|(before, _)| number == before || number == before + 1),
            "{text} overtook"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_200_and_delivery_delivers_once_after_the_restart() {
    let recorder = Recorder::start(|_| Reply::new(200, "ok")).await;
    let nowhere = "[destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/sms\"\n";
    let mut bridge = Bridge::start(&(nowhere.to_owned() + &unmatched("\"crm\"")));
    let ids: Vec<String> = (0..50)
        .map(|number| {
            let (status, body) =
                bridge.post_message(&refid(number), "+13035550100", &format!("text {number}"));
            assert_eq!(status, 200);
            body["id"].as_str().unwrap().to_owned()
        })
        .collect();
    bridge.kill();
    bridge.configure(&(webhook("crm", &recorder, "") + &unmatched("\"crm\"")));
    bridge.run();
    wait_for("every message", || {
        (recorder.received().len() >= ids.len()).then_some(())
    });
    assert_eq!(
        bridge.post_message(&refid(3), "+13035550100", "text 3").1["status"],
        "duplicate",
        "known over the restart"
    );
    let (status, _, _) = bridge.stop();
    assert!(status.success());
    let received: Vec<String> = recorder
        .received()
        .iter()
        .map(|received| received.json()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(received, ids, "each once, in order");
    assert!(
        recorder
            .received()
            .iter()
            .all(|received| received.header("webhook-id").ends_with("-1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_never_replaces_a_valid_one() {
    let recorder = Recorder::start(|_| Reply::new(200, "ok")).await;
    let good = webhook("crm", &recorder, "") + &unmatched("\"crm\"");
    let bridge = Bridge::start(&good);
    bridge.configure("[destination.crm]\nkind = \"webhok\"\n[routing]\nunmatched = [\"cmr\"]\n");
    bridge.signal("HUP");
    bridge.logged("reload failed");
    bridge.post_message(&refid(1), "+13035550100", "still delivered");
    wait_for("the message", || (recorder.received().len() == 1).then_some(()));
    let route = "[[route]]\nname = \"spam\"\nfrom = [\"+1900*\"]\ndeliver = []\n";
    bridge.configure(&(good + route));
    bridge.signal("HUP");
    bridge.logged("reloaded: route.spam added");
    let (status, body) = bridge.post_message(&refid(2), "+19005550100", "kept, nobody told");
    assert_eq!((status, body["status"].as_str()), (200, Some("accepted")));
}

#[test]
fn stopping_ends_with_zero_and_starts_again() {
    let mut bridge = Bridge::start(CONSOLE);
    bridge.post_message(&refid(1), "+13035550100", "before");
    let (status, log, console) = bridge.stop();
    assert!(status.success(), "{log:#?}");
    assert_eq!(console.len(), 1);
    bridge.run();
    assert_eq!(
        bridge.post_message(&refid(1), "+13035550100", "before").1["status"],
        "duplicate"
    );
}

#[test]
fn two_daemons_do_not_share_a_store() {
    let bridge = Bridge::start(CONSOLE);
    let (exit, _, error) = bridge.command(&["serve"]);
    assert_eq!(exit, 1, "{error}");
    assert!(error.contains("in use by another process"), "{error}");
}

#[test]
fn a_carrier_that_disconnects_after_posting_loses_no_message() {
    use std::io::Write as _;
    let bridge = Bridge::start(CONSOLE);
    let address = bridge.url("").strip_prefix("http://").unwrap().to_owned();
    for number in 0..20 {
        let body = Bridge::body(&refid(number), "+13035550100", &format!("text {number}")).to_string();
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let length = body.len();
        let head = "POST /inbound/intelepeer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
        if number % 2 == 0 {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        // A request that was read before the connection closed is stored and delivered.
        wait_for("the message to be accepted", || {
            bridge
                .log()
                .iter()
                .filter(|line| line.contains("accepted a message"))
                .nth(number)
                .map(|_| ())
        });
    }
    wait_for("all messages on the console", || {
        (bridge.console().len() == 20).then_some(())
    });
}

#[test]
fn an_unfinished_admin_request_does_not_delay_the_shutdown() {
    use std::io::Write as _;
    let mut bridge = Bridge::start(CONSOLE);
    let socket = bridge.folder().join("data/admin.sock");
    let mut unfinished = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    unfinished
        .write_all(b"POST /api/v1/route HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    let (status, log, _) = bridge.stop();
    assert!(status.success(), "{log:#?}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert!(!socket.exists(), "no socket is left behind");
}
