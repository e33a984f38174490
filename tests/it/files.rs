//! Files and sockets: their permissions, and which links and files are never followed, replaced or removed.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bridge::Bridge;
use crate::bridge::refid;

const ROUTES: &str = "[destination.console]\nkind = \"console\"\n[routing]\nunmatched = [\"console\"]\n";

/// The daemon or a command with umask 0.
fn careless(arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "umask 0 && exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_smsbridge"),
        ])
        .args(arguments);
    command
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

/// The files that group or others have permissions for.
fn open_to_others(folder: &Path) -> Vec<String> {
    let paths = below(folder).into_iter().filter(|path| mode(path) & 0o077 != 0);
    paths
        .map(|path| format!("{} {:o}", path.display(), mode(&path)))
        .collect()
}

#[test]
fn the_stores_files_are_private_with_any_umask_and_folder() {
    let mut bridge = Bridge::configured(ROUTES);
    std::fs::create_dir(bridge.store()).unwrap();
    set_mode(&bridge.store(), 0o755);
    bridge.run_command(careless(&[]), &[], &[]).unwrap();
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "hello").0, 200);
    assert_eq!(open_to_others(&bridge.store()), [""; 0], "made with umask 0");
    bridge.logged("is accessible by other users (mode 0755): chmod 0700 it");
    bridge.stop();

    // An earlier version may have left files with these modes.
    let paths = below(&bridge.store());
    assert!(paths.len() > 4, "{paths:?}");
    for path in paths {
        set_mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    let foreign = bridge.store().join("notes.txt");
    std::fs::write(&foreign, "of the operator").unwrap();
    set_mode(&foreign, 0o644);
    let elsewhere = bridge.folder().join("elsewhere");
    std::fs::write(&elsewhere, "linked to").unwrap();
    set_mode(&elsewhere, 0o644);
    symlink(&elsewhere, bridge.store().join("damaged-link")).unwrap();
    bridge.run();
    bridge.logged("of the store in ");
    std::fs::remove_file(bridge.store().join("damaged-link")).unwrap();
    assert_eq!(
        open_to_others(&bridge.store()),
        [format!("{} 644", foreign.display())]
    );
    assert_eq!(mode(&elsewhere), 0o644, "a link is not followed");
}

#[test]
fn a_backup_is_private_and_follows_no_link() {
    let bridge = Bridge::start(ROUTES);
    assert_eq!(bridge.post_message(&refid(1), "+13035550100", "hello").0, 200);
    let (copy, part) = (bridge.folder().join("copy"), bridge.folder().join("copy.part"));
    let victim = bridge.folder().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    set_mode(&victim, 0o644);
    let config = bridge.folder().join("config.toml");
    let backup = || {
        let output = careless(&["--config", config.to_str().unwrap(), "backup", "--force"])
            .arg(&copy)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(mode(&copy), 0o600);
        assert!(std::fs::symlink_metadata(&part).is_err(), "the part is gone");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    };
    backup();
    symlink(&victim, &part).unwrap();
    backup();
    std::fs::write(&part, "half of an earlier one").unwrap();
    set_mode(&part, 0o666);
    backup();
    std::fs::hard_link(&victim, &part).unwrap();
    backup();
    std::fs::remove_file(&copy).unwrap();
    symlink(&victim, &copy).unwrap();
    backup();
}

/// Starts the daemon, which must fail, and returns its standard error.
fn refused(bridge: &mut Bridge) -> String {
    let command = Command::new(env!("CARGO_BIN_EXE_smsbridge"));
    bridge.run_command(command, &[], &[]).unwrap_err()
}

#[test]
fn the_admin_socket_replaces_only_a_dead_socket() {
    let mut bridge = Bridge::configured(ROUTES);
    std::fs::create_dir(bridge.store()).unwrap();
    let socket = bridge.store().join("admin.sock");

    std::fs::write(&socket, "precious").unwrap();
    let words = refused(&mut bridge);
    assert!(
        words.contains("admin.sock") && words.contains("is not a socket"),
        "{words}"
    );
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    std::fs::remove_file(&socket).unwrap();

    let live = UnixListener::bind(&socket).unwrap();
    let words = refused(&mut bridge);
    assert!(
        words.contains("admin.sock") && words.contains("is in use"),
        "{words}"
    );
    assert!(
        std::os::unix::net::UnixStream::connect(&socket).is_ok(),
        "it is still there"
    );
    drop(live);

    bridge.run();
    assert_eq!(bridge.status()["ready"], true, "a dead one is replaced");
    assert_eq!(mode(&socket), 0o600);
    bridge.stop();
    assert!(!socket.exists(), "its own is removed at the end");

    bridge.run();
    std::fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    bridge.stop();
    assert!(socket.exists(), "another's stays");
}
