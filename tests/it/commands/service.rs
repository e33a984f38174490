//! Commands on a machine where the service is installed: they find its configuration, its store and its socket.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::TWO;

/// An installed service that is not running: its unit and its configuration.
struct Installed {
    folder: tempfile::TempDir,
    /// The name of the unit's folders below /var/lib and /run. They are never created.
    name: String,
}

impl Installed {
    fn new(test: &str) -> Self {
        let name = format!("smsbridge-test-{test}-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let installed = Self { folder, name };
        installed.write(
            "units/smsbridge.service",
            &format!(
                "[Service]\nExecStart=/usr/bin/smsbridge serve --config {}\nDynamicUser=yes\n\
                 StateDirectory={name}\nRuntimeDirectory={name}\n",
                installed.path("etc/config.toml").display(),
                name = installed.name,
            ),
        );
        let head = "[server]\nlisten = \"127.0.0.1:1\"\n[source.intelepeer]\nkind = \"intelepeer\"\nsecret = \"0123456789abcdef\"\n";
        installed.write("etc/config.toml", &format!("{head}{TWO}"));
        installed.write("own/config.toml", &format!("{head}{TWO}"));
        installed.write("elsewhere/empty", "");
        installed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs a command in a folder and returns its exit status and standard error.
    fn run(&self, folder: &str, arguments: &[&str]) -> (i32, String) {
        let output = Command::new("timeout")
            .args(["20", env!("CARGO_BIN_EXE_smsbridge")])
            .args(arguments)
            .current_dir(self.path(folder))
            .env("SYSTEMD_UNIT_PATH", self.path("units"))
            .env_remove("SMSBRIDGE_CONFIG")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    }

    fn socket(&self) -> String {
        format!("/run/{}/admin.sock", self.name)
    }
}

#[test]
fn commands_find_the_installed_service_and_say_how_to_start_it() {
    let installed = Installed::new("status");
    let config = installed.path("etc/config.toml");
    let named = ["--config", config.to_str().unwrap()];
    for (folder, named) in [("elsewhere", &[][..]), ("etc", &[]), ("own", &named)] {
        for command in [&["status"][..], &["message", "list"], &["reload"]] {
            let (status, said) = installed.run(folder, &[command, named].concat());
            assert_eq!(status, 3, "{folder}: {said}");
            assert!(said.contains("the service is not running"), "{folder}: {said}");
            assert!(said.contains("`systemctl start smsbridge`"), "{folder}: {said}");
            assert!(said.contains(&installed.socket()), "{folder}: {said}");
            assert!(!said.contains("smsbridge serve"), "{folder}: {said}");
        }
    }
    let simulate = [
        "simulate",
        "--from",
        "+13035550100",
        "--to",
        "+13038675309",
        "--message",
        "x",
    ];
    let (status, said) = installed.run("elsewhere", &simulate);
    assert!(
        status == 3 && said.contains("`systemctl start smsbridge`"),
        "{status}: {said}"
    );
}

#[test]
fn another_configuration_beside_an_installed_service_says_which_is_the_service_s() {
    let installed = Installed::new("other");
    let (status, said) = installed.run("own", &["status"]);
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("smsbridge-data/admin.sock"), "{said}");
    let config = installed.path("etc/config.toml");
    assert!(said.contains(&format!("--config {}", config.display())), "{said}");
    assert!(!said.contains("smsbridge serve"), "{said}");
}

#[test]
fn the_service_s_daemon_is_not_started_by_hand() {
    let installed = Installed::new("serve");
    let (status, said) = installed.run("etc", &["serve"]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("`systemctl start smsbridge`"), "{said}");
    assert!(!installed.path("etc/smsbridge-data").exists());
    assert!(!Path::new("/var/lib").join(&installed.name).exists());
}

#[test]
fn check_reads_the_service_s_credentials_and_a_missing_one_is_an_error() {
    let installed = Installed::new("credentials");
    let folder = installed.path("credentials");
    let unit = std::fs::read_to_string(installed.path("units/smsbridge.service")).unwrap();
    let line = format!("LoadCredential=smsbridge:{}\n", folder.display());
    installed.write("units/smsbridge.service", &format!("{unit}{line}"));
    let head = "[server]\nlisten = \"127.0.0.1:1\"\n[source.intelepeer]\nkind = \"intelepeer\"\n\
                secret = { credential = \"code\" }\n";
    installed.write("etc/config.toml", &format!("{head}{TWO}"));
    let (status, said) = installed.run("etc", &["check"]);
    let file = folder.join("code").display().to_string();
    assert!(
        status == 2 && said.contains("config.toml:5:10: source.intelepeer.secret") && said.contains(&file),
        "{status} {said}"
    );
    installed.write("credentials/code", "0123456789abcdef");
    assert_eq!(installed.run("etc", &["check"]), (0, String::new()));
}

#[test]
fn a_warning_fails_a_strict_check_only() {
    let installed = Installed::new("strict");
    let head = "[server]\nlisten = \"0.0.0.0:1\"\n[source.intelepeer]\nkind = \"intelepeer\"\n\
                secret = \"0123456789abcdef\"\n";
    installed.write("own/config.toml", &format!("{head}{TWO}"));
    let (status, said) = installed.run("own", &["check"]);
    assert!(
        status == 0 && said.contains("config.toml:2:10: server.listen: "),
        "{status} {said}"
    );
    let (status, said) = installed.run("own", &["check", "--strict"]);
    assert!(
        status == 2 && said.contains("1 warning; --strict"),
        "{status} {said}"
    );
}
