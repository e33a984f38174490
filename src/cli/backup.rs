//! `smsbridge backup PATH`: writes a copy of the store of the running daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::client::Daemon;
use super::progress::Progress;
use super::{CommandError, Exit, Global, print};
use crate::store::backup::{Damage, Reader, Record};

/// The arguments of `backup`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// File to write
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let Arguments { path, force } = arguments;
    if path.exists() && !force {
        return Err(CommandError::wrong(format!(
            "{} exists; `--force` replaces it",
            path.display()
        )));
    }
    let part = part_path(path);
    let kept =
        fetch(global, &Daemon::find(global)?, &part).and_then(|()| verify_and_rename(global, &part, path));
    if kept.is_err() {
        // A partial backup is useless. It may not exist, so an error is ignored.
        drop(std::fs::remove_file(&part));
    }
    kept
}

fn part_path(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Writes the backup into a new file that only its owner may read. A file that an earlier backup left under this name
/// is removed first: it could have another mode or be a link.
fn fetch(global: &Global, daemon: &Daemon, part: &Path) -> Result<(), CommandError> {
    let failed = |error: io::Error| CommandError::failed(format!("cannot write {}: {error}", part.display()));
    match std::fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .map_err(failed)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let progress = Progress::counting(global, "receiving");
    daemon.copy("/backup", |piece| {
        progress.add(piece.len() as u64);
        file.write_all(piece).map_err(failed)
    })?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Verifies the written file before giving it its final name.
fn verify_and_rename(global: &Global, part: &Path, path: &Path) -> Result<Exit, CommandError> {
    let (messages, bytes) = verify(global, part).context("the copy is damaged or incomplete")?;
    std::fs::rename(part, path).with_context(|| format!("cannot write {}", path.display()))?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .context("the folder could not be synced")?;
    if global.json {
        print::json(&serde_json::json!({ "messages": messages, "bytes": bytes }))?;
    } else {
        let size = bytesize::ByteSize(bytes).display().iec();
        print::text(&format!(
            "{messages} messages, {size}, checked: {}\n",
            path.display()
        ))?;
    }
    Ok(Exit::Done)
}

/// Reads a backup completely. Returns the number of its messages and its length.
pub(super) fn verify(global: &Global, path: &Path) -> Result<(u64, u64), Damage> {
    let length = std::fs::metadata(path)?.len();
    let mut reader = Reader::begin(BufReader::with_capacity(1 << 20, File::open(path)?))?;
    let progress = Progress::towards(global, "checking", length);
    let (mut messages, mut last) = (0, 0);
    while let Some(record) = reader.next_record()? {
        messages += u64::from(matches!(record, Record::Message { .. }));
        progress.add(reader.offset() - last);
        last = reader.offset();
    }
    Ok((messages, length))
}
