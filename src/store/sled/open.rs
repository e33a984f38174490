//! Opens the store and starts its threads.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::checkpoint::{Checkpointer, Progress};
use super::compact::Compaction;
use super::disk_space::DiskSpace;
use super::keeper::Keeper;
use super::leases::Leases;
use super::options::{OpenError, Options, at};
use super::overlay::Overlay;
use super::recovery::{self, folders};
use super::status::Status;
use super::threads::Threads;
use super::write_batch::Sweep;
use super::writer::Writer;
use super::{Shared, Sled, keys};
use crate::model::message::Name;

impl Sled {
    /// Opens the store, repairs the effects of a crash, and starts its threads. This reads the whole store, so call
    /// it where blocking is allowed.
    ///
    /// # Errors
    /// If it is in use, was written by a newer version, or not even an empty store can be created. Damage is not an
    /// error: the damaged database is set aside and reported in [`crate::store::Health::findings`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        Self::open_with(options, Compaction::new(options))
    }

    pub(super) fn open_with(options: &Options, compaction: Compaction) -> Result<Self, OpenError> {
        let folder = &options.path;
        let io = at(folder);
        let lock = recovery::enter(folder)?;
        let space = DiskSpace::new(folder, &folders::log(folder), options.min_free).map_err(&io)?;
        let recovery::Opened {
            db,
            disk,
            log,
            mark,
            audited,
            history,
            findings,
            findings_file,
        } = recovery::open(options)?;

        let status = Arc::new(Status::new(options.commits.clone()));
        let segments = log.segments();
        status.measured(&space, segments.bytes());
        for finding in &findings {
            status.find(finding);
        }
        let paused = paused(&db).map_err(|error| io(io::Error::other(error)))?;
        let shared = Arc::new(Shared {
            overlay: Overlay::over(db),
            threaded: Mutex::new(audited.threaded),
            progress: Progress::new(mark),
            weight: Mutex::new(audited.weight),
            findings: findings_file,
            index: audited.index,
            counters: Mutex::new(audited.counters),
            leases: Leases::default(),
            paused: Mutex::new(paused),
            status,
            _lock: lock,
        });
        let checkpointer = Checkpointer {
            shared: Arc::clone(&shared),
            disk,
            segments: segments.clone(),
            compaction,
            mark,
            last: Instant::now(),
        };
        let threads = Threads::start(
            options,
            &shared,
            |requests| Writer {
                shared: Arc::clone(&shared),
                requests,
                log,
                space,
                sweep: Sweep::default(),
                dedup_index: audited.dedup_index,
                last_size: 0,
            },
            checkpointer,
            |requests| Keeper {
                shared: Arc::clone(&shared),
                requests,
                left: Some(segments.bytes() / 2),
                segments,
                is_renewal_due: !mark.is_covered,
                history,
            },
        )
        .map_err(io)?;
        Ok(Self { threads, shared })
    }
}

fn paused(db: &::sled::Db) -> Result<BTreeSet<Name>, ::sled::Error> {
    let mut names = BTreeSet::new();
    for key in db.scan_prefix([keys::PAUSED]).keys() {
        names.extend(
            std::str::from_utf8(&key?[1..])
                .ok()
                .and_then(|name| name.parse::<Name>().ok()),
        );
    }
    Ok(names)
}
