//! `size` and `purge`: disk space of the binary, and of a store after a purge.

use anyhow::Result;

use super::{Run, fresh};
use crate::daemon::{BINARY, store_path};
use crate::fill::Fill;
use crate::report::{Report, Target};

/// The binary as it is built.
pub fn size(report: &mut Report) -> Result<()> {
    let bytes = std::fs::metadata(BINARY)?.len();
    report.add(
        "size",
        "binary, stripped",
        (bytes as f64 / f64::from(1 << 20), "MiB"),
        Target::AtMost(15.0),
        "",
    );
    Ok(())
}

/// A peak of messages that are all delivered and deleted, in a store that stays open.
pub fn purge(run: &Run, report: &mut Report) -> Result<()> {
    let folder = fresh(&run.folder, "purge")?;
    let messages = if run.full { 1_000_000 } else { 50_000 };
    let fill = Fill {
        store: store_path(&folder),
        messages,
        purge: true,
    };
    let filled = fill.run()?;
    let what = format!("on disk after {messages} were delivered and deleted");
    let detail = format!(
        "{:.0} MiB at the peak, filled in {:.0} s, emptied in {:.0} s",
        filled.mebibytes_full, filled.seconds, filled.seconds_purge
    );
    let target = Target::AtMost(64.0);
    if run.full {
        report.add("purge", what, (filled.mebibytes_purged, "MiB"), target, detail);
    } else {
        report.note("purge", what, (filled.mebibytes_purged, "MiB"), detail);
    }
    Ok(())
}
