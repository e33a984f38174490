//! The database as it was before sled touches it.
//!
//! Where sled cannot read its log while opening, it takes that place for the log's end and cuts off what
//! follows, also when the disk failed only for a moment. So everything is read once before: a disk that fails
//! then ends the start with nothing touched. And a copy is kept until the audit agrees with the mark, so that
//! what was cut off can be put back.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{folders, space};

/// The folder of the copy, while the store is being opened.
const SPARE: &str = "sled.spare";

/// Beyond this a copy would delay the start more than it is worth, where the file system cannot share blocks.
const COPY_MAX: u64 = 256 << 20;

const CHUNK: usize = 256 << 10;

/// A copy of the database and the mark.
pub(super) struct Spare {
    folder: PathBuf,
    database: PathBuf,
    copy: PathBuf,
}

impl Spare {
    /// Reads the whole database, and keeps a copy of it if there is room for one.
    pub(super) fn take(folder: &Path, database: &Path) -> io::Result<Option<Self>> {
        let spare = Self {
            folder: folder.to_owned(),
            database: database.to_owned(),
            copy: folder.join(SPARE),
        };
        folders::remove(&spare.copy)?;
        let files = files(database)?;
        let bytes: u64 = files.iter().map(|(_, length)| length).sum();
        let room = space::free(folder)?.saturating_sub(bytes) > bytes;
        let copying = !files.is_empty() && bytes <= COPY_MAX && room;
        if copying {
            DirBuilder::new().mode(0o700).create(&spare.copy)?;
        }
        for (path, _) in &files {
            let copy = path
                .file_name()
                .filter(|_| copying)
                .map(|name| spare.copy.join(name));
            read_through(path, copy.as_deref())?;
        }
        if copying && spare.mark().exists() {
            std::fs::copy(spare.mark(), spare.copy.join("mark"))?;
        }
        Ok(copying.then_some(spare))
    }

    /// Puts the database back as it was; the copy stays.
    pub(super) fn put_back(&self) -> io::Result<()> {
        folders::remove(&self.database)?;
        DirBuilder::new().mode(0o700).create(&self.database)?;
        for (path, _) in files(&self.copy)? {
            match path.file_name() {
                Some(name) if name == "mark" => drop(std::fs::copy(&path, self.mark())?),
                Some(name) => drop(std::fs::copy(&path, self.database.join(name))?),
                None => {}
            }
        }
        Ok(())
    }

    /// Keeps the copy under this name, for whoever wants to look into it.
    pub(super) fn keep(self, name: &Path) -> io::Result<()> {
        std::fs::rename(&self.copy, name)
    }

    /// The same, in place of a folder that is forgotten: it is what sled made of this.
    pub(super) fn keep_instead_of(self, folder: &Path) -> io::Result<()> {
        folders::remove(folder)?;
        self.keep(folder)
    }

    /// Forgets the copy: the store is whole.
    pub(super) fn forget(self) -> io::Result<()> {
        folders::remove(&self.copy)
    }

    fn mark(&self) -> PathBuf {
        self.folder.join("mark")
    }
}

/// Fails when the disk does not take and keep what is written to it: then a fault is not the store's.
pub(super) fn probe_disk(folder: &Path) -> io::Result<()> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    std::fs::remove_file(path)
}

/// The plain files of a folder with their lengths; none when there is no such folder.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            files.push((entry.path(), metadata.len()));
        }
    }
    Ok(files)
}

/// Reads a file to its end, and writes it to `copy` if that is given: sharing blocks where that can be done.
fn read_through(path: &Path, copy: Option<&Path>) -> io::Result<()> {
    let mut from = File::open(path)?;
    let mut to = copy.map(File::create).transpose()?;
    if to
        .as_ref()
        .is_some_and(|to| rustix::fs::ioctl_ficlone(to, &from).is_ok())
    {
        to = None;
    }
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            length => {
                if let Some(to) = &mut to {
                    to.write_all(&chunk[..length])?;
                }
            }
        }
    }
}
