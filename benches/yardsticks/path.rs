//! `path`: smsbridge beside the reference paths: accepting alone, from POST to POST, one conversation alone, and the
//! processor time of each message. With `SMSBRIDGE_BEFORE=BINARY`, another build of smsbridge is measured in turns with
//! this one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{Run, fresh};
use crate::bare::{self, Bare};
use crate::daemon::{BINARY, Daemon};
use crate::load::Load;
use crate::process::{Server, processor_seconds};
use crate::reference::{self, Reference, Store};
use crate::report::{Report, Target, median};
use crate::sink::{self, Received};

const YARDSTICK: &str = "path";

/// The environment variable with the path of another build of smsbridge.
const BEFORE: &str = "SMSBRIDGE_BEFORE";

/// Every server is restarted for each measurement, so that none has more in its store than another.
enum Contestant {
    Bare,
    Reference(Store),
    Smsbridge(PathBuf),
}

enum Running {
    Server(Server),
    Daemon(Daemon),
}

impl Running {
    fn address(&self) -> std::net::SocketAddr {
        match self {
            Self::Server(server) => server.address,
            Self::Daemon(daemon) => daemon.public,
        }
    }

    fn process(&self) -> u32 {
        match self {
            Self::Server(server) => server.process_id(),
            Self::Daemon(daemon) => daemon.process_id(),
        }
    }
}

impl Contestant {
    fn start(&self, folder: &Path, sink: Option<&Server>) -> Result<Running> {
        let folder = fresh(folder, "contestant")?;
        Ok(match self {
            Self::Bare => Running::Server(Server::start(bare::ROLE, &Bare::HandOver)?),
            Self::Reference(store) => Running::Server(Server::start(
                reference::ROLE,
                &Reference {
                    store: *store,
                    folder,
                    sink: sink.map(|sink| sink.address),
                },
            )?),
            Self::Smsbridge(binary) => {
                let config = match sink {
                    Some(sink) => format!(
                        "[destination.crm]\nkind = \"webhook\"\nurl = \"http://{}/\"\nconcurrency = 64\n\
                         [routing]\nunmatched = [\"crm\"]",
                        sink.address
                    ),
                    None => "[destination.desk]\nkind = \"console\"\n\
                             [[route]]\nname = \"all\"\ndeliver = []\n[routing]\nunmatched = [\"desk\"]"
                        .to_owned(),
                };
                Running::Daemon(Daemon::start_binary(binary, &folder, &config)?)
            }
        })
    }
}

/// Measures it.
pub fn measure(run: &Run, report: &mut Report) -> Result<()> {
    let mut contestants = vec![
        ("hand-over", Contestant::Bare),
        ("reference with sled", Contestant::Reference(Store::Sled)),
        ("reference with a log", Contestant::Reference(Store::Log)),
        ("smsbridge", Contestant::Smsbridge(BINARY.into())),
    ];
    if let Some(before) = std::env::var_os(BEFORE) {
        contestants.push(("smsbridge before", Contestant::Smsbridge(before.into())));
    }
    let folder = fresh(&run.folder, YARDSTICK)?;
    accept(run, &folder, &contestants, report)?;
    end_to_end(run, &folder, &contestants[1..], report)?;
    one_conversation(run, &folder, &contestants[3..], report)
}

/// The results of each contestant by round: rates, and microseconds of processor time for each message.
struct Rounds(Vec<[Vec<f64>; 2]>);

impl Rounds {
    fn new(contestants: &[(&str, Contestant)]) -> Self {
        Self(contestants.iter().map(|_| [Vec::new(), Vec::new()]).collect())
    }

    fn rate(&self, at: usize) -> f64 {
        median(&self.0[at][0])
    }

    fn micros(&self, at: usize) -> f64 {
        median(&self.0[at][1])
    }

    /// The median of the rounds' ratios.
    fn ratio(&self, at: usize, base: usize) -> f64 {
        let rounds = self.0[at][0].iter().zip(&self.0[base][0]);
        median(&rounds.map(|(rate, base)| rate / base).collect::<Vec<_>>())
    }

    fn note(&self, what: &str, contestants: &[(&str, Contestant)], report: &mut Report) {
        for (at, (name, _)) in contestants.iter().enumerate() {
            let detail = format!("{:.1} µs of processor time per message", self.micros(at));
            report.note(
                YARDSTICK,
                format!("{what}: {name}"),
                (self.rate(at), "/s"),
                detail,
            );
        }
    }
}

fn at(contestants: &[(&str, Contestant)], name: &str) -> Result<usize> {
    let at = contestants.iter().position(|(own, _)| *own == name);
    at.with_context(|| format!("no contestant {name}"))
}

fn accept(run: &Run, folder: &Path, contestants: &[(&str, Contestant)], report: &mut Report) -> Result<()> {
    let mut rounds = Rounds::new(contestants);
    for _ in 0..run.rounds {
        for ((_, contestant), [rates, micros]) in contestants.iter().zip(&mut rounds.0) {
            let running = contestant.start(folder, None)?;
            let before = processor_seconds(running.process())?;
            let posted = Load::flat_out(running.address(), run.seconds).run()?;
            ensure!(posted.refused == 0, "{} requests were refused", posted.refused);
            let spent = processor_seconds(running.process())? - before;
            rates.push(posted.per_second());
            micros.push(spent * 1e6 / posted.accepted as f64);
        }
    }
    rounds.note("accept", contestants, report);
    report.add(
        YARDSTICK,
        "durable accept / hand-over",
        (rounds.ratio(at(contestants, "smsbridge")?, 0), "x"),
        Target::AtLeast(0.50),
        "10 000 senders",
    );
    Ok(())
}

fn end_to_end(
    run: &Run,
    folder: &Path,
    contestants: &[(&str, Contestant)],
    report: &mut Report,
) -> Result<()> {
    let rounds = delivered(run, folder, contestants, Load::flat_out)?;
    rounds.note("each its own POST", contestants, report);
    let own = at(contestants, "smsbridge")?;
    report.add(
        YARDSTICK,
        "from POST to POST / reference with sled",
        (rounds.ratio(own, 0), "x"),
        Target::AtLeast(1.15),
        "10 000 senders",
    );
    report.add(
        YARDSTICK,
        "processor time per message, from POST to POST",
        (rounds.micros(own), "µs"),
        Target::AtMost(50.0),
        "",
    );
    Ok(())
}

fn one_conversation(
    run: &Run,
    folder: &Path,
    contestants: &[(&str, Contestant)],
    report: &mut Report,
) -> Result<()> {
    let rounds = delivered(run, folder, contestants, Load::one_conversation)?;
    rounds.note("one conversation", contestants, report);
    report.add(
        YARDSTICK,
        "one conversation alone, in order",
        (rounds.rate(at(contestants, "smsbridge")?), "/s"),
        Target::AtLeast(5000.0),
        "",
    );
    Ok(())
}

/// All rounds of all contestants with a load that is forwarded to a sink.
fn delivered(
    run: &Run,
    folder: &Path,
    contestants: &[(&str, Contestant)],
    load: fn(std::net::SocketAddr, f64) -> Load,
) -> Result<Rounds> {
    let sink = Server::start(sink::ROLE, &())?;
    let mut rounds = Rounds::new(contestants);
    for _ in 0..run.rounds {
        for ((_, contestant), [rates, micros]) in contestants.iter().zip(&mut rounds.0) {
            let running = contestant.start(folder, Some(&sink))?;
            let (rate, spent) = carried(&load(running.address(), run.seconds), &running, &sink)?;
            rates.push(rate);
            micros.push(spent);
        }
    }
    Ok(rounds)
}

/// Messages per second from the first POST to the last one's arrival, and microseconds of processor time for each.
fn carried(load: &Load, running: &Running, sink: &Server) -> Result<(f64, f64)> {
    sink::reset(sink.address)?;
    let before = processor_seconds(running.process())?;
    let posted = load.run()?;
    ensure!(posted.refused == 0, "{} requests were refused", posted.refused);
    let Received { unique, last, .. } =
        sink::wait_for(sink.address, posted.accepted, crate::deliver::WAIT_MAX)?;
    ensure!(
        unique == posted.accepted,
        "{unique} of {} arrived",
        posted.accepted
    );
    let spent = processor_seconds(running.process())? - before;
    let seconds = last.saturating_sub(posted.began) as f64 / 1e6;
    Ok((unique as f64 / seconds, spent * 1e6 / unique as f64))
}
