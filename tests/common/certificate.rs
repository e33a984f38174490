//! A certificate for a test, and a carrier that trusts it: curl.

use std::path::Path;
use std::process::Command;

use crate::bridge::Bridge;

/// Makes `cert.pem`, a self-signed certificate for `localhost` and `sms.example.com`, and `key.pem`.
pub fn certificate(folder: &Path, days: u32) {
    let output = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(' '))
        .args(["-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,DNS:sms.example.com"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-days", &days.to_string()])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .expect("openssl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// curl in this folder, trusting only its `cert.pem`.
pub fn curl(folder: &Path) -> Command {
    let mut curl = Command::new("curl");
    curl.args("--silent --show-error --max-time 20 --noproxy * --cacert cert.pem".split(' '))
        .current_dir(folder);
    curl
}

/// The keys after the head of a configuration with TLS.
pub const CONFIG: &str = "[server.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n\
    [destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";

pub fn bridge() -> Bridge {
    let bridge = Bridge::configured(CONFIG);
    certificate(bridge.folder(), 90);
    bridge
}
