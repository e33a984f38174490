//! The log in front of sled: every batch of changes is appended here and synced before it is acknowledged. sled gets
//! the changes later, many batches at a time (see `checkpoint`).
//!
//! * **A batch is a frame.** It contains the new values, so replaying frames needs no logic, and replaying them
//!   twice changes nothing.
//! * **Segments are removed oldest first.** So the log always contains the newest frames: if the end of a delivery is
//!   missing, everything before it is missing as well, including its message.
//! * **Every pending message is in the log.** Before segments are removed, their pending messages are appended again
//!   in their current state (see `renew`). Replaying the whole log into an empty database gives every
//!   pending message.
//! * **The last frame may be torn.** The process or the machine died while it was written, so it was not
//!   acknowledged. Anything else that cannot be read is damage: it is skipped and reported.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::changes::Changes;
use super::lock;

mod frame;
mod segment;

use self::frame::Frames;
use self::segment::{Folder, LENGTH};

/// Free space below which a new segment is only as long as necessary.
const SCARCE: u64 = 64 << 20;

/// The length of the first segment after a start, which must fit on a full disk, too.
const SHORT: u64 = 64 << 10;

/// The end of the log, as the writer uses it.
pub(super) struct Log {
    segments: Segments,
    file: File,
    first: u64,
    at: u64,
    length: u64,
    next: u64,
    skip_sync: bool,
}

/// The segments by the numbers of their first frames, with their lengths.
#[derive(Clone)]
pub(super) struct Segments {
    folder: Folder,
    all: Arc<Mutex<BTreeMap<u64, u64>>>,
}

/// The result of reading the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The first frame that is requested or available, whichever is later; `None` if there is no log.
    pub(super) oldest: Option<u64>,
    /// The number of the last frame.
    pub(super) last: u64,
    /// The number of missing frames that the database does not have.
    pub(super) lost: u64,
    /// The number of other missing frames.
    pub(super) damaged: u64,
    /// The last segment and the end of its last frame.
    end: Option<(u64, u64)>,
}

/// Reads the frames after `after` in order, and passes the changes of each to `each`.
///
/// # Errors
/// When a file cannot be read, or when `each` fails.
pub(super) fn read(
    store: &Path,
    after: u64,
    mut each: impl FnMut(u64, &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) -> io::Result<()>,
) -> io::Result<Found> {
    let folder = Folder::open(store)?;
    let segments = folder.segments()?;
    let mut found = Found::default();
    let mut expected = None;
    for (index, &(first, _)) in segments.iter().enumerate() {
        let following = segments.get(index + 1).map(|&(first, _)| first);
        if following.is_some_and(|following| following <= after + 1) {
            continue;
        }
        found.oldest.get_or_insert(first);
        if let Some(expected) = expected {
            found.miss(expected..first, after);
        }
        let bytes = folder.read(first)?;
        let mut frames = Frames::new(&bytes, first);
        for frame in frames.by_ref() {
            if frame.sequence > after {
                each(frame.sequence, &mut frame.changes())?;
            }
        }
        for lost in std::mem::take(&mut frames.lost) {
            found.miss(lost, after);
        }
        let (at, next) = frames.end();
        found.end = Some((first, at as u64));
        found.last = next - 1;
        expected = Some(next);
    }
    // The database has frames that were removed from the log.
    if let Some(expected) = expected.filter(|expected| *expected <= after) {
        found.damaged += after + 1 - expected;
    }
    Ok(found)
}

/// Returns true if there is a log.
pub(super) fn is_begun(store: &Path) -> bool {
    Folder::open(store)
        .and_then(|folder| folder.segments())
        .is_ok_and(|segments| !segments.is_empty())
}

/// Checks the whole log. Returns true if no frame is missing.
pub(super) fn is_whole(segments: &Segments, stop: impl Fn() -> bool) -> io::Result<bool> {
    let all: Vec<u64> = lock(&segments.all).keys().copied().collect();
    for pair in all.windows(2) {
        let &[first, following] = pair else { continue };
        if stop() {
            return Ok(true);
        }
        let bytes = match segments.folder.read(first) {
            // It was removed as unneeded in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let mut frames = Frames::new(&bytes, first);
        frames.by_ref().for_each(drop);
        let whole = frames.lost.is_empty() && frames.end().1 == following;
        if !whole && lock(&segments.all).contains_key(&first) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Found {
    fn miss(&mut self, missing: std::ops::Range<u64>, after: u64) {
        let needed = missing.end.saturating_sub(missing.start.max(after + 1));
        self.lost += needed;
        self.damaged += (missing.end - missing.start.min(missing.end)) - needed;
    }
}

impl Log {
    /// Continues the log after what was found. `after` is the last frame that the database has.
    pub(super) fn resume(store: &Path, found: &Found, after: u64, skip_sync: bool) -> io::Result<Self> {
        let folder = Folder::open(store)?;
        let all: BTreeMap<u64, u64> = folder.segments()?.into_iter().collect();
        let next = found.last.max(after) + 1;
        let segments = Segments {
            folder,
            all: Arc::new(Mutex::new(all)),
        };
        let sound = found.lost + found.damaged == 0 && found.last >= after;
        if let Some((first, at)) = found.end.filter(|_| sound) {
            let file = segments.folder.append_to(first)?;
            let length = file.metadata()?.len();
            return Ok(Self {
                segments,
                file,
                first,
                at,
                length,
                next,
                skip_sync,
            });
        }
        if next == 1 {
            segments.folder.forget_kept()?;
        }
        let (file, length) = segments.folder.begin(next, SHORT)?;
        lock(&segments.all).insert(next, length);
        Ok(Self {
            segments,
            file,
            first: next,
            at: 0,
            length,
            next,
            skip_sync,
        })
    }

    /// The number of the next frame.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// Appends a frame with these changes and waits until it is on disk.
    pub(super) fn append(&mut self, changes: &[&Changes], free: u64) -> io::Result<()> {
        let frame = frame::encode(self.next, changes);
        if self.at + frame.len() as u64 > self.length {
            self.rotate(frame.len() as u64, free)?;
        }
        self.file.write_all_at(&frame, self.at)?;
        if !self.skip_sync {
            self.file.sync_data()?;
        }
        self.at += frame.len() as u64;
        self.next += 1;
        Ok(())
    }

    /// Begins a new segment with room for this many bytes.
    pub(super) fn rotate(&mut self, needed: u64, free: u64) -> io::Result<()> {
        if self.at == 0 && needed <= self.length {
            return Ok(());
        }
        let length = if free < SCARCE {
            needed.next_multiple_of(64 << 10)
        } else {
            needed.max(LENGTH)
        };
        let (file, length) = self.segments.folder.begin(self.next, length)?;
        lock(&self.segments.all).insert(self.next, length);
        (self.file, self.first, self.at, self.length) = (file, self.next, 0, length);
        Ok(())
    }

    /// Returns true if the next segment should be prepared.
    pub(super) fn is_filling(&self) -> bool {
        self.at > self.length / 2
    }
}

impl Segments {
    /// The size of all segments in bytes.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.all).values().sum()
    }

    /// The first frame of the oldest segment.
    pub(super) fn oldest(&self) -> u64 {
        lock(&self.all).keys().next().copied().unwrap_or(u64::MAX)
    }

    /// Prepares the next segment if there is enough space.
    pub(super) fn prepare(&self, free: u64) -> io::Result<()> {
        if free < SCARCE / 4 {
            return Ok(());
        }
        self.folder.prepare()
    }

    /// Removes, oldest first, the segments whose frames all have numbers below this one.
    pub(super) fn retire_before(&self, number: u64, free: u64) -> io::Result<()> {
        let kept = if free < SCARCE { 1 } else { usize::MAX };
        loop {
            let oldest = {
                let all = lock(&self.all);
                let mut firsts = all.iter();
                let oldest = firsts.next().map(|(&first, &length)| (first, length));
                oldest.filter(|_| firsts.next().is_some_and(|(&following, _)| following <= number))
            };
            let Some((first, length)) = oldest else {
                return Ok(());
            };
            self.folder.retire(first, length, kept)?;
            self.folder.sync()?;
            lock(&self.all).remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use ::sled::IVec;

    use super::*;

    const FREE: u64 = u64::MAX;

    fn batch(key: &str, value: &str) -> Changes {
        [(IVec::from(key), Some(IVec::from(value)))].into()
    }

    fn keys(store: &Path, after: u64) -> (Vec<String>, Found) {
        let mut keys = Vec::new();
        let found = read(store, after, |_, changes| {
            keys.extend(changes.map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()));
            Ok(())
        });
        (keys, found.unwrap())
    }

    fn resumed(store: &Path, after: u64) -> Log {
        let found = read(store, after, |_, _| Ok(())).unwrap();
        Log::resume(store, &found, after, true).unwrap()
    }

    /// A log with three segments of two frames each.
    fn three(store: &Path) -> Log {
        let mut log = resumed(store, 0);
        for number in 1..=6 {
            if number % 2 == 1 {
                log.rotate(0, FREE).unwrap();
            }
            log.append(&[&batch(&format!("k{number}"), "x")], FREE).unwrap();
        }
        log
    }

    #[test]
    fn a_log_is_read_from_the_first_needed_frame_and_continues_after_the_last() {
        let store = tempfile::tempdir().unwrap();
        drop(three(store.path()));
        assert_eq!(keys(store.path(), 0).0, ["k1", "k2", "k3", "k4", "k5", "k6"]);
        let (read, found) = keys(store.path(), 3);
        assert_eq!(
            (read.join(" "), found.oldest, found.last),
            ("k4 k5 k6".into(), Some(3), 6)
        );
        let mut log = resumed(store.path(), 6);
        assert_eq!((log.next(), log.segments().bytes()), (7, SHORT + 2 * LENGTH));
        log.append(&[&batch("large", &"x".repeat(5 << 20))], FREE)
            .unwrap();
        log.append(&[&batch("k8", "x")], FREE).unwrap();
        let (read, found) = keys(store.path(), 6);
        assert_eq!(
            (read.join(" "), found.lost, found.damaged),
            ("large k8".into(), 0, 0)
        );
    }

    #[test]
    fn a_torn_tail_is_the_end_and_is_written_over() {
        let store = tempfile::tempdir().unwrap();
        let log = three(store.path());
        let last = log.segments.folder.append_to(5).unwrap();
        last.write_all_at(&[0; 3], log.at - 3).unwrap();
        last.write_all_at(&[1; 3], log.at - 3).unwrap();
        let (read, found) = keys(store.path(), 0);
        assert_eq!((read.len(), found.last, found.lost, found.damaged), (5, 5, 0, 0));
        let mut log = resumed(store.path(), 0);
        log.append(&[&batch("again", "")], FREE).unwrap();
        assert_eq!(keys(store.path(), 4).0, ["k5", "again"]);
        // A frame that the database has cannot have been torn.
        last.write_all_at(&[0; 4096], 0).unwrap();
        let (_, found) = keys(store.path(), 6);
        assert_eq!((found.lost, found.damaged, found.last), (0, 2, 4));
        assert_eq!(resumed(store.path(), 6).next(), 7);
    }

    #[test]
    fn damage_and_a_missing_segment_are_noticed() {
        let store = tempfile::tempdir().unwrap();
        let log = three(store.path());
        assert!(is_whole(&log.segments, || false).unwrap());
        log.segments
            .folder
            .append_to(1)
            .unwrap()
            .write_all_at(&[9], 25)
            .unwrap();
        assert!(!is_whole(&log.segments, || false).unwrap());
        let (read, found) = keys(store.path(), 0);
        assert_eq!((read.len(), found.lost, found.damaged), (5, 1, 0));
        std::fs::remove_file(store.path().join("log/0000000000000003")).unwrap();
        let (read, found) = keys(store.path(), 0);
        assert_eq!(
            (read.join(" "), found.lost, found.damaged),
            ("k2 k5 k6".into(), 3, 0)
        );
        let (read, found) = keys(store.path(), 3);
        assert_eq!(
            (read.join(" "), found.lost, found.damaged),
            ("k5 k6".into(), 1, 2)
        );
    }

    #[test]
    fn segments_go_oldest_first_and_their_files_are_used_again() {
        let store = tempfile::tempdir().unwrap();
        let mut log = three(store.path());
        let segments = log.segments();
        segments.retire_before(4, FREE).unwrap();
        assert_eq!(segments.folder.segments().unwrap(), [(3, LENGTH), (5, LENGTH)]);
        segments.retire_before(99, FREE).unwrap();
        assert_eq!(segments.folder.segments().unwrap(), [(5, LENGTH)]);
        log.rotate(0, FREE).unwrap();
        log.append(&[&batch("k7", "x")], FREE).unwrap();
        let (read, found) = keys(store.path(), 4);
        assert_eq!(
            (read.join(" "), found.lost + found.damaged),
            ("k5 k6 k7".into(), 0)
        );
        segments.prepare(FREE).unwrap();
        segments.prepare(FREE).unwrap();
        assert!(store.path().join("log/next").exists());
    }
    #[test]
    fn a_new_log_contains_no_frames_of_an_earlier_one() {
        let store = tempfile::tempdir().unwrap();
        let log = three(store.path());
        log.segments().retire_before(99, FREE).unwrap();
        std::fs::remove_file(store.path().join("log/0000000000000005")).unwrap();
        let mut log = resumed(store.path(), 0);
        log.append(&[&batch("new", "x")], FREE).unwrap();
        let (read, found) = keys(store.path(), 0);
        assert_eq!((read.join(" "), found.last, found.lost), ("new".into(), 1, 0));
    }
}
