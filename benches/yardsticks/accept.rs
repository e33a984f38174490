//! `accept`: how fast messages are stored and acknowledged.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Run, fresh};
use crate::bare::{self, Bare};
use crate::daemon::Daemon;
use crate::disk;
use crate::load::Load;
use crate::process::Server;
use crate::report::{Report, Target, median};

const YARDSTICK: &str = "accept";

/// Messages without a delivery.
const KEPT: &str = "[destination.desk]\nkind = \"console\"\n\
    [[route]]\nname = \"all\"\ndeliver = []\n[routing]\nunmatched = [\"desk\"]";

/// One delivery for each message, to a paused destination.
const PAUSED: &str = "[destination.desk]\nkind = \"console\"\n\
    [[route]]\nname = \"all\"\ndeliver = [\"desk\"]\n[routing]\nunmatched = [\"desk\"]";

/// Measures it.
pub fn measure(run: &Run, report: &mut Report) -> Result<()> {
    let folder = fresh(&run.folder, YARDSTICK)?;
    let contestants = Contestants::start(&folder)?;
    throughput(run, &contestants, report)?;
    latency(run, &contestants, &folder, report)
}

struct Contestants {
    parse: Server,
    hand_over: Server,
    log: Server,
    kept: Daemon,
    paused: Daemon,
}

impl Contestants {
    fn start(folder: &Path) -> Result<Self> {
        let paused = Daemon::start(&fresh(folder, "paused")?, PAUSED)?;
        paused.tell_destination("desk", "pause")?;
        Ok(Self {
            parse: Server::start(bare::ROLE, &Bare::Parse)?,
            hand_over: Server::start(bare::ROLE, &Bare::HandOver)?,
            log: Server::start(bare::ROLE, &Bare::Log(folder.join("raw")))?,
            kept: Daemon::start(&fresh(folder, "unrouted")?, KEPT)?,
            paused,
        })
    }
}

/// Measures in rounds and computes ratios within a round, because the speed of the machine varies over minutes.
fn throughput(run: &Run, contestants: &Contestants, report: &mut Report) -> Result<()> {
    let addresses = [
        contestants.parse.address,
        contestants.hand_over.address,
        contestants.log.address,
        contestants.kept.public,
        contestants.paused.public,
    ];
    let mut rounds = Vec::new();
    for _ in 0..run.rounds {
        let mut rates = [0.0; 5];
        for (rate, address) in rates.iter_mut().zip(addresses) {
            let posted = Load::flat_out(address, run.seconds).run()?;
            ensure!(posted.refused == 0, "{} requests were refused", posted.refused);
            *rate = posted.per_second();
        }
        rounds.push(rates);
    }
    let rates = |at: usize| median(&rounds.iter().map(|rates| rates[at]).collect::<Vec<_>>());
    let ratio = |at: usize| {
        median(
            &rounds
                .iter()
                .map(|rates| rates[at] / rates[1])
                .collect::<Vec<_>>(),
        )
    };
    for (at, what) in [(0, "bare"), (1, "hand-over"), (2, "raw log")] {
        report.note(YARDSTICK, what, (rates(at), "/s"), "");
    }
    let detail = |at| format!("{:.0}/s; {:.2} x raw log", rates(at), rates(at) / rates(2));
    let least = Target::AtLeast(0.35);
    report.add(
        YARDSTICK,
        "durable accept / hand-over, without a delivery",
        (ratio(3), "x"),
        least,
        detail(3),
    );
    report.note(
        YARDSTICK,
        "durable accept / hand-over, with a paused delivery",
        (ratio(4), "x"),
        detail(4),
    );
    Ok(())
}

fn latency(run: &Run, contestants: &Contestants, folder: &Path, report: &mut Report) -> Result<()> {
    let (mut syncs, mut ratios, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    let mut detail = String::new();
    for _ in 0..run.rounds {
        let sync = disk::sync_milliseconds(folder)?;
        let log = Load::at(contestants.log.address, 1000.0, run.seconds).run()?;
        let posted = Load::at(contestants.paused.public, 1000.0, run.seconds).run()?;
        ensure!(posted.refused == 0, "{} requests were refused", posted.refused);
        syncs.push(sync);
        ratios.push(posted.p99 / sync);
        raw.push(log.p99 / sync);
        detail = format!(
            "{:.0}/s; p50 {:.2}, p99 {:.2}, p99.9 {:.2} ms in the last round",
            posted.per_second(),
            posted.p50,
            posted.p99,
            posted.p999
        );
    }
    report.note(
        YARDSTICK,
        "fdatasync of this disk, median",
        (median(&syncs), "ms"),
        "",
    );
    report.note(
        YARDSTICK,
        "p99 of the raw log at 1 000/s / fdatasync",
        (median(&raw), "x"),
        "",
    );
    report.add(
        YARDSTICK,
        "p99 of a durable accept at 1 000/s / fdatasync",
        (median(&ratios), "x"),
        Target::AtMost(6.0),
        detail,
    );
    Ok(())
}
