//! The daemon with failing system calls, and in a private mount namespace.

use std::process::Command;
use std::sync::atomic::Ordering;

use crate::bridge::Bridge;

impl Bridge {
    /// Starts the daemon with system calls that fail: each is an `inject` expression of strace.
    ///
    /// # Errors
    /// If the daemon ends instead of becoming ready.
    pub fn run_with_faults(&mut self, faults: &[&str]) -> Result<(), String> {
        let mut strace = Command::new("strace");
        // -D keeps the daemon our own child.
        strace
            .args(["-D", "-f", "-qq", "-o"])
            .arg(self.folder().join("strace"));
        // Tracing only these calls is many times faster. strace sometimes fails if it has to delay them, too.
        let has = |word: &str| faults.iter().any(|fault| fault.contains(word));
        if !has("delay") {
            let calls: Vec<&str> = faults
                .iter()
                .filter_map(|fault| fault.split(':').next())
                .collect();
            strace.args(["-e", &format!("trace={}", calls.join(","))]);
        }
        // With this filter strace sends no signals.
        if !has("delay") && !has("signal") {
            strace.arg("--seccomp-bpf");
        }
        for fault in faults {
            strace.args(["-e", &format!("inject={fault}")]);
        }
        strace.arg(env!("CARGO_BIN_EXE_smsbridge"));
        self.run_command(strace, &[], &[])
    }

    /// Stops or resumes reading the log, as a stopped reader of standard error would.
    pub fn stop_reading_log(&self, stopped: bool) {
        self.running().log.stopped.store(stopped, Ordering::Relaxed);
    }

    /// Stops reading the console.
    pub fn stop_reading_console(&self, stopped: bool) {
        self.running().console.stopped.store(stopped, Ordering::Relaxed);
    }
}

/// A shell that runs `script` in a private mount namespace; `$0` is the daemon's binary, and `$1`, … are the arguments
/// that the caller appends.
pub fn private_mounts(script: &str) -> Command {
    let mut unshare = Command::new("unshare");
    if crate::promises::disk::user() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_smsbridge")]);
    unshare
}
