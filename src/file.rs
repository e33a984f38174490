//! Reads the small files that an operator names. Only regular files are accepted: opening a FIFO blocks until
//! there is a writer, and a device may never end.

use std::fs::{FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// A file, read completely.
#[derive(Debug)]
pub struct Content {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permissions, as in `chmod`.
    pub mode: u32,
}

/// Why a file was not read. The caller prepends the path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The error of the system.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Not a regular file: a FIFO, a device, a directory.
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    /// Larger than the caller allows.
    #[error("is larger than {}", size(*.0))]
    TooLarge(u64),
}

impl Error {
    /// Returns true if this user may not read the file.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Returns true if the file does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is too large.
pub fn read(path: &Path, max: u64) -> Result<Content, Error> {
    // Checked before opening, because opening a device may have effects, and after, because the file may have
    // been replaced.
    regular(&std::fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(Error::TooLarge(max));
    }
    Ok(Content {
        bytes,
        mode: metadata.permissions().mode() & 0o777,
    })
}

fn regular(metadata: &Metadata) -> Result<(), Error> {
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(())
    } else {
        Err(Error::NotRegular(name(kind)))
    }
}

fn name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

/// Formats a size as the configuration writes it.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_within_the_size_limit_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("good"), "1234").unwrap();
        std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert_eq!(read(&path("good"), 4).unwrap().bytes, b"1234");
        assert_eq!(read(&path("link"), 4).unwrap().bytes, b"1234");
        for (path, why) in [
            (path("good"), "is larger than 3 bytes"),
            (path("fifo"), "is a FIFO, not a regular file"),
            (path("socket"), "is a socket, not a regular file"),
            (path(""), "is a directory, not a regular file"),
            ("/dev/zero".into(), "is a device, not a regular file"),
        ] {
            let error = read(&path, 3).unwrap_err();
            assert_eq!(error.to_string(), why, "{}", path.display());
        }
        assert!(read(&path("none"), 3).unwrap_err().is_missing());
    }
}
