//! Restricts access to the store's files to their owner, whatever the umask was when they were created.
//!
//! The process sets its own umask, so new files are private from the start. This handles a folder that existed
//! before: created by hand, restored, or written by an earlier version.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use tracing::warn;

/// The permission bits of the group and of others.
const OTHERS: u32 = 0o077;

/// The mode without access for the group, which an admin socket in the store's folder may need.
const OTHERS_IN_FOLDER: u32 = 0o027;

/// The prefixes of the store's own files and folders. Nothing else in the folder is changed.
const OWN: [&str; 10] = [
    "ballast",
    "damaged-",
    "findings",
    "format",
    "lock",
    "log",
    "mark",
    "probe",
    "recovering",
    "sled",
];

/// Removes the access of group and others to the store's files, and warns if others can enter the folder. Files of
/// another user are skipped: opening them may fail later, with an error that names them.
pub(super) fn restrict(folder: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(folder)?.mode() & 0o777;
    if mode & OTHERS_IN_FOLDER != 0 {
        warn!(
            "the store's folder {} is accessible by other users (mode {mode:04o}): chmod 0700 it",
            folder.display()
        );
    }
    let mut restricted = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if OWN
            .iter()
            .any(|own| name.as_encoded_bytes().starts_with(own.as_bytes()))
        {
            restricted += restrict_all(&entry.path())?;
        }
    }
    if restricted > 0 {
        warn!(
            "{restricted} files and folders of the store in {} were accessible by other users; they are now \
             accessible by their owner only",
            folder.display()
        );
    }
    Ok(())
}

/// Changes one file, or a folder with its content. Returns the number of changes.
fn restrict_all(path: &Path) -> io::Result<u64> {
    let there = std::fs::symlink_metadata(path)?;
    let mut restricted = 0;
    if there.mode() & OTHERS != 0 && is_ours(&there) && (there.is_file() || there.is_dir()) {
        restrict_one(path)?;
        restricted += 1;
    }
    if there.is_dir() {
        for entry in std::fs::read_dir(path)? {
            restricted += restrict_all(&entry?.path())?;
        }
    }
    Ok(restricted)
}

/// Uses a file descriptor, so that a link created in the meantime is not followed.
fn restrict_one(path: &Path) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let there = file.metadata()?;
    if !is_ours(&there) {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(there.mode() & !OTHERS & 0o777))
}

fn is_ours(file: &Metadata) -> bool {
    file.uid() == rustix::process::geteuid().as_raw()
}
