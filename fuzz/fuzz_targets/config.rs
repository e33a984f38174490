//! Any input is a configuration or a list of problems, and no problem is empty.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use smsbridge::config::{Config, Outside, Purpose};

fuzz_target!(|text: &str| {
    // The input can name files as secrets: none of them is read.
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
