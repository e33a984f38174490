//! Facts about this process and its host, read from the kernel.

use std::time::Duration;

use crate::metrics::Metrics;
use crate::model::message::{Name, Timestamp};

/// The name of this host, if it can be the name of a node. From a system call, because the service's `/proc` contains
/// only processes (`ProcSubset=pid`).
pub(crate) fn host_name() -> Option<String> {
    let system = rustix::system::uname();
    let name: Name = system.nodename().to_str().ok()?.parse().ok()?;
    Some(name.to_string())
}

/// Reads the statistics of the kernel. Where they are not readable, the previous values stay.
pub(super) fn show(metrics: &Metrics, started_at: Timestamp) {
    let Ok(process) = procfs::process::Process::myself() else {
        return;
    };
    let (Ok(stat), Ok(files)) = (process.stat(), process.fd_count()) else {
        return;
    };
    let ticks = stat.utime + stat.stime;
    let cpu = Duration::from_millis(ticks * 1000 / procfs::ticks_per_second());
    let resident = stat.rss * procfs::page_size();
    let started = started_at.since(Timestamp::default()).as_secs_f64();
    metrics.show_process(cpu, resident, u64::try_from(files).unwrap_or(0), started);
}
