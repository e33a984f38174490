//! The one writer, and how a commit becomes durable.
//!
//! One thread makes all changes. It takes what waits in a bounded channel, lets each request add its changes
//! to one group, appends the group to the log as one frame, waits until that is on disk, and only then answers
//! everybody who was in the group. So sixty-four messages that arrive together cost one sync. What is committed is
//! seen at once (`overlay`), and comes into the database later (`checkpoint`).
//!
//! The first error of a write or a sync is final. After a failed `fdatasync` the kernel may have dropped what
//! it could not write and call the next sync a success; so nothing is tried again, nobody is told that all is
//! well, and the next start reads what is really there.
//!
//! A second thread does nothing but look how long the group or the checkpoint at hand has been worked on. A disk that
//! hangs does not give the process back what it holds, so it ends the process: the service manager starts it anew.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::error;

use super::change::{Group, Sweep};
use super::changes::Changes;
use super::index::Note;
use super::keys;
use super::known::Known;
use super::log::Log;
use super::record;
use super::space::Space;
use super::status::Status;
use super::{Shared, lock};
use crate::sabotage::{self, Protection};
use crate::store::Error;

/// How many requests go into one commit.
const GROUP_MAX: usize = 1024;

/// How many bytes of changes end a group: a frame is held in memory as a whole.
const GROUP_BYTES: usize = 2 << 20;

/// A group of so many is followed by more: texts come faster than commits.
const CROWD: usize = 8;

/// How long the next group then gathers. Each commit costs two waits for the disk and a dozen changes of thread,
/// however little it writes: fewer and larger ones leave more of the processor to all others. While little
/// comes, nobody waits for company.
const GATHERING: Duration = Duration::from_micros(500);

/// Adds its changes to the group, and gives back how to tell its caller once they are committed or not.
pub(super) type Request = Box<dyn FnOnce(&mut Group<'_>) -> Decided + Send>;

/// What a request came to: how to tell its caller, and what went wrong if the whole group must not be written.
pub(super) type Decided = (Option<String>, Answer);

/// Tells the caller, given how the commit went.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The thread's belongings.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) log: Log,
    pub(super) space: Space,
    pub(super) sweep: Sweep,
    pub(super) known: Known,
    /// How many were in the last group.
    pub(super) crowd: usize,
}

impl Writer {
    /// Works until nobody can ask for anything any more.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ending = Ending(&shared.status);
        let mut requests = Vec::with_capacity(GROUP_MAX);
        while self.wait(&mut requests) {
            let mut waiting = requests.drain(..).peekable();
            while waiting.peek().is_some() {
                self.work(&mut waiting);
            }
        }
    }

    /// Takes what waits. Says whether there is more to come.
    fn wait(&mut self, requests: &mut Vec<Request>) -> bool {
        if self.crowd >= CROWD {
            std::thread::sleep(GATHERING);
        }
        self.crowd = self.requests.blocking_recv_many(requests, GROUP_MAX);
        self.crowd > 0
    }

    /// One group, of as many requests as make a frame of a fair size. After a failure nothing is even tried; a
    /// request that is dropped tells its caller so.
    fn work(&mut self, requests: &mut impl Iterator<Item = Request>) {
        let Self {
            shared,
            log,
            space,
            sweep,
            known,
            ..
        } = self;
        if shared.status.check().is_err() {
            return requests.for_each(drop);
        }
        shared.status.begin();
        shared.wait_for_room();
        space.refresh(shared.overlay.bytes().1);
        shared.status.measured(space, log.segments().bytes());

        let mut group = Group::new(shared, log.next(), space, sweep, known);
        let (mut fatal, mut answers) = (None, Vec::new());
        while group.view.bytes() < GROUP_BYTES
            && let Some(request) = requests.next()
        {
            let (reason, answer) = request(&mut group);
            fatal = fatal.or(reason);
            answers.push(answer);
        }
        let Group {
            mut view,
            mut counters,
            notes,
            reserved,
            settled,
            carried,
            is_new_segment,
            ..
        } = group;
        let changed = view.len() > 0 || !carried.is_empty() || is_new_segment;
        counters.ledger.commits += u64::from(changed);
        {
            let mut weight = lock(&shared.weight);
            weight.texts += arrived(&notes);
            weight.bytes += view.bytes() as u64;
        }
        view.create(keys::LEDGER, &record::encode(&counters.ledger));
        let changes = view.into_changes();
        let result = match fatal {
            Some(reason) => Err(reason),
            None if changed => commit(log, &carried, &changes, is_new_segment, space.free),
            None => Ok(()),
        };
        let ignored = sabotage::is_off(Protection::WriteErrors);
        let result = if ignored { Ok(()) } else { result };
        let result = result.map_err(|reason| shared.status.fail(&reason));
        if result.is_ok() {
            if changed {
                shared.overlay.add(changes, log.next() - 1);
            }
            lock(&shared.counters).commit(counters);
            shared.index.apply(notes);
        }
        shared.leases.finish(&reserved, &settled);
        shared.index.free(&settled);
        shared.status.end(changed && result.is_ok());
        for answer in answers {
            answer(result.clone());
        }
        if log.is_filling() {
            shared.progress.want_segment();
        }
    }
}

/// Appends the group to the log and waits until it is on disk.
fn commit(
    log: &mut Log,
    carried: &Changes,
    changes: &Changes,
    is_new_segment: bool,
    free: u64,
) -> Result<(), String> {
    if sabotage::is_off(Protection::WholeCommit) {
        return torn(log, changes, free).map_err(|error| error.to_string());
    }
    if is_new_segment {
        log.rotate(0, free)
            .map_err(|error| format!("the log cannot begin a new segment: {error}"))?;
    }
    log.append(&[carried, changes], free)
        .map_err(|error| format!("a write to the log failed: {error}"))
}

/// How many texts came with a group.
fn arrived(notes: &[Note]) -> u64 {
    let arrived = notes.iter().filter(|note| matches!(note, Note::Message { .. }));
    arrived.count() as u64
}

/// What no commit may be: entry after entry, each written before the next.
fn torn(log: &mut Log, changes: &Changes, free: u64) -> std::io::Result<()> {
    for (key, value) in changes {
        log.append(&[&[(key.clone(), value.clone())].into()], free)?;
    }
    Ok(())
}

/// A writer that panics leaves word of it.
struct Ending<'a>(&'a Status);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer panicked");
            self.0.end(false);
        }
    }
}

/// How long the log gets to write why the process ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Ends the process when a commit or a checkpoint takes longer than `abort_after`. Returns when the other end is
/// dropped.
pub(super) fn watch(shared: &Shared, stop: &Receiver<()>, abort_after: Duration) {
    let pace = (abort_after / 10).min(Duration::from_secs(1));
    while stop.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
        let running = shared.status.running().max(shared.status.checkpoint_running());
        let Some(running) = running.filter(|running| *running > pace) else {
            continue;
        };
        if running > abort_after {
            error!(
                "a commit has not ended after {running:?}: the disk hangs; ending the process to be restarted"
            );
            // The log is written by a thread of its own.
            std::thread::sleep(LAST_WORDS);
            std::process::abort();
        }
    }
}
