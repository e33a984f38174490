//! The file `format`, which names the layout of the store.

use std::io;
use std::path::Path;

use super::super::OpenError;
use super::super::options::at;
use super::folders::replace;

/// The format that this build writes and reads.
const FORMAT: u32 = 4;

/// Writes the file.
pub(in crate::store::sled) fn write(folder: &Path) -> Result<(), OpenError> {
    let text = format!("smsbridge store {FORMAT}\n");
    let path = folder.join("format");
    if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    replace(&path, &text).map_err(at(&path))
}

/// The format named in the file, if it is valid.
fn read(folder: &Path) -> io::Result<Option<u32>> {
    match std::fs::read(folder.join("format")) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let number = text.trim().strip_prefix("smsbridge store ").map(str::parse);
            Ok(number.and_then(Result::ok))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Rejects a store that was written by a newer version.
pub(in crate::store::sled) fn check(folder: &Path) -> Result<(), OpenError> {
    match read(folder).map_err(at(&folder.join("format")))? {
        Some(found) if found > FORMAT => Err(OpenError::Newer {
            path: folder.to_owned(),
            found,
            known: FORMAT,
        }),
        _ => Ok(()),
    }
}
