//! Each promise of `docs/reliability.md`, P1 to P26 and P32, under a test whose name begins with its number.
//!
//! What runs in `tests/run` is the quick form, seconds each. `tests/torture` runs the same code for long, and shows
//! with `--controls` that the tests fail when what they test is switched off.

mod aged;
mod backlog;
mod cgroup;
mod chaos;
mod clock;
mod damage;
pub mod disk;
mod durability;
mod errors;
mod faults;
mod formats;
mod injection;
mod large;
mod ledger;
mod logging;
mod quotes;
mod restarts;
mod retries;
mod rng;
mod size;
mod untrusted_input;
mod window;

/// How many rounds, or how much of something: `SMSBRIDGE_ROUNDS` if that is given, else `long` under
/// `tests/torture` and `quick` otherwise.
pub fn rounds(quick: usize, long: usize) -> usize {
    let given = std::env::var("SMSBRIDGE_ROUNDS")
        .ok()
        .map(|rounds| rounds.parse().expect("SMSBRIDGE_ROUNDS is a number"));
    given.unwrap_or(if is_long() { long } else { quick })
}

fn is_long() -> bool {
    std::env::var_os("SMSBRIDGE_TORTURE").is_some()
}

/// What `tests/torture` collects: one line of what was done and seen.
fn report(promise: &str, words: &str) {
    println!("REPORT {promise}: {words}");
}

#[test]
fn every_promise_has_a_test() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")];
    let mut found = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let code = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = code.lines().map(str::trim_start).collect();
            for pair in lines.windows(2) {
                // The attribute makes it a test.
                let is_test = pair[0].starts_with("#[") && pair[0].contains("test");
                let name = pair[1].trim_start_matches("async ").strip_prefix("fn p");
                let number = name.and_then(|name| name.split('_').next()?.parse::<u32>().ok());
                found.extend(number.filter(|_| is_test));
            }
        }
    }
    let missing: Vec<u32> = (1..=26)
        .chain([32])
        .filter(|number| !found.contains(number))
        .collect();
    assert!(missing.is_empty(), "these promises have no test: {missing:?}");
}
