//! `smsbridge restore PATH`: imports a backup into an empty store while the daemon is not running.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::backup::verify;
use super::progress::Progress;
use super::service::Places;
use super::{CommandError, Exit, Global, print};
use crate::config;
use crate::store::backup::{Reader, Record};
use crate::store::postgres;
use crate::store::sled::{Import, ImportError, OpenError, Options};

/// The arguments of `restore`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The backup file
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let places = Places::find(global);
    let store = places.read(&["store"])?.store;
    if store.database.is_none() {
        places.refuse_to_guess(&store.path)?;
    }
    let path = &arguments.path;
    // Read the whole file before writing: a damaged one must not change the store.
    verify(global, path).with_context(|| path.display().to_string())?;
    let (messages, deliveries) = match &store.database {
        None => restore_folder(global, &places, &store, path)?,
        Some(database) => restore_database(global, database, path)?,
    };
    if global.json {
        print::json(&serde_json::json!({ "messages": messages, "deliveries": deliveries }))?;
    } else {
        print::text(&format!(
            "{messages} messages with {deliveries} deliveries restored into {}\n",
            store.place()
        ))?;
    }
    Ok(Exit::Done)
}

fn restore_folder(
    global: &Global,
    places: &Places,
    store: &config::Store,
    path: &Path,
) -> Result<(u64, u64), CommandError> {
    super::keep_files_private();
    let options = Options::new(&store.path, store.min_free);
    let restored = Import::begin(&options)
        .map_err(|error| explain(&error, places, &store.path))
        .and_then(|import| Ok(read(global, import, path)?));
    // Also after a failure, because the daemon must be able to remove the files.
    let handed_over = hand_over(&store.path);
    let counts = restored?;
    handed_over.with_context(|| format!("the owner of {} cannot be changed", store.path.display()))?;
    Ok(counts)
}

fn restore_database(
    global: &Global,
    database: &config::Database,
    path: &Path,
) -> Result<(u64, u64), CommandError> {
    super::store::run_with(database, async |pool, _| {
        let import = postgres::Import::begin(&pool).await;
        let mut import = import.map_err(|error| match error {
            postgres::ImportError::NotEmpty(_) => CommandError::refused(error.to_string()),
            _ => CommandError::failed(error.to_string()),
        })?;
        let mut records = Records::open(global, path)?;
        while let Some(record) = records.next()? {
            import.add(record).await.map_err(anyhow::Error::from)?;
        }
        Ok(import.finish().await.map_err(anyhow::Error::from)?)
    })
}

/// Why the store cannot be imported into, and the next step.
fn explain(error: &ImportError, places: &Places, store: &Path) -> CommandError {
    let service = places.is_service();
    match error {
        ImportError::NotEmpty(_) => CommandError::refused(format!("{}: {error}", store.display())),
        ImportError::Open(OpenError::InUse { .. }) if service => CommandError::refused(format!(
            "{error}: stop the service with `systemctl stop smsbridge.socket smsbridge`"
        )),
        ImportError::Open(OpenError::InUse { .. }) => {
            CommandError::refused(format!("{error}: stop the daemon, then run this again"))
        }
        ImportError::Open(OpenError::Io { source, .. })
            if service && source.kind() == io::ErrorKind::PermissionDenied =>
        {
            CommandError::failed(format!("{error}: the store is the service's; run this as root"))
        }
        _ => CommandError::failed(error.to_string()),
    }
}

/// Gives files created by root to the owner of the store's folder, who could not open them otherwise. At the next
/// start, systemd changes the owner of all files only if the folder itself has another owner, as a new folder has.
fn hand_over(store: &Path) -> io::Result<()> {
    let owner = match std::fs::symlink_metadata(store) {
        Ok(found) => (found.uid(), found.gid()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if owner.0 == 0 {
        return Ok(());
    }
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.uid() == 0 {
                lchown(entry.path(), Some(owner.0), Some(owner.1))?;
            }
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

fn read(global: &Global, mut import: Import, path: &Path) -> anyhow::Result<(u64, u64)> {
    let mut records = Records::open(global, path)?;
    while let Some(record) = records.next()? {
        import.add(record)?;
    }
    Ok(import.finish()?)
}

/// The records of a file, with the progress of reading them.
struct Records {
    reader: Reader<BufReader<File>>,
    progress: Progress,
    shown: u64,
}

impl Records {
    fn open(global: &Global, path: &Path) -> anyhow::Result<Self> {
        let length = std::fs::metadata(path)?.len();
        Ok(Self {
            reader: Reader::begin(BufReader::with_capacity(1 << 20, File::open(path)?))?,
            progress: Progress::towards(global, "restoring", length),
            shown: 0,
        })
    }

    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let record = self.reader.next_record()?;
        self.progress.add(self.reader.offset() - self.shown);
        self.shown = self.reader.offset();
        Ok(record)
    }
}
