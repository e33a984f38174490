//! `deliver`: from the carrier's POST to the destination's, one POST per message.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Run, fresh};
use crate::bare::{self, Bare};
use crate::daemon::Daemon;
use crate::load::Load;
use crate::process::Server;
use crate::report::{Report, Target, median};
use crate::sink::{self, Received};

const YARDSTICK: &str = "deliver";

/// Time without an arrival after which the missing messages count as lost.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// Measures it.
pub fn measure(run: &Run, report: &mut Report) -> Result<()> {
    let folder = fresh(&run.folder, YARDSTICK)?;
    let sink = Server::start(sink::ROLE, &())?;
    let straight = Server::start(bare::ROLE, &Bare::Straight(sink.address))?;
    // A typical configuration for a fast internal server.
    let config = format!(
        "[destination.crm]\nkind = \"webhook\"\nurl = \"http://{}/\"\nconcurrency = 64\n\
         [[route]]\nname = \"all\"\ndeliver = [\"crm\"]\n[routing]\nunmatched = [\"crm\"]",
        sink.address
    );
    let daemon = Daemon::start(&folder, &config)?;
    throughput(run, (&straight, &daemon, &sink), report)?;
    latency(run, &daemon, &sink, report)
}

fn throughput(
    run: &Run,
    (straight, daemon, sink): (&Server, &Daemon, &Server),
    report: &mut Report,
) -> Result<()> {
    let (mut ratios, mut rates, mut straight_rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lost, mut twice) = (0, 0);
    for _ in 0..run.rounds {
        let (through, _) = carried(Load::flat_out(straight.address, run.seconds), sink)?;
        let (rate, [missing, repeated]) = carried(Load::flat_out(daemon.public, run.seconds), sink)?;
        ratios.push(rate / through);
        rates.push(rate);
        straight_rates.push(through);
        lost += missing;
        twice += repeated;
    }
    report.note(YARDSTICK, "straight", (median(&straight_rates), "/s"), "");
    report.add(
        YARDSTICK,
        "delivered / straight",
        (median(&ratios), "x"),
        Target::AtLeast(0.50),
        format!("{:.0}/s", median(&rates)),
    );
    report.add(
        YARDSTICK,
        "messages lost",
        (lost as f64, ""),
        Target::AtMost(0.0),
        format!("{twice} came twice"),
    );
    Ok(())
}

/// Messages per second from the first POST to the last arrival; and the numbers of lost and repeated messages.
fn carried(load: Load, sink: &Server) -> Result<(f64, [u64; 2])> {
    sink::reset(sink.address)?;
    let posted = load.run()?;
    ensure!(posted.refused == 0, "{} requests were refused", posted.refused);
    let Received {
        unique, total, last, ..
    } = sink::wait_for(sink.address, posted.accepted, WAIT_MAX)?;
    let seconds = last.saturating_sub(posted.began) as f64 / 1e6;
    let lost = posted.accepted.saturating_sub(unique);
    Ok((unique as f64 / seconds, [lost, total - unique]))
}

fn latency(run: &Run, daemon: &Daemon, sink: &Server, report: &mut Report) -> Result<()> {
    sink::reset(sink.address)?;
    let posted = Load::at(daemon.public, 100.0, run.seconds * 3.0).run()?;
    let received = sink::wait_for(sink.address, posted.accepted, WAIT_MAX)?;
    let detail = format!(
        "{} messages; accepted within {:.1} ms (p50)",
        received.unique, posted.p50
    );
    for (what, measured, most) in [
        ("carrier's POST to the sink at 100/s, p50", received.p50, 5.0),
        ("carrier's POST to the sink at 100/s, p99", received.p99, 25.0),
    ] {
        report.add(
            YARDSTICK,
            what,
            (measured, "ms"),
            Target::AtMost(most),
            detail.as_str(),
        );
    }
    Ok(())
}
