//! The guides of the documentation, followed on real servers.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bridge::Bridge;
use crate::pages::block;
use crate::servers::synapse::synapse;

#[tokio::test]
#[ignore = "needs Synapse: tests/run"]
async fn the_matrix_guide_leads_to_a_message_in_the_room() {
    let reader = synapse().user("reader").await;
    let bridge = synapse().user("sms-bridge").await;
    let room = reader.room(json!({ "invite": [bridge.id] })).await;
    let name = bridge.id.trim_start_matches('@').split(':').next().unwrap();
    let script = block("docs/destinations.md", "bash", "m.login.password")
        .replace("https://matrix.example.com", &synapse().url())
        .replace("user=sms-bridge", &format!("user={name}"));
    let daemon = Bridge::configured("");
    let mut bash = Command::new("bash")
        .args(["-eu", "-o", "pipefail", "-c", &script])
        .current_dir(daemon.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(b"password\n").unwrap();
    let output = bash.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&bridge.id) && said.lines().any(|line| line == room),
        "{said}"
    );

    let destination = block("docs/destinations.md", "toml", "access_token")
        .replace("https://matrix.example.com", &synapse().url())
        .replace("!abc:example.com", &room)
        .replace("credential =", "file =");
    daemon.configure(&format!("{destination}\n[routing]\nunmatched = [\"room\"]\n"));
    let mut daemon = daemon;
    daemon.run();
    let (code, out, err) = daemon.command(&["destination", "test", "room"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(reader.messages(&room).await.len(), 1);
}
