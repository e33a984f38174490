//! A hold that ends by the clock.

use std::time::Duration;

use crate::bridge::{Bridge, refid, wait_within};
use crate::servers::recorder::{Recorder, Reply, webhook};

/// The time of the day in UTC, `minutes` from now.
fn minute(minutes: i64) -> String {
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
    then.strftime("%H:%M").to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a minute: tests/run"]
async fn a_held_message_is_sent_when_the_interval_ends() {
    let desk = Recorder::answering(Reply::new(200, "ok")).await;
    let end = minute(1);
    let nights = format!("[time_interval.nights]\ntimes = [\"{}-{end}\"]\n", minute(-1));
    let bridge = Bridge::start(&format!(
        "{}{nights}[routing]\nunmatched = [\"desk\"]\n",
        webhook("desk", &desk, "hold_during = [\"nights\"]")
    ));
    for number in 1..=20 {
        assert_eq!(
            bridge.post_message(&refid(number), "+13035550100", "hello").0,
            200
        );
    }
    let received = wait_within(Duration::from_secs(75), "the end of the hold", || {
        let received = desk.received();
        (received.len() == 20).then_some(received)
    });
    assert_eq!(received.len(), 20);
    assert_eq!(jiff::Timestamp::now().strftime("%H:%M").to_string(), end);
}
