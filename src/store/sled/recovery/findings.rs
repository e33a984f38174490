//! Problems found in the store, kept until the operator acknowledges them: in a separate file with one finding per
//! line, so that they survive restarts and damage of the database.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::Shared;
use super::folders::replace;

/// Upper bound of the kept findings; the daemon's log has all of them.
const FINDINGS_MAX: usize = 100;

/// The file.
pub(in crate::store::sled) struct Findings {
    path: PathBuf,
    /// Whether it lacks findings because it could not be written.
    is_outdated: AtomicBool,
}

impl Findings {
    /// The file and its content.
    pub(in crate::store::sled) fn open(folder: &Path) -> io::Result<(Self, Vec<String>)> {
        let path = folder.join("findings");
        let there = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes?,
        };
        let lines = String::from_utf8_lossy(&there);
        let found = lines.lines().filter(|line| !line.is_empty()).take(FINDINGS_MAX);
        let is_outdated = AtomicBool::new(false);
        Ok((Self { path, is_outdated }, found.map(str::to_owned).collect()))
    }

    /// Writes the file.
    pub(in crate::store::sled) fn write(&self, findings: &[String]) -> io::Result<()> {
        let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
        replace(&self.path, &lines)
    }
}

/// Adds a finding unless it exists already. Returns true if it was added.
pub(in crate::store::sled) fn add(findings: &mut Vec<String>, finding: &str) -> bool {
    let finding = finding.replace(['\n', '\r'], " ");
    let is_new = findings.len() < FINDINGS_MAX && !findings.contains(&finding);
    if is_new {
        findings.push(finding);
    }
    is_new
}

impl Shared {
    /// Adds a finding. It is reported until the operator acknowledges it, also after a restart.
    pub(in crate::store::sled) fn report(&self, finding: impl AsRef<str>) {
        if self.status.find(finding.as_ref()) {
            self.write_findings();
        }
    }

    /// Removes all findings. Returns their number.
    pub(in crate::store::sled) fn acknowledge(&self) -> u64 {
        let count = self.status.acknowledge();
        self.write_findings();
        count
    }

    fn write_findings(&self) {
        let written = self.findings.write(&self.status.health().findings);
        let is_outdated = &self.findings.is_outdated;
        let was_outdated = is_outdated.swap(written.is_err(), Ordering::Relaxed);
        if let Err(error) = written
            && !was_outdated
        {
            tracing::warn!(
                "the findings cannot be written to their file; the store tries again every second: {error}"
            );
        }
    }

    /// Writes the file again if that failed: the next start would not find again what was repaired meanwhile.
    pub(in crate::store::sled) fn retry_findings(&self) {
        if self.findings.is_outdated.load(Ordering::Relaxed) {
            self.write_findings();
        }
    }
}
