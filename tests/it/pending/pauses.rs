//! Pauses that a destination asked for: over a retry, a restart, a test message and a reload.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_requested_pause_a_retry_and_a_resume_probe_immediately() {
    let recorder = Recorder::answering(Reply::new(429, "slow down").with("retry-after", "1")).await;
    let bridge = Bridge::start(&crm(&recorder, "retry = { initial = \"10m\" }"));
    let first = post(&bridge, 1, 1);
    let after_the_pause = || {
        wait_for("the end of the pause", || {
            let waits = pending(&bridge, &first, "limited");
            waits["pause_until"].is_null().then_some(waits)
        })
    };
    let waits = pending(&bridge, &first, "limited");
    if let Some(end) = waits["pause_until"].as_str() {
        assert!(Moment::from(end).is_in(0, 1), "{waits}");
    }
    let waits = after_the_pause();
    let next: Moment = waits["next_attempt"].as_str().unwrap().into();
    assert!(next.is_in(20, 610), "the backoff: {waits}");
    assert!(!shown(&bridge, &first).contains("asked for a pause"));
    let results = retry(&bridge, &[&first]);
    assert_eq!(results[0]["outcome"], "tried", "{results:?}");
    wait_for("the probe", || (recorder.received().len() == 2).then_some(()));
    after_the_pause();
    for what in ["pause", "resume"] {
        assert_eq!(bridge.command(&["destination", what, "crm"]).0, 0);
    }
    wait_for("the second probe", || {
        (recorder.received().len() == 3).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_pause_ends_at_the_same_time_after_a_restart() {
    let recorder = Recorder::answering(Reply::new(429, "slow down").with("retry-after", "600")).await;
    let mut bridge = Bridge::start(&crm(&recorder, "retry = { initial = \"2h\", max = \"2h\" }"));
    let first = post(&bridge, 1, 1);
    let before = pending(&bridge, &first, "limited");
    assert!(shown(&bridge, &first).contains("; it asked for a pause until "));
    for is_killed in [false, true] {
        // It is stored within a second or two.
        std::thread::sleep(Duration::from_secs(3));
        match is_killed {
            true => bridge.kill(),
            false => drop(bridge.stop()),
        }
        std::thread::sleep(Duration::from_secs(2));
        bridge.run();
        let after = pending(&bridge, &first, "limited");
        let [before, after] =
            [&before, &after].map(|waits| Moment::from(waits["pause_until"].as_str().unwrap()).0);
        let apart = after
            .duration_since(before)
            .unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_millis(500), "{apart:?}");
    }
    assert_eq!(recorder.received().len(), 1, "the pause was not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_in_answer_to_a_test_message_counts_like_one_for_a_delivery() {
    let recorder = Recorder::answering(Reply::new(429, "slow down").with("retry-after", "600")).await;
    let bridge = Bridge::start(&crm(&recorder, ""));
    assert_eq!(destination(&bridge)["state"], "untested");
    assert_eq!(bridge.command(&["destination", "test", "crm"]).0, 1);
    let tested = destination(&bridge);
    assert_eq!(tested["state"], "limited", "{tested}");
    let last = tested["last_attempt"]["detail"].as_str().unwrap();
    assert!(last.starts_with("HTTP 429"), "{tested}");
    assert!(
        Moment::from(tested["pause_until"].as_str().unwrap()).is_in(590, 600),
        "{tested}"
    );
    let first = post(&bridge, 1, 1);
    pending(&bridge, &first, "limited");
    assert_eq!(retry(&bridge, &[&first])[0]["outcome"], "waiting");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(recorder.received().len(), 1, "only the test message was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_was_removed_and_is_back_is_as_parked_or_limited_as_before() {
    for (status, state) in [(403, "parked"), (429, "limited")] {
        let recorder = Recorder::start(move |_| Reply {
            delay: Duration::from_millis(300),
            ..Reply::new(status, "no").with("retry-after", "600")
        })
        .await;
        let with = crm(&recorder, "");
        let mut bridge = Bridge::start(&with);
        let first = post(&bridge, 1, 1);
        pending(&bridge, &first, state);
        let before = destination(&bridge);
        for restart in [false, true] {
            bridge
                .configure("[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n");
            assert_eq!(bridge.command(&["reload"]).0, 0);
            wait_for("the removal", || {
                (destination(&bridge)["state"] == "removed").then_some(())
            });
            if restart {
                bridge.stop();
                bridge.run();
            }
            // Its lane ends with the attempt in progress.
            wait_for("the end of its lane", || {
                let sent = recorder.received().len();
                std::thread::sleep(Duration::from_millis(400));
                (recorder.received().len() == sent).then_some(())
            });
            bridge.configure(&with);
            assert_eq!(bridge.command(&["reload"]).0, 0);
            let after = destination(&bridge);
            for field in ["state", "since", "reason"] {
                assert_eq!(after[field], before[field], "{field}: {after}");
            }
            assert_eq!(after["pause_until"].is_string(), state == "limited", "{after}");
        }
    }
}
