//! The operator's commands against a real daemon.

use serde_json::{Value, json};

use crate::bridge::{Bridge, head, wait_for};

mod intelepeer;
mod lists;
mod progress;
mod service;

/// A destination that works, one that refuses connections, and a route to both for urgent messages.
const TWO: &str = "[destination.screen]\nkind = \"console\"\n\
     [destination.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:1/crm\"\n\
     retry = { initial = \"1h\", max = \"1h\", give_up_after = \"3d\" }\n\
     [contacts]\n\"+13035550100\" = \"Front door alarm\"\n\
     [[route]]\nname = \"urgent\"\nmessage = \"(?i)urgent\"\ndeliver = [\"crm\", \"screen\"]\n\
     [routing]\nunmatched = [\"screen\"]\n";

/// Contains control sequences of terminals, and a line that looks like one of our fields.
const HOSTILE: &str = "urgent \u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\r\nstate        delivered";

/// Runs a command that must end with this status, and returns its output.
#[track_caller]
fn run(bridge: &Bridge, status: i32, arguments: &[&str]) -> String {
    let (code, out, err) = bridge.command(arguments);
    assert_eq!(code, status, "{arguments:?}: {out}{err}");
    out
}

/// Runs a command that must fail; returns standard error.
#[track_caller]
fn complaint(bridge: &Bridge, status: i32, arguments: &[&str]) -> String {
    let (code, out, err) = bridge.command(arguments);
    assert_eq!(code, status, "{arguments:?}: {out}{err}");
    assert!(err.contains("error: "), "{arguments:?}: {err}");
    err
}

#[track_caller]
fn run_json(bridge: &Bridge, status: i32, arguments: &[&str]) -> Value {
    let out = run(bridge, status, &[arguments, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

/// A daemon that has accepted a message, and the message's id after the first attempts.
fn with_text(text: &str) -> (Bridge, String) {
    let bridge = Bridge::start(TWO);
    let (status, body) = bridge.post_message("ABCDEF1234567890ABCDEF1234567890", "+13035550100", text);
    assert_eq!(status, 200, "{body}");
    let id = body["id"].as_str().unwrap().to_owned();
    wait_for("the first attempts", || {
        let message = run_json(&bridge, 0, &["message", "show", &id]);
        let tried = |delivery: &Value| delivery["attempts_made"] == 1;
        message["deliveries"]
            .as_array()
            .unwrap()
            .iter()
            .all(tried)
            .then_some(())
    });
    (bridge, id)
}

fn assert_harmless(shown: &str) {
    let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!shown.contains(acts), "{shown:?}");
}

#[test]
fn a_hostile_message_cannot_control_the_terminal() {
    let (bridge, id) = with_text(HOSTILE);
    for command in [
        vec!["message", "list"],
        vec!["message", "show", &id],
        vec!["delivery", "list"],
    ] {
        let shown = run(&bridge, 0, &command);
        assert_harmless(&shown);
        assert!(
            command[0] == "delivery" || shown.contains("[U+001B][2J"),
            "{shown}"
        );
    }
    let shown = run(&bridge, 0, &["message", "show", &id]);
    assert_eq!(
        shown.lines().filter(|line| line.starts_with("state ")).count(),
        1,
        "{shown}"
    );
    assert_eq!(run(&bridge, 0, &["message", "list"]).lines().count(), 2);
    for command in [vec!["message", "show", &id], vec!["message", "list"]] {
        let json = run(&bridge, 0, &[&command, &["--json"][..]].concat());
        assert_harmless(&json);
        let json: Value = serde_json::from_str(&json).unwrap();
        let message = json["items"].get(0).unwrap_or(&json);
        assert_eq!(message["text"], HOSTILE, "the document is the same");
    }
    let dry = [
        "route",
        "--from",
        "Ban\u{202e}k",
        "--to",
        "1-1234",
        "--message",
        HOSTILE,
        "--render",
    ];
    assert_harmless(&run(&bridge, 0, &dry));
    let json = run(&bridge, 0, &[&dry[..], &["--json"]].concat());
    assert_harmless(&json);
    let json: Value = serde_json::from_str(&json).unwrap();
    let payload = json["destinations"][0]["payload"].as_str().unwrap();
    let payload: Value = serde_json::from_str(payload).unwrap();
    assert_eq!(payload["text"], HOSTILE);
}

/// Arguments and configuration files may contain hostile values, too.
#[test]
fn no_error_message_controls_the_terminal() {
    let bridge = Bridge::configured("\"\\u001B[2J\\u202E\" = 1\n[routing]\nunmatched = [\"\\u009B31m\"]\n");
    for arguments in [
        vec!["check"],
        vec!["route", "--from", "1-1234", "--to", "1-1234", "--message", "x"],
        vec!["delivery", "show", "\u{1b}[2J\u{202e}"],
        vec!["\u{9b}2J"],
        vec!["message", "list", "--state", "\u{1b}]0;owned\u{7}"],
    ] {
        let (code, out, err) = bridge.command(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert_harmless(&(out + &err));
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_smsbridge"))
        .args(["status", "--config", "/nowhere/\u{1b}[2J"])
        .output()
        .unwrap();
    assert_harmless(&String::from_utf8(output.stderr).unwrap());
}

#[test]
fn deliveries_are_listed_discarded_and_retried() {
    let (bridge, id) = with_text("urgent");
    let (crm, screen) = (format!("{id}-1"), format!("{id}-2"));
    let listed = run(
        &bridge,
        0,
        &["delivery", "list", "--destination", "crm", "--state", "pending"],
    );
    assert!(listed.contains(&crm) && !listed.contains(&screen), "{listed}");
    let shown = run(&bridge, 0, &["delivery", "show", &crm]);
    assert!(
        shown.contains("tried        once") && shown.contains("transient  cannot reach"),
        "{shown}"
    );

    // By destination, a script has to say --yes.
    let refused = complaint(&bridge, 2, &["delivery", "discard", "--destination", "crm"]);
    assert!(
        refused.contains("1 pending delivery of crm") && refused.contains("--yes"),
        "{refused}"
    );
    assert_eq!(
        run_json(&bridge, 0, &["delivery", "show", &crm])["state"],
        "pending"
    );

    let done = run(
        &bridge,
        0,
        &["delivery", "discard", "--destination", "crm", "--yes"],
    );
    assert_eq!(done, "1 delivery discarded\n");
    assert_eq!(
        run_json(&bridge, 0, &["delivery", "show", &crm])["reason"],
        "discarded by the operator"
    );
    // A discarded delivery needs no attention: only a retry by id selects it.
    let rest = run_json(
        &bridge,
        0,
        &["delivery", "retry", "--destination", "crm", "--yes"],
    );
    assert_eq!(rest["deliveries"], 0);
    let revived = run_json(&bridge, 0, &["delivery", "retry", &crm]);
    assert_eq!(revived["deliveries"], 1);
    wait_for("another attempt", || {
        let delivery = run_json(&bridge, 0, &["delivery", "show", &crm]);
        (delivery["attempts_made"] == 2).then_some(())
    });
    assert_eq!(
        run(&bridge, 0, &["delivery", "discard", &crm]),
        "1 delivery discarded\n"
    );
    assert_eq!(
        run(&bridge, 0, &["delivery", "retry", &crm]),
        format!("{crm} to crm: attempted now\n")
    );

    // Dead deliveries need no confirmation.
    let refused = complaint(
        &bridge,
        2,
        &["delivery", "discard", "--destination", "crm", "--state", "dead"],
    );
    assert!(refused.contains("given up already"), "{refused}");

    // The exit status shows that not all deliveries were changed; those that were stay changed.
    let (code, said, words) = bridge.command(&["delivery", "retry", &screen]);
    assert_eq!(
        (code, said),
        (1, format!("{screen} to screen: delivered already\n"))
    );
    assert!(words.contains("1 delivery not changed"), "{words}");
}

#[test]
fn a_message_can_be_resent() {
    let (bridge, id) = with_text("urgent");
    // Pending at crm, delivered to the screen: delivered messages are resent only to a named destination.
    let words = complaint(&bridge, 2, &["message", "resend", &id]);
    assert!(words.contains("name the destinations"), "{words}");
    let said = run(&bridge, 0, &["message", "resend", &id, "--destination", "screen"]);
    let added = format!("1 delivery created:\n  {id}-3\nalready delivered to screen at ");
    assert!(said.starts_with(&added), "{said}");
    let said = run(&bridge, 0, &["message", "resend", &id, "--destination", "crm"]);
    assert_eq!(
        said,
        format!("1 delivery created:\n  {id}-4\nanother delivery to crm is pending\n")
    );
    wait_for("the message on the screen twice", || {
        (bridge
            .console()
            .iter()
            .filter(|line| line.contains("urgent"))
            .count()
            == 2)
            .then_some(())
    });
    assert!(
        complaint(&bridge, 1, &["message", "resend", &id, "--destination", "nobody"]).contains("`nobody`")
    );
}

#[test]
fn a_message_whose_route_has_no_destination_is_kept() {
    let quiet = "[[route]]\nname = \"quiet\"\nmessage = \"you have won\"\ndeliver = []\n[routing]";
    let bridge = Bridge::start(&TWO.replace("[routing]", quiet));
    let (_, body) = bridge.post_message(&"1".repeat(32), "+19005550100", "you have won");
    let id = body["id"].as_str().unwrap();
    bridge.post_message(&"2".repeat(32), "+13035550100", "Hello");
    wait_for("the other one to be delivered", || {
        let found = run_json(&bridge, 0, &["message", "list", "--state", "delivered"]);
        let found = found["items"].as_array().unwrap();
        (found.len() == 1 && found[0]["id"] != id).then_some(())
    });
    let found = run_json(&bridge, 0, &["message", "list", "--state", "kept"]);
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(
        (&found["items"][0]["id"], &found["items"][0]["state"]),
        (&json!(id), &json!("kept"))
    );
    assert!(run(&bridge, 0, &["message", "list"]).contains("  kept "));
    assert!(run(&bridge, 0, &["message", "show", id]).contains("\nstate        kept\n"));
    let metrics = bridge.metrics();
    assert!(metrics.contains("smsbridge_messages_kept_total 1\n"), "{metrics}");
    assert!(
        metrics.contains("smsbridge_messages_unrouted_total 1\n"),
        "{metrics}"
    );
}

#[test]
fn destinations_are_tested_paused_and_resumed() {
    let bridge = Bridge::start(TWO);
    assert!(run(&bridge, 0, &["destination", "test", "screen"]).starts_with("delivered to screen in "));
    wait_for("the test message", || {
        bridge
            .console()
            .iter()
            .find(|line| line.contains("a test from smsbridge"))
            .cloned()
    });
    let failed = run(&bridge, 1, &["destination", "test", "crm"]);
    assert!(
        failed.starts_with("not delivered to crm in ") && failed.contains("transient"),
        "{failed}"
    );
    assert_eq!(
        run_json(&bridge, 1, &["destination", "test", "crm"])["delivered"],
        false
    );
    assert!(complaint(&bridge, 1, &["destination", "test", "nobody"]).contains("no destination `nobody`"));
    assert!(complaint(&bridge, 2, &["destination", "test", "no body"]).contains("not a usable name"));

    assert_eq!(
        run(&bridge, 0, &["destination", "pause", "screen"]),
        "screen is paused, 0 deliveries pending\n"
    );
    assert_eq!(bridge.post_message("1", "+13035550100", "Hello").0, 200);
    let listed = run(&bridge, 0, &["destination", "list"]);
    let line = listed.lines().find(|line| line.starts_with("screen")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().take(4).collect();
    assert_eq!(cells, ["screen", "paused", "-", "1"], "{listed}");
    assert!(run(&bridge, 0, &["status"]).contains("destination screen is paused by the operator; 1 pending"));
    run(&bridge, 0, &["destination", "resume", "screen"]);
    wait_for("the pending message", || {
        bridge
            .console()
            .iter()
            .find(|line| line.contains("Hello"))
            .cloned()
    });
}

#[test]
fn the_status_is_one_screen_with_the_problems_first() {
    let (bridge, _) = with_text("urgent");
    let screen = run(&bridge, 0, &["status"]);
    let lines: Vec<&str> = screen.lines().collect();
    assert!(
        lines[0].starts_with(concat!("smsbridge ", env!("CARGO_PKG_VERSION"), ", up for ")),
        "{screen}"
    );
    assert!(lines[0].ends_with("ready, 1 problem"), "{screen}");
    assert!(
        lines[1].starts_with("  ! destination crm has been down for 0s: cannot reach 127.0.0.1:"),
        "{screen}"
    );
    assert!(
        screen.contains("1 accepted in total") && screen.contains("1 pending, 1 delivered, 0 dead"),
        "{screen}"
    );
    assert!(
        screen.contains(
            "1.0, 0.2, 0.1 accepted; 1.0, 0.2, 0.1 delivered (over 1, 5, 15 minutes; counted since the start)"
        ),
        "{screen}"
    );
    assert!(screen.contains(" free") && lines.len() <= 12, "{screen}");
}

#[test]
fn options_of_a_command_come_before_the_global_ones() {
    let bridge = Bridge::configured(TWO);
    let help = run(&bridge, 0, &["message", "list", "--help"]);
    let at = |word: &str| help.find(word).unwrap_or_else(|| panic!("{word}: {help}"));
    let order = [
        "  --from",
        "  --cursor",
        "--help",
        "Global options:",
        "--config",
        "--json",
        "Examples:",
    ];
    assert!(order.windows(2).all(|two| at(two[0]) < at(two[1])), "{help}");
}

#[test]
fn the_routes_are_listed_without_a_daemon() {
    let more = "[[route]]\nname = \"desk\"\nto = [\"+13038675309\", \"1-1234\"]\nfrom = [\"+1303*\"]\n\
         unless = { message = \"(?i)stop\" }\ndeliver = []\ncontinue = true\ntemplate = \"{{ text }}\"\n\
         [[route]]\nname = \"rest\"\ndeliver = [\"screen\"]\n[routing]";
    let bridge = Bridge::configured(&TWO.replace("[routing]", more));
    assert_eq!(
        run(&bridge, 0, &["route"]),
        "ROUTE        DELIVERS TO  THEN      TEMPLATE  WHEN\n\
         urgent       crm, screen  stop      -         message matches `(?i)urgent`\n\
         desk         (kept)       continue  own       to (+13038675309 or 1-1234) and from +1303*, unless message matches `(?i)stop`\n\
         rest         screen       stop      -         always\n\
         (unmatched)  screen       stop      -         no route matched\n"
    );
    let shown = run_json(&bridge, 0, &["route"]);
    assert_eq!(shown["routes"][1]["to"], json!(["+13038675309", "1-1234"]));
    assert_eq!(shown["unmatched"], json!(["screen"]));
    // A truncated JSON document is not valid.
    for half in [&["--from", "1-1234"][..], &["--message", "x"], &["--render"]] {
        let (status, _, err) = bridge.command(&[&["route"], half].concat());
        assert_eq!(status, 2, "{half:?}: {err}");
        assert!(err.contains("--"), "{err}");
    }
}

#[test]
fn a_reload_says_what_changed_or_what_is_wrong() {
    let bridge = Bridge::start(TWO);
    assert_eq!(run(&bridge, 0, &["reload"]), "reloaded: nothing changed\n");
    bridge.configure(&TWO.replace("console", "console\"\ntimeout = \"7s"));
    assert_eq!(
        run(&bridge, 0, &["reload"]),
        "reloaded:\n  destination.screen changed\n"
    );

    let wrong = TWO.replace("deliver = [\"crm\"", "deliver = [\"crmm\"");
    bridge.configure(&wrong);
    let line = (head() + &wrong)
        .lines()
        .take_while(|line| !line.starts_with("deliver"))
        .count()
        + 1;
    let words = complaint(&bridge, 2, &["reload"]);
    assert!(
        words.contains(&format!("config.toml:{line}:12: route.urgent.deliver")),
        "{words}"
    );
    assert!(words.ends_with("nothing was changed\n"), "{words}");
    let problems = run_json(&bridge, 2, &["reload"]);
    assert_eq!(problems["problems"][0]["line"], line);
    // The running daemon continues and still answers.
    let status = run(&bridge, 0, &["status"]);
    let problem = format!(
        "the last reload failed: {}",
        words.lines().next().unwrap().replace("smsbridge: error: ", "")
    );
    assert!(
        status.contains(&problem) && status.contains("untested: crm, screen"),
        "{status}"
    );
}

#[test]
fn a_command_without_a_running_daemon_says_so() {
    let mut bridge = Bridge::configured(TWO);
    for command in [
        vec!["status"],
        vec!["message", "list"],
        vec!["reload"],
        vec!["destination", "test", "crm"],
    ] {
        let words = complaint(&bridge, 3, &command);
        assert!(
            words.contains("the daemon is not running") && words.contains("`smsbridge serve --config /"),
            "{words}"
        );
    }
    // A killed daemon has left its socket behind.
    bridge.run();
    bridge.kill();
    assert!(complaint(&bridge, 3, &["status"]).contains("admin.sock: the daemon is not running"));
    // If the configuration does not name the socket, the command cannot know whether a daemon runs.
    for (file, why) in [
        ("", "names neither `admin.socket` nor `store.path`, and has "),
        ("[destination\n", "config.toml cannot be read ("),
    ] {
        std::fs::write(bridge.folder().join("config.toml"), file).unwrap();
        let said = complaint(&bridge, 3, &["status"]);
        assert!(
            said.contains(why) && said.contains("--config PATH") && !said.contains("not running"),
            "{said}"
        );
    }
    // An invalid configuration hides the path of the socket, too.
    bridge.configure("[admin]\nsocket = 7\n");
    assert!(complaint(&bridge, 2, &["status"]).contains("admin.socket"));
}

#[test]
fn missing_items_and_invalid_arguments_have_different_exit_codes() {
    let bridge = Bridge::start(TWO);
    let nothing = "0".repeat(32);
    assert!(complaint(&bridge, 1, &["message", "show", &nothing]).contains("no message 0000"));
    assert!(
        complaint(&bridge, 1, &["delivery", "show", &format!("{nothing}-1")]).contains("no delivery 0000")
    );
    assert!(complaint(&bridge, 2, &["message", "show", "0190"]).contains("32 hexadecimal digits"));
    assert!(complaint(&bridge, 2, &["message", "list", "--from", "+1*2"]).contains("`from`"));
    assert!(complaint(&bridge, 2, &["message", "list", "--since", "yesterday"]).contains("how long ago"));
    assert!(complaint(&bridge, 2, &["message", "list", "--state", "lost"]).contains("unrouted"));
    assert!(complaint(&bridge, 2, &["delivery", "retry"]).contains("--destination"));
    assert!(
        complaint(
            &bridge,
            1,
            &["delivery", "retry", "--destination", "nobody", "--yes"]
        )
        .contains("`nobody`")
    );
    assert_eq!(run(&bridge, 0, &["message", "list"]), "");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let bridge = Bridge::configured(TWO);
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&bridge, 0, &["completions", shell]);
        assert!(script.contains("detect-signature"), "{shell}");
    }
    assert!(run(&bridge, 0, &["man"]).contains(".TH smsbridge 1"));
    let folder = bridge.folder().join("man");
    run(&bridge, 0, &["man", "--out", folder.to_str().unwrap()]);
    for page in [
        "smsbridge",
        "smsbridge-message-list",
        "smsbridge-intelepeer-webhook-sync",
    ] {
        let text = std::fs::read_to_string(folder.join(page).with_extension("1")).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}
