//! Loads a plan from a path, for `serve`, `check`, `route` and reloads.

use std::path::Path;

use super::Plan;
use crate::config::{Config, Outside, Problems, Purpose};

/// A plan and the warnings about its configuration.
pub struct Loaded {
    /// The compiled plan.
    pub plan: Plan,
    /// Only warnings.
    pub warnings: Problems,
}

/// Reads and compiles the configuration at `path`. A reload passes the running plan as `previous`.
///
/// # Errors
/// Every problem, including warnings, if at least one is an error.
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
