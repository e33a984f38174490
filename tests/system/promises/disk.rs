//! File systems in files, mounted for one test: small ones to fill, and one whose file can be copied at an instant.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted when it is dropped. Unmounting removes the loop device.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// A new ext4 file system of this size in `folder`.
    pub fn ext4(folder: &Path, name: &str, bytes: u64) -> Self {
        Self::made(folder, name, bytes, &["mkfs.ext4", "-q", "-F"])
    }

    /// A new ext4 file system with room for bytes and for few files.
    pub fn with_inodes(folder: &Path, name: &str, inodes: u32) -> Self {
        let inodes = inodes.to_string();
        Self::made(folder, name, 64 << 20, &["mkfs.ext4", "-q", "-F", "-N", &inodes])
    }

    /// A new XFS that can copy files by reference.
    pub fn xfs(folder: &Path, name: &str, bytes: u64) -> Self {
        Self::made(folder, name, bytes, &["mkfs.xfs", "-q", "-m", "reflink=1"])
    }

    fn made(folder: &Path, name: &str, bytes: u64, format: &[&str]) -> Self {
        let image = folder.join(name);
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut command = Command::new(format[0]);
        run(command.args(&format[1..]).arg(&image));
        Self::mounted(image)
    }

    /// Mounts the image, as after a power cut.
    pub fn mounted(image: PathBuf) -> Self {
        let mount = image.with_extension("mount");
        std::fs::create_dir_all(&mount).unwrap();
        run(as_root("mount").args(["-o", "loop"]).arg(&image).arg(&mount));
        let owner = user().to_string();
        run(as_root("chown").arg(owner).arg(&mount));
        Self { image, mount }
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Blocks writes until it is thawed, like a disk that hangs.
    pub fn freeze(&self) {
        run(as_root("fsfreeze").arg("--freeze").arg(&self.mount));
    }

    pub fn thaw(&self) {
        run(as_root("fsfreeze").arg("--unfreeze").arg(&self.mount));
    }

    /// The content of the disk after a power cut now: everything that was handed to the device, and nothing that only
    /// the file system has in memory. The copy shares the file's blocks, and the file is locked meanwhile, so the copy
    /// is consistent.
    pub fn cut(&self, name: &str) -> PathBuf {
        let copy = self.image.with_file_name(name);
        run(Command::new("cp")
            .arg("--reflink=always")
            .arg(&self.image)
            .arg(&copy));
        copy
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = as_root("umount").arg(&self.mount).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // A file is still open there; it is unmounted as soon as that file is closed.
            let _ = as_root("umount").arg("--lazy").arg(&self.mount).status();
        }
    }
}

/// A folder on the disk of the build, for images: `/tmp` may be small, or in memory.
pub fn yard() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("disk")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

pub fn user() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

pub fn as_root(program: &str) -> Command {
    if user() == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/setup"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
