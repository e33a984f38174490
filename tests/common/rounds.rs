//! How long the tests of the promises run, and what they report.

/// How many rounds, or how much of something: `SMSBRIDGE_ROUNDS` if that is given, else `long` under
/// `tests/torture` and `quick` otherwise.
pub fn rounds(quick: usize, long: usize) -> usize {
    let given = std::env::var("SMSBRIDGE_ROUNDS")
        .ok()
        .map(|rounds| rounds.parse().expect("SMSBRIDGE_ROUNDS is a number"));
    given.unwrap_or(if is_long() { long } else { quick })
}

pub fn is_long() -> bool {
    std::env::var_os("SMSBRIDGE_TORTURE").is_some()
}

/// What `tests/torture` collects: one line of what was done and seen.
pub fn report(promise: &str, words: &str) {
    println!("REPORT {promise}: {words}");
}
