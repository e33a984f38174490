//! The TLS settings of `docs/operations.md`.

use std::fs;

use crate::bridge::{Bridge, head};
use crate::pages::snippets;
use crate::servers::certificate::certificate;

#[test]
fn the_documented_tls_settings_are_valid() {
    let settings: Vec<String> = snippets("toml")
        .into_iter()
        .filter(|block| block.contains("tls = "))
        .collect();
    assert_eq!(settings.len(), 2, "{settings:#?}");
    for server in settings {
        let bridge = Bridge::configured("");
        certificate(bridge.folder(), 90);
        let rest = head().split_once("[store]").unwrap().1.to_owned();
        let config = format!(
            "{server}[store]{rest}[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n"
        );
        fs::write(bridge.folder().join("config.toml"), config).unwrap();
        let (status, _, said) = bridge.command(&["check"]);
        assert!(status == 0 && !said.contains("error"), "{server}{said}");
    }
}
