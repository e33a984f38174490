//! `smsbridge backup PATH`: a copy of everything that is kept, from the running daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::client::Daemon;
use super::progress::Progress;
use super::{Exit, Global, Stop, print};
use crate::store::backup::{Damage, Reader, Record};

/// What `backup` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// File to write
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, Stop> {
    let Arguments { path, force } = arguments;
    if path.exists() && !force {
        return Err(Stop::wrong(format!(
            "{} exists; `--force` replaces it",
            path.display()
        )));
    }
    let part = part_path(path);
    let kept = fetch(global, &Daemon::find(global)?, &part).and_then(|()| keep(global, &part, path));
    if kept.is_err() {
        // Half a backup helps nobody; whether it was there to be removed does not matter.
        drop(std::fs::remove_file(&part));
    }
    kept
}

fn part_path(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Writes what the daemon sends into a new file that only its owner may read. What an earlier backup has left under
/// this name is removed first: written to, it would keep its mode, and a link would be followed.
fn fetch(global: &Global, daemon: &Daemon, part: &Path) -> Result<(), Stop> {
    let failed = |error: io::Error| Stop::failed(format!("cannot write {}: {error}", part.display()));
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

/// Reads back what was written, and only then gives it its name.
fn keep(global: &Global, part: &Path, path: &Path) -> Result<Exit, Stop> {
    let (messages, bytes) = verify(global, part).context("the copy is not whole")?;
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

/// Reads a backup through. How many messages it has, and its length.
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
