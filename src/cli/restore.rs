//! `smsbridge restore PATH`: a backup into an empty store, while the daemon does not run.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::backup::verify;
use super::progress::Progress;
use super::{Exit, Global, Stop, check, complain, print};
use crate::config::Purpose;
use crate::store::backup::Reader;
use crate::store::sled::{Import, ImportError, OpenError, Options};

/// What `restore` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The backup
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, Stop> {
    let plan = match check::load(global, Purpose::Check) {
        Ok(loaded) => loaded.plan,
        Err(exit) => return Ok(exit),
    };
    let path = &arguments.path;
    // The whole file is read before anything is written: a damaged one changes nothing.
    verify(global, path).with_context(|| path.display().to_string())?;
    super::keep_files_private();
    let options = Options::new(&plan.store.path, plan.store.min_free);
    let import = match Import::begin(&options) {
        Ok(import) => import,
        Err(error @ (ImportError::NotEmpty(_) | ImportError::Open(OpenError::InUse { .. }))) => {
            complain(&error.to_string());
            return Ok(Exit::Refused);
        }
        Err(error) => return Err(Stop::failed(error.to_string())),
    };
    let (messages, deliveries) = read(global, import, path)?;
    if global.json {
        print::json(&serde_json::json!({ "messages": messages, "deliveries": deliveries }))?;
    } else {
        let store = plan.store.path.display();
        print::text(&format!(
            "{messages} messages with {deliveries} deliveries restored into {store}\n"
        ))?;
    }
    Ok(Exit::Done)
}

fn read(global: &Global, mut import: Import, path: &Path) -> anyhow::Result<(u64, u64)> {
    let length = std::fs::metadata(path)?.len();
    let mut reader = Reader::begin(BufReader::with_capacity(1 << 20, File::open(path)?))?;
    let progress = Progress::towards(global, "restoring", length);
    let mut last = 0;
    while let Some(record) = reader.next_record()? {
        import.add(record)?;
        progress.add(reader.offset() - last);
        last = reader.offset();
    }
    Ok(import.finish()?)
}
