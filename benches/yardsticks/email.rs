//! `email`: how fast a backlog of e-mails is sent, compared with lettre alone.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Run, fresh};
use crate::daemon::Daemon;
use crate::load::Load;
use crate::mail_sink::{self, Bare};
use crate::process::Server;
use crate::report::{Report, Target, median};
use crate::sink;

const YARDSTICK: &str = "email";

/// For both.
const CONNECTIONS: usize = 8;

/// A delivery holds its `concurrency` slot until its outcome is on disk, but its connection only until the server has
/// answered.
const CONCURRENCY: usize = 64;

const WAIT_MAX: Duration = Duration::from_secs(10);

/// Measures it.
pub fn measure(run: &Run, report: &mut Report) -> Result<()> {
    let folder = fresh(&run.folder, YARDSTICK)?;
    let server = Server::start(mail_sink::ROLE, &())?;
    let config = format!(
        "[smtp.main]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nmax_connections = {CONNECTIONS}\n\
         [destination.desk]\nkind = \"email\"\nsmtp = \"main\"\nconcurrency = {CONCURRENCY}\n\
         from = \"SMS bridge <sms@example.com>\"\nto = [\"desk@example.com\"]\n\
         [[route]]\nname = \"all\"\ndeliver = [\"desk\"]\n[routing]\nunmatched = [\"desk\"]",
        server.address.port()
    );
    let daemon = Daemon::start(&folder, &config)?;
    let bare = Bare {
        address: server.address,
        connections: CONNECTIONS,
        seconds: run.seconds,
    };
    let (mut ratios, mut rates, mut bare_rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        let alone = bare.run()?;
        let rate = drained(run, &daemon, &server)?;
        ratios.push(rate / alone);
        rates.push(rate);
        bare_rates.push(alone);
    }
    report.note(YARDSTICK, "lettre alone", (median(&bare_rates), "/s"), "");
    report.add(
        YARDSTICK,
        "e-mails of a backlog / lettre alone",
        (median(&ratios), "x"),
        Target::AtLeast(0.60),
        format!("{:.0}/s over {CONNECTIONS} connections", median(&rates)),
    );
    Ok(())
}

/// Fills a backlog while the destination is paused, and resumes it.
fn drained(run: &Run, daemon: &Daemon, server: &Server) -> Result<f64> {
    daemon.tell_destination("desk", "pause")?;
    sink::reset(server.reports)?;
    let posted = Load::flat_out(daemon.public, run.seconds).run()?;
    daemon.tell_destination("desk", "resume")?;
    let received = sink::wait_for(server.reports, posted.accepted, WAIT_MAX)?;
    ensure!(
        received.unique == posted.accepted,
        "{} e-mails of {} arrived",
        received.unique,
        posted.accepted
    );
    let seconds = received.last.saturating_sub(received.first) as f64 / 1e6;
    Ok(received.unique as f64 / seconds)
}
