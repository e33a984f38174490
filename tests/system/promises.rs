//! The tests of the promises that need root or strace; the others are in `tests/it/promises`.

#[path = "../common/aged.rs"]
mod aged;
mod cgroup;
pub mod disk;
mod errors;
mod faults;
mod inject;
mod injection;
mod interrupted;
mod large;
#[path = "../common/ledger.rs"]
mod ledger;
mod logging;
mod power_cut;
#[path = "../common/rng.rs"]
pub mod rng;
#[path = "../common/rounds.rs"]
mod rounds;
mod size;
#[path = "../common/store_fixtures.rs"]
mod store_fixtures;
mod window;

use rounds::{is_long, report, rounds};
