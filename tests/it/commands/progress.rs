//! Progress display: shown at a terminal only.

use std::process::{Command, Stdio};

use crate::bridge::Bridge;

use super::{TWO, run};

/// Runs a command with all three streams at a terminal and returns what it wrote, with control sequences.
fn at_a_terminal(bridge: &Bridge, arguments: &str) -> String {
    let typed = format!("{} {arguments}", env!("CARGO_BIN_EXE_smsbridge"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &typed, "/dev/null"])
        .env("TERM", "xterm")
        .current_dir(bridge.folder())
        .stdin(Stdio::null())
        .output()
        .expect("`script` is missing: it is in Debian's bsdutils");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{typed}: {shown}");
    shown
}

#[test]
fn progress_is_shown_at_a_terminal_and_nowhere_else() {
    let mut bridge = Bridge::start(TWO);
    assert_eq!(bridge.post_message("1", "+13035550100", "Hello").0, 200);
    let backup = at_a_terminal(&bridge, "backup copy");
    assert!(
        backup.contains("receiving") && backup.contains("checking ["),
        "{backup:?}"
    );
    assert!(backup.contains("1 messages,"), "{backup:?}");
    let retry = at_a_terminal(&bridge, "delivery retry --destination crm --yes");
    assert!(retry.contains("retrying"), "{retry:?}");
    assert!(retry.contains("0 deliveries due now"), "{retry:?}");

    let quiet = at_a_terminal(&bridge, "--quiet backup quiet-copy");
    assert!(
        !quiet.contains("receiving") && !quiet.contains('\u{1b}'),
        "{quiet:?}"
    );
    let (_, _, piped) = bridge.command(&["backup", bridge.folder().join("piped").to_str().unwrap()]);
    assert_eq!(piped, "");
    run(
        &bridge,
        0,
        &["delivery", "retry", "--destination", "crm", "--yes"],
    );

    bridge.stop();
    std::fs::rename(bridge.folder().join("data"), bridge.folder().join("old")).unwrap();
    let restore = at_a_terminal(&bridge, "restore copy");
    assert!(
        restore.contains("checking [") && restore.contains("restoring ["),
        "{restore:?}"
    );
}
