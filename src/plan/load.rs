//! From a path to a plan: the one way in for `serve`, `check`, `route` and a reload.

use std::path::Path;

use super::Plan;
use crate::config::{Config, Outside, Problems, Purpose};

/// A plan, and what is doubtful about its configuration.
pub struct Loaded {
    /// What runs.
    pub plan: Plan,
    /// Warnings only.
    pub warnings: Problems,
}

/// Reads and compiles the configuration at `path`; at a reload, with the plan that runs as `previous`.
///
/// # Errors
/// Every problem found, warnings included, when at least one is an error.
pub fn load(
    path: &Path,
    purpose: Purpose,
    outside: &Outside,
    previous: Option<&Plan>,
) -> Result<Loaded, Problems> {
    let (config, mut problems) = Config::load(path, purpose, outside)?;
    match Plan::compile(config, previous, &mut problems) {
        Some(plan) => Ok(Loaded {
            plan,
            warnings: problems.complete(),
        }),
        None => Err(problems.complete()),
    }
}
