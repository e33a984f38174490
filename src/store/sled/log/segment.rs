//! The files of the log. A segment is named by the number of its first frame, and written to its full length before
//! the first frame: the sync of an already allocated range does not need to change file metadata.
//!
//! * `log/0000000000000001`: a segment. Only the last one is written to.
//! * `log/next`: the prepared next segment; `log/next-2` and so on: files of removed segments, reused later because
//!   preparing a new one writes all of it.
//! * `log/preparing`: a segment that is being prepared by the checkpoint's thread. `log/beginning`: the same by the
//!   writer, if none was prepared.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};

use crate::store::sled::recovery::folders::sync_folder;

/// The length of a segment, unless one frame is longer or the disk is nearly full.
pub(super) const LENGTH: u64 = 4 << 20;

/// As many as one renewal needs on a busy day.
const NEXT: [&str; 4] = ["next", "next-2", "next-3", "next-4"];
const PREPARING: &str = "preparing";
const BEGINNING: &str = "beginning";

/// The folder of the segments.
#[derive(Clone, Debug)]
pub(in crate::store::sled) struct Folder(PathBuf);

impl Folder {
    /// Opens the folder of the log, and creates it if it does not exist.
    pub(super) fn open(store: &Path) -> io::Result<Self> {
        let folder = Self(store.join("log"));
        if !folder.0.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder.0)?;
            sync_folder(&folder.0)?;
        }
        Ok(folder)
    }

    /// The segments by the numbers of their first frames, with their lengths.
    pub(super) fn segments(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let first = name.to_str().filter(|name| name.len() == 16);
            if let Some(first) = first.and_then(|name| u64::from_str_radix(name, 16).ok()) {
                segments.push((first, entry.metadata()?.len()));
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    pub(super) fn read(&self, first: u64) -> io::Result<Vec<u8>> {
        std::fs::read(self.segment(first))
    }

    pub(super) fn append_to(&self, first: u64) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.segment(first))
    }

    /// Prepares the next segment, unless that was done already.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.next().any(|next| next.exists()) {
            return Ok(());
        }
        self.write_to(&self.0.join(PREPARING), LENGTH)?;
        std::fs::rename(self.0.join(PREPARING), self.0.join(NEXT[0]))
    }

    /// Returns the prepared segment, or a new one of this length, under its final name.
    pub(super) fn begin(&self, first: u64, length: u64) -> io::Result<(File, u64)> {
        let name = self.segment(first);
        let is_long = |next: &PathBuf| std::fs::metadata(next).is_ok_and(|next| next.len() >= length);
        if let Some(next) = self.next().find(is_long) {
            std::fs::rename(next, &name)?;
        } else {
            self.write_to(&self.0.join(BEGINNING), length)?;
            std::fs::rename(self.0.join(BEGINNING), &name)?;
        }
        File::open(&self.0)?.sync_all()?;
        let file = self.append_to(first)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Removes a segment, or keeps its file for reuse unless enough files are kept already.
    pub(super) fn retire(&self, first: u64, length: u64, kept: usize) -> io::Result<()> {
        let name = self.segment(first);
        match self.next().take(kept).find(|next| !next.exists()) {
            Some(next) if length == LENGTH => std::fs::rename(name, next),
            _ => std::fs::remove_file(name),
        }
    }

    /// Removes the prepared and kept files: a log that starts counting again must not contain later frames.
    pub(super) fn forget_kept(&self) -> io::Result<()> {
        let mut kept = self.next().filter(|next| next.exists());
        kept.try_for_each(std::fs::remove_file)
    }

    fn next(&self) -> impl Iterator<Item = PathBuf> {
        NEXT.iter().map(|name| self.0.join(name))
    }

    /// Syncs removals: a power cut must not restore a segment while an earlier one is gone.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn write_to(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = File::create(path)?;
        let zeros = vec![0; 256 << 10];
        for at in (0..length).step_by(zeros.len()) {
            let part = (length - at).min(zeros.len() as u64);
            file.write_all_at(&zeros[..part as usize], at)?;
        }
        file.sync_all()
    }

    fn segment(&self, first: u64) -> PathBuf {
        self.0.join(format!("{first:016x}"))
    }
}
