//! The properties that a restart through a socket unit relies on; `tests/system` tests the units under a real systemd.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::bridge::refid;
use crate::bridge::{Bridge, TIMEOUT};

const CONSOLE: &str = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

#[test]
fn an_idle_connection_is_still_answered_when_the_daemon_stops() {
    let mut bridge = Bridge::start(CONSOLE);
    let address = bridge.url("").replace("http://", "");
    let mut quiet = TcpStream::connect(address).unwrap();
    quiet.set_read_timeout(Some(TIMEOUT)).unwrap();
    // Connections are accepted in order: once this one is answered, the daemon has accepted the idle one, too.
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "before").0, 200);
    bridge.signal("TERM");
    bridge.logged("stopping");
    let body = Bridge::body(&refid(2), "+13035550100", "after").to_string();
    let length = body.len();
    let head = "POST /inbound/intelepeer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    write!(quiet, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    quiet.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert!(bridge.end().success());
}
