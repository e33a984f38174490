//! Any text at all is a configuration or a list of problems, and each problem has words.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use smsbridge::config::{Config, Outside, Purpose};

fuzz_target!(|text: &str| {
    // Secrets are files that it could name: none of this machine's are read.
    if text.contains("file") || text.contains("certificate") || text.contains("credential") {
        return;
    }
    match Config::read(
        text,
        Path::new("/nowhere/config.toml"),
        Purpose::Check,
        &Outside::default(),
    ) {
        Ok((_, problems)) | Err(problems) => {
            assert!(
                problems
                    .all()
                    .iter()
                    .all(|problem| !problems.place(problem).to_string().is_empty())
            );
        }
    }
});
