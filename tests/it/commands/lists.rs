//! Lists of messages and deliveries, and their ids.

use super::*;

#[test]
fn messages_are_listed_filtered_and_shown_with_every_attempt() {
    let (bridge, id) = with_text("urgent: the pump is down");
    assert_eq!(
        bridge
            .post_message("11111111111111111111111111111111", "1-1234", "Hello")
            .0,
        200
    );

    let all = run(&bridge, 0, &["message", "list"]);
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(
        all.contains("urgent: the pump is down") && all.contains("Front door alarm"),
        "{all}"
    );
    for (filter, found) in [
        (vec!["--text", "PUMP"], 1),
        (vec!["--from", "1-1234"], 1),
        (vec!["--from", "+1303*", "--state", "pending"], 1),
        (
            vec!["--to", "+13038675309", "--source", "intelepeer", "--since", "1h"],
            2,
        ),
        (vec!["--until", "1h"], 0),
        (vec!["--since", "2020-01-01T00:00:00Z", "--limit", "1"], 1),
    ] {
        let page = run_json(&bridge, 0, &[&["message", "list"], filter.as_slice()].concat());
        assert_eq!(page["items"].as_array().unwrap().len(), found, "{filter:?}");
    }

    let first = run_json(&bridge, 0, &["message", "list", "--limit", "1"]);
    let cursor = first["next"].as_str().unwrap();
    let second = run_json(&bridge, 0, &["message", "list", "--cursor", cursor]);
    assert_eq!(second["items"][0]["id"], id.as_str());

    let shown = run(&bridge, 0, &["message", "show", &id]);
    for words in [
        "+13035550100 (Front door alarm)",
        "ABCDEF1234567890ABCDEF1234567890",
        "  urgent: the pump is down",
        "to crm: pending: destination crm is down: cannot reach 127.0.0.1",
        "; next attempt ",
        "transient  cannot reach 127.0.0.1:",
        "to screen: delivered at ",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn json_output_equals_the_api_s() {
    let (bridge, id) = with_text("urgent");
    let message = run_json(&bridge, 0, &["message", "show", &id]);
    for key in [
        "id",
        "provider_id",
        "source",
        "from",
        "from_name",
        "to",
        "text",
        "received_at",
        "state",
        "deliveries",
    ] {
        assert!(message.get(key).is_some(), "{key}: {message}");
    }
    let delivery = run_json(&bridge, 0, &["delivery", "show", &format!("{id}-1")]);
    for key in [
        "id",
        "destination",
        "state",
        "created_at",
        "due",
        "attempts_made",
        "attempts",
    ] {
        assert!(delivery.get(key).is_some(), "{key}: {delivery}");
    }
    let status = run_json(&bridge, 0, &["status"]);
    for key in [
        "version",
        "started_at",
        "now",
        "ready",
        "problems",
        "store",
        "messages",
        "destinations",
    ] {
        assert!(status.get(key).is_some(), "{key}: {status}");
    }
    let destinations = run_json(&bridge, 0, &["destination", "list"]);
    assert_eq!(destinations.as_array().unwrap().len(), 2);
    assert_eq!(run_json(&bridge, 0, &["reload"])["changes"], json!([]));
}

#[test]
fn an_id_may_be_a_unique_prefix_or_latest() {
    let (bridge, first) = with_text("urgent");
    let (status, body) = bridge.post_message("BBCDEF1234567890ABCDEF1234567890", "+13035550101", "hello");
    assert_eq!(status, 200, "{body}");
    let second = body["id"].as_str().unwrap().to_owned();
    let shown = |command: &[&str]| run_json(&bridge, 0, command)["id"].as_str().unwrap().to_owned();
    let alike = first
        .bytes()
        .zip(second.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    for (text, id) in [
        ("latest", &second),
        (&second[..=alike], &second),
        (&first[..=alike].to_uppercase(), &first),
    ] {
        assert_eq!(shown(&["message", "show", text]), *id, "{text}");
    }
    assert_eq!(shown(&["delivery", "show", "latest"]), format!("{second}-1"));
    assert_eq!(
        shown(&["delivery", "show", &second[..=alike]]),
        format!("{second}-1")
    );
    let two = format!("{}-2", &first[..=alike]);
    assert_eq!(shown(&["delivery", "show", &two]), format!("{first}-2"));
    let several = complaint(&bridge, 2, &["delivery", "show", &first[..=alike]]);
    assert!(
        several.contains("has 2 deliveries") && several.contains("to crm"),
        "{several}"
    );

    let short = &first[..6];
    let ambiguous = complaint(&bridge, 2, &["message", "show", short]);
    for id in [&first, &second] {
        assert!(ambiguous.contains(&id[..=alike]), "{ambiguous}");
    }
    let none = complaint(&bridge, 1, &["message", "show", "ffffffffffff"]);
    assert!(
        none.contains("no message id begins with `ffffffffffff`"),
        "{none}"
    );
    assert!(complaint(&bridge, 2, &["message", "show", "0193a"]).contains("at least the first 6"));

    let resent = run(
        &bridge,
        0,
        &["message", "resend", "latest", "--destination", "screen"],
    );
    assert!(resent.starts_with("1 delivery created:\n"), "{resent}");
    let one = format!("{}-1", &first[..=alike]);
    assert_eq!(
        run(&bridge, 0, &["delivery", "discard", &one]),
        "1 delivery discarded\n"
    );
    let revived = run(&bridge, 0, &["delivery", "retry", &one]);
    assert!(revived.starts_with(&format!("{first}-1 to crm: ")), "{revived}");
}

/// A search that takes long ends its page early, also before it has found anything.
#[test]
fn a_list_continues_after_an_empty_page() {
    use std::io::{Read as _, Write as _};

    let bridge = Bridge::configured(TWO);
    std::fs::create_dir(bridge.store()).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(bridge.store().join("admin.sock")).unwrap();
    let daemon = std::thread::spawn(move || {
        let pages = [
            r#"{"items":[],"next":"41"}"#,
            r#"{"items":[],"next":"17"}"#,
            r#"{"items":[],"next":null}"#,
        ];
        pages.map(|page| {
            let (mut stream, _) = socket.accept().unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).unwrap();
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
            write!(stream, "{head}{}\r\n\r\n{page}", page.len()).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        })
    });
    let list = ["message", "list", "--text", "alarm", "--cursor", "99"];
    let (status, _, said) = bridge.command(&list);
    assert!(status == 0 && said.contains("No messages match"), "{said}");
    assert!(!said.contains("--cursor"), "{said}");
    let requests = daemon.join().unwrap();
    for (request, cursor) in requests.iter().zip(["99", "41", "17"]) {
        let line = request.lines().next().unwrap();
        assert!(
            line.contains("text=alarm") && line.contains(&format!("cursor={cursor}")),
            "{line}"
        );
        assert_eq!(line.matches("cursor=").count(), 1, "{line}");
    }
}
