//! The tests of the promises of `docs/reliability.md` that need neither root nor a service; the others are in
//! `tests/system/promises`. The name of each begins with the number of its promise.
//!
//! `cargo test` runs the quick form, seconds each. `tests/torture` runs the same code for long, and shows with
//! `--controls` that the tests fail without the protection.

#[path = "../common/aged.rs"]
mod aged;
mod backlog;
mod chaos;
pub mod clock;
mod damage;
mod durability;
mod expectations;
mod formats;
#[path = "../common/ledger.rs"]
mod ledger;
mod quotes;
mod restarts;
mod retries;
#[path = "../common/rng.rs"]
pub mod rng;
#[path = "../common/rounds.rs"]
mod rounds;
#[path = "../common/store_fixtures.rs"]
mod store_fixtures;
mod untrusted_input;
mod window;

use rounds::report;
pub use rounds::rounds;
