//! The speed of the disk itself, in the same minute and folder.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::report::median;

/// The median time in milliseconds of `fdatasync` after a small append.
pub fn sync_milliseconds(folder: &Path) -> Result<f64> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut took = Vec::new();
    for _ in 0..300 {
        file.write_all(&[7; 512])?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(path)?;
    Ok(median(&took))
}

/// The disk space of a folder's files, in MiB.
pub fn mebibytes(folder: &Path) -> Result<f64> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut blocks, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                blocks += metadata.blocks();
            }
        }
    }
    Ok(blocks as f64 * 512.0 / f64::from(1 << 20))
}
