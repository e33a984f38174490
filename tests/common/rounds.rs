//! How long the tests of the promises run, and what they report.

/// The number of rounds: `SMSBRIDGE_ROUNDS` if set, else `long` under
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

/// Prints a line that `tests/torture` collects.
pub fn report(promise: &str, words: &str) {
    println!("REPORT {promise}: {words}");
}
