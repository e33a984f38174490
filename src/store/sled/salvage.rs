//! Saving what can be read out of a database with damaged pages.
//!
//! sled refuses a page whose checksum is wrong, and with it every entry in it and every change near it. So
//! the texts are asked for one by one by their numbers, and what answers goes into a new database; the
//! audit counts what is missing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use ::sled::Db;

use super::Options;
use super::audit::Stop;
use super::database::{self, Fault};
use super::folders::{self, SALVAGING};
use super::keys::{self, Place};
use super::record::{self, Kept, Ledger};
use super::stored::thread;
use super::view::View;
use super::writer::Disk;
use crate::delivery::Delivery;

/// How many texts are written down together.
const COMMIT: u64 = 200;

/// The same in bytes: texts may be large.
const COMMIT_BYTES: u64 = 4 << 20;

/// Why a delivery is dead whose record cannot be read. Trying it again could repeat a text of months ago.
pub(super) const DAMAGED: &str =
    "its record was damaged and set aside: it may or may not have been delivered";

/// Copies what can be read into a new database, which then takes the old one's place. Says how many texts those
/// are, and where the old one is kept.
pub(super) fn salvage(options: &Options) -> Result<(u64, PathBuf), Fault> {
    let folder = &options.path;
    let fresh = folder.join(SALVAGING);
    folders::remove(&fresh).map_err(Fault::Io)?;
    let saved = catch_unwind(AssertUnwindSafe(|| {
        let (old, _) = database::open(options, &folders::database(folder))?;
        let (new, disk) = database::open(options, &fresh)?;
        Ok(copy(&old, &new, &disk)?)
    }))
    .unwrap_or_else(|_| Err(Fault::Damaged("reading made the database panic".to_owned())))?;
    let aside = folders::finish_salvage(folder).map_err(Fault::Io)?;
    Ok((saved, aside))
}

fn copy(old: &Db, new: &Db, disk: &Disk) -> Result<u64, Stop> {
    let ledger: Ledger = record::load(&**old, keys::LEDGER)
        .ok()
        .flatten()
        .unwrap_or_default();
    let last = old
        .scan_prefix([keys::MESSAGE])
        .keys()
        .next_back()
        .and_then(Result::ok);
    let last = last.and_then(|key| keys::seq_of(&key)).unwrap_or(0);
    let last = last.max(ledger.counts.accepted).max(disk.mark.read().accepted);

    let mut view = View::new(new);
    view.create(keys::LEDGER, &record::encode(&ledger));
    for tag in [keys::PAUSED, keys::SEEN] {
        for (key, value) in old.scan_prefix([tag]).map_while(Result::ok) {
            view.put(key.to_vec(), value);
        }
    }
    let mut saved = 0;
    for seq in 1..=last {
        saved += u64::from(save(old, &mut view, seq));
        if seq % COMMIT == 0 || view.bytes() > COMMIT_BYTES {
            disk.commit(new, std::mem::replace(&mut view, View::new(new)))
                .map_err(Stop::Disk)?;
        }
    }
    disk.commit(new, view).map_err(Stop::Disk)?;
    Ok(saved)
}

/// One text with all that belongs to it; says whether it could be read.
fn save(old: &Db, view: &mut View<'_>, seq: u64) -> bool {
    let key = keys::message(seq);
    let Ok(Some(kept)) = record::load::<Kept>(&**old, &key) else {
        return false;
    };
    let Kept { message, deliveries } = &kept;
    view.create(&key, &record::encode(&kept));
    let first = |ordinal| deliveries.iter().find(|delivery| delivery.id.ordinal == ordinal);
    for ordinal in 1..u16::MAX {
        let key = keys::delivery(Place { seq, ordinal });
        let delivery = match (record::load::<Delivery>(&**old, &key), first(ordinal)) {
            (Ok(Some(delivery)), _) => delivery,
            (Err(_), Some(first)) => first.clone().dead(None, first.created_at, DAMAGED),
            (Ok(None), Some(_)) | (Err(_), None) => continue,
            (Ok(None), None) => break,
        };
        view.create(&key, &record::encode(&delivery));
    }
    for delivery in deliveries {
        let key = keys::thread(&thread(message, &delivery.destination));
        if let Ok(Some(root)) = old.get(&key) {
            view.put(key, root);
        }
    }
    true
}
