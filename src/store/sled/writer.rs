//! The one writer, and how a commit becomes durable.
//!
//! One thread makes all changes. It takes what waits in a bounded channel, lets each request add its changes
//! to one group, puts the group into the tree as a single batch, waits until that is on disk, and only then
//! answers everybody who was in the group. So sixty-four texts that arrive together cost one sync.
//!
//! On disk means `fdatasync` on a descriptor of our own: sled's `flush` hands its log to the kernel and asks
//! for write-back with `sync_file_range`, which on Linux waits neither for the disk's own cache nor for the
//! metadata of a file that has grown. A batch goes into one tree only, because sled recovers a batch as a
//! whole within one tree, and not across two.
//!
//! The first error of a write or a sync is final. After a failed `fdatasync` the kernel may have dropped what
//! it could not write and call the next sync a success; so nothing is tried again, nobody is told that all is
//! well, and the next start reads what is really there.
//!
//! A second thread does nothing but look how long the group at hand has been worked on. A disk that hangs
//! does not give the process back what it holds, so it ends the process: the service manager starts it anew.
//! It also wakes the writer when only sled has noticed that a write failed.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tracing::{error, warn};

use super::change::Group;
use super::compact::{Compaction, Weight};
use super::index::Note;
use super::keys;
use super::known::Known;
use super::mark::Mark;
use super::prune::Sweep;
use super::record::{self, Ledger};
use super::space::Space;
use super::status::Status;
use super::view::View;
use super::{Shared, lock};
use crate::sabotage::{self, Protection};
use crate::store::Error;

/// How many requests go into one commit.
const GROUP_MAX: usize = 1024;

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

/// The file that commits are synced on.
pub(super) struct Disk {
    pub(super) database: File,
    /// What sled was opened with: it knows first when a write has failed.
    pub(super) config: ::sled::Config,
    pub(super) mark: Mark,
    /// Leaves out the sync: only to show that a test of durability would notice.
    pub(super) skip_sync: bool,
}

impl Disk {
    /// Puts all changes into the tree in one piece and waits until they are on disk.
    pub(super) fn commit(&self, db: &::sled::Db, view: View<'_>) -> Result<(), String> {
        if sabotage::is_off(Protection::WholeCommit) {
            return torn(db, view).map_err(|error| error.to_string());
        }
        db.apply_batch(view.into_batch())
            .map_err(|error| format!("a write failed: {error}"))?;
        db.flush().map_err(|error| format!("a flush failed: {error}"))?;
        if self.skip_sync {
            return Ok(());
        }
        self.database
            .sync_data()
            .map_err(|error| format!("a sync failed: {error}"))
    }

    fn mark(&self, ledger: &Ledger) -> Result<(), String> {
        self.mark
            .write(ledger)
            .map_err(|error| format!("the mark was not written: {error}"))
    }
}

/// The thread's belongings.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) disk: Disk,
    pub(super) space: Space,
    pub(super) sweep: Sweep,
    pub(super) known: Known,
    pub(super) weight: Weight,
    pub(super) compaction: Compaction,
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
            if !requests.is_empty() {
                self.work(requests.drain(..));
            }
            self.compact();
        }
        if let Err(error) = self.disk.mark.sync() {
            warn!("the mark was not synced: {error}");
        }
    }

    /// Takes what waits; only while a compaction is at work is nothing enough. Says whether there is more to come.
    fn wait(&mut self, requests: &mut Vec<Request>) -> bool {
        if !self.compaction.is_copying() {
            if self.crowd >= CROWD {
                std::thread::sleep(GATHERING);
            }
            self.crowd = self.requests.blocking_recv_many(requests, GROUP_MAX);
            return self.crowd > 0;
        }
        while requests.len() < GROUP_MAX {
            match self.requests.try_recv() {
                Ok(request) => requests.push(request),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !requests.is_empty(),
            }
        }
        true
    }

    /// Gives space back that the log does not need any more, a little at a time.
    fn compact(&mut self) {
        if self.shared.status.check().is_err() {
            return;
        }
        let live = self.weight.of(self.shared.index.table().len());
        self.compaction.consider(&self.space, live);
        if !self.compaction.is_copying() {
            return;
        }
        // The disk may hang here as it may in a commit.
        self.shared.status.begin();
        match self.compaction.step(&self.shared.db()) {
            Ok(None) => {}
            Ok(Some((db, disk))) => {
                *lock(&self.shared.db) = db;
                *lock(&self.shared.config) = disk.config.clone();
                self.disk = disk;
            }
            Err(reason) => drop(self.shared.status.fail(&reason)),
        }
        self.shared.status.end(false);
    }

    /// One group. After a failure nothing is even tried; a request that is dropped tells its caller so.
    fn work(&mut self, requests: impl Iterator<Item = Request>) {
        let Self {
            shared,
            disk,
            space,
            sweep,
            known,
            weight,
            compaction,
            ..
        } = self;
        if shared.status.check().is_err() {
            return;
        }
        shared.status.begin();
        space.refresh();
        shared.status.measured(space);

        let db = shared.db();
        let mut group = Group::new(shared, &db, space, sweep, known);
        let (fatal, answers): (Vec<_>, Vec<_>) = requests.map(|request| request(&mut group)).unzip();
        let Group {
            mut view,
            notes,
            reserved,
            settled,
            ..
        } = group;
        let changed = view.len() > 0;
        let ledger = {
            let mut books = lock(&shared.books);
            books.ledger.commits += u64::from(changed);
            books.ledger
        };
        view.create(keys::LEDGER, &record::encode(&ledger));
        weight.texts += arrived(&notes);
        weight.bytes += view.bytes();
        compaction.follow(view.changes());
        let result = match fatal.into_iter().flatten().next() {
            Some(reason) => Err(reason),
            None if changed => disk.commit(&db, view).and_then(|()| disk.mark(&ledger)),
            None => Ok(()),
        };
        let ignored = sabotage::is_off(Protection::WriteErrors);
        let result = if ignored { Ok(()) } else { result };
        let result = result.map_err(|reason| shared.status.fail(&reason));
        if result.is_ok() {
            shared.index.apply(notes);
        }
        shared.leases.finish(&reserved, &settled);
        shared.index.free(&settled);
        shared.status.end(changed && result.is_ok());
        for answer in answers {
            answer(result.clone());
        }
    }
}

/// How many texts came with a group.
fn arrived(notes: &[Note]) -> u64 {
    let arrived = notes.iter().filter(|note| matches!(note, Note::Message { .. }));
    arrived.count() as u64
}

/// What no commit may be: entry after entry, each written before the next.
fn torn(db: &::sled::Db, view: View<'_>) -> Result<(), ::sled::Error> {
    for (key, value) in view.into_changes() {
        match value {
            Some(value) => db.insert(key, value)?,
            None => db.remove(key)?,
        };
        db.flush()?;
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

/// Wakes a group that waits in vain, and ends the process when one takes longer than `abort_after`. Returns when
/// the other end is dropped.
pub(super) fn watch(shared: &Shared, stop: &Receiver<()>, abort_after: Duration) {
    let pace = (abort_after / 10).min(Duration::from_secs(1));
    while stop.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
        let Some(running) = shared.status.running().filter(|running| *running > pace) else {
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
        rouse(shared);
    }
}

/// sled writes its log on threads of its own. When such a write fails it keeps the error, but does not always wake
/// the flush that waits for the write, which then waits for ever. Any further flush meets the error and wakes the
/// first, which gives it to the writer. It is begun on sled's threads and not waited for: nothing may hold up the
/// watchdog, and without an error there is nothing to begin.
fn rouse(shared: &Shared) {
    if lock(&shared.config).global_error().is_err() {
        let _begun = shared.db().flush_async().now_or_never();
    }
}
