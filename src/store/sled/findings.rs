//! What was found wrong with the store, until the operator acknowledges it: in a file of its own, one finding a line,
//! so that it outlives the process and whatever happens to the database.

use std::io;
use std::path::{Path, PathBuf};

use super::Shared;
use super::folders::replace;

/// How many findings are kept; the daemon's log has them all.
const FINDINGS_MAX: usize = 100;

/// The file of the findings.
pub(super) struct Findings(PathBuf);

impl Findings {
    /// The file, and what is in it.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<String>)> {
        let path = folder.join("findings");
        let there = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes?,
        };
        let lines = String::from_utf8_lossy(&there);
        let found = lines.lines().filter(|line| !line.is_empty()).take(FINDINGS_MAX);
        Ok((Self(path), found.map(str::to_owned).collect()))
    }

    /// Writes them down in place of those that are there.
    pub(super) fn write(&self, findings: &[String]) -> io::Result<()> {
        let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
        replace(&self.0, &lines)
    }
}

/// Adds a finding unless it is there already; says whether it was added.
pub(super) fn add(findings: &mut Vec<String>, finding: &str) -> bool {
    let finding = finding.replace(['\n', '\r'], " ");
    let is_new = findings.len() < FINDINGS_MAX && !findings.contains(&finding);
    if is_new {
        findings.push(finding);
    }
    is_new
}

impl Shared {
    /// Something was found wrong: it is told until the operator acknowledges it, also after a restart.
    pub(super) fn report(&self, finding: impl AsRef<str>) {
        if self.status.find(finding.as_ref()) {
            self.write_findings();
        }
    }

    /// Forgets what was found. Says how many findings those were.
    pub(super) fn acknowledge(&self) -> u64 {
        let count = self.status.acknowledge();
        self.write_findings();
        count
    }

    fn write_findings(&self) {
        if let Err(error) = self.findings.write(&self.status.health().findings) {
            tracing::warn!(
                "the findings cannot be written down, and are forgotten at the next restart: {error}"
            );
        }
    }
}
