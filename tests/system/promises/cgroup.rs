//! A control group that limits the memory of its processes, as `MemoryMax=` of a service does: version 2 where the
//! kernel keeps memory there, else version 1. The test fails if neither version can be used.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::disk::{as_root, run};

/// Removed when dropped; no process may be left in it.
pub struct Cgroup {
    folder: PathBuf,
    files: &'static Files,
}

/// The names in the two versions.
struct Files {
    /// Written in this order; a missing file is skipped if it concerns swap.
    limits: &'static [(&'static str, Option<u64>)],
    /// The file with the number of OOM kills.
    events: &'static str,
    /// The line of `memory.stat` for memory that is no page cache.
    anonymous: &'static str,
}

const VERSION_1: Files = Files {
    limits: &[
        ("memory.limit_in_bytes", None),
        ("memory.memsw.limit_in_bytes", None),
    ],
    events: "memory.oom_control",
    anonymous: "rss",
};

const VERSION_2: Files = Files {
    limits: &[("memory.max", None), ("memory.swap.max", Some(0))],
    events: "memory.events",
    anonymous: "anon",
};

impl Cgroup {
    pub fn with_memory(bytes: u64) -> Self {
        let (parent, files) = parent();
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("smsbridge-test.{}.{number}", std::process::id()));
        run(as_root("mkdir").arg(&folder));
        let group = Self { folder, files };
        for (file, value) in files.limits {
            if file.contains("sw") && !group.folder.join(file).exists() {
                continue;
            }
            write(&group.folder.join(file), &value.unwrap_or(bytes).to_string());
        }
        group
    }

    /// A shell that moves into the group and becomes the command of the further arguments.
    pub fn enter(&self) -> Command {
        let procs = self.folder.join("cgroup.procs");
        let sudo = if super::disk::user() == 0 { "" } else { "sudo -n" };
        let script = format!(
            "echo $$ | {sudo} tee {} >/dev/null && exec \"$@\"",
            procs.display()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]);
        shell
    }

    /// The number of OOM kills in the group.
    pub fn kills(&self) -> u64 {
        self.value(self.files.events, "oom_kill")
    }

    /// Bytes in use without the page cache, which the kernel can reclaim.
    pub fn anonymous(&self) -> u64 {
        self.value("memory.stat", self.files.anonymous)
    }

    fn value(&self, file: &str, name: &str) -> u64 {
        let path = self.folder.join(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{} has no {name}: {text}", path.display()))
            .trim()
            .parse()
            .unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = as_root("rmdir").arg(&self.folder).status();
    }
}

/// The parent of our group.
fn parent() -> (PathBuf, &'static Files) {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let root = |is: &dyn Fn(&[&str]) -> bool| {
        mounts
            .iter()
            .find(|mount| is(mount))
            .map(|mount| PathBuf::from(mount[1]))
    };
    if let Some(root) = root(&|mount| mount[2] == "cgroup2") {
        let has = |file: &str| {
            let words = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            words.split_whitespace().any(|word| word == "memory")
        };
        if has("cgroup.controllers") {
            if !has("cgroup.subtree_control") {
                write(&root.join("cgroup.subtree_control"), "+memory");
            }
            return (root, &VERSION_2);
        }
    }
    let root = root(&|mount| mount[2] == "cgroup" && mount[3].split(',').any(|option| option == "memory"));
    let root =
        root.expect("no control group with memory is mounted: this kernel or container cannot limit memory");
    // Below our own group, so that its limits stay in force.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.split_once(":memory:/"))
        .map(|(_, path)| root.join(path));
    (own.filter(|path| path.is_dir()).unwrap_or(root), &VERSION_1)
}

fn write(path: &Path, value: &str) {
    let mut command = as_root("sh");
    command.args(["-c", "echo \"$1\" >\"$0\""]).arg(path).arg(value);
    run(&mut command);
}
