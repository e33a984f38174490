//! Makes one chosen call of the program fail, or be its last one: builds `inject.c`, and reads its counts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The kinds of calls that change a disk, in the order of `inject.c`.
pub const CALLS: [&str; 12] = [
    "open",
    "mkdir",
    "write",
    "writev",
    "pwrite",
    "copy_file_range",
    "ftruncate",
    "rename",
    "unlink",
    "fsync",
    "fdatasync",
    "sync_file_range",
];

/// The result of a call. `TORN` writes half of the bytes and then kills the process.
pub const ENDS: [&str; 4] = ["EIO", "ENOSPC", "KILL", "TORN"];

/// One call, counted over all threads of the process, and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Its index in [`CALLS`].
    pub call: usize,
    /// Counted from 1.
    pub nth: u64,
    pub end: &'static str,
}

impl Injection {
    /// Whether this kind of call can have this result.
    pub fn is_possible(call: usize, end: &str) -> bool {
        end != "TORN" || ["write", "pwrite"].contains(&CALLS[call])
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", CALLS[self.call], self.nth, self.end)
    }
}

/// The number of calls of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub calls: [u64; CALLS.len()],
    /// Whether the chosen call was reached.
    pub is_hit: bool,
}

/// The environment variables that make a program count its calls below a folder, and inject at most one fault.
pub fn variables(below: &Path, counts: &Path, injection: Option<Injection>) -> Vec<(&'static str, String)> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut variables = vec![
        ("LD_PRELOAD", path(library())),
        ("INJECT_BELOW", path(below)),
        ("INJECT_FILE", path(counts)),
    ];
    if let Some(Injection { call, nth, end }) = injection {
        variables.extend([
            ("INJECT_CALL", call.to_string()),
            ("INJECT_AT", nth.to_string()),
            ("INJECT_END", end.to_owned()),
        ]);
    }
    variables
}

/// The counts of a program that ran with these [`variables`].
pub fn counted(file: &Path) -> Counts {
    let bytes = std::fs::read(file).expect("the program was not injected into: the test proves nothing");
    let numbers: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|number| u64::from_ne_bytes(number.try_into().unwrap()))
        .collect();
    let (calls, hits) = numbers.split_at(CALLS.len());
    Counts {
        calls: calls.try_into().unwrap(),
        is_hit: hits[0] > 0,
    }
}

/// The library, built once.
fn library() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("inject.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/promises/inject.c");
        let mut compiler = Command::new("gcc");
        compiler
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(&library)
            .arg(source);
        super::disk::run(&mut compiler);
        (folder, library)
    });
    library
}
