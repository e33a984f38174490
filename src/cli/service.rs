//! The installed systemd service as described by its unit files: its configuration, and the places where systemd puts
//! its store and socket. Commands that read the same configuration must use the same places.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CommandError, Exit, Global, problems};
use crate::config::{Config, CredentialFiles, Outside, Problems, Purpose, Severity};
use crate::store::sled;

/// The unit, as the package and the manual install it.
const UNIT: &str = "smsbridge.service";

/// The folders in which systemd looks for units, in order of precedence (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The default configuration of the service.
const CONFIG: &str = "/etc/smsbridge/config.toml";

/// The unit's name for its folder of credentials, and the default folder.
const CREDENTIALS: (&str, &str) = ("smsbridge", "/etc/smsbridge/credentials");

/// The installed service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Service {
    /// The value of `--config` in `ExecStart`.
    config: Option<PathBuf>,
    /// The first folders of `StateDirectory` and `RuntimeDirectory`, below /var/lib and /run.
    state: Option<String>,
    runtime: Option<String>,
    dynamic_user: bool,
    /// The files of `LoadCredential`.
    credentials: CredentialFiles,
}

/// The places that a command uses.
pub(super) struct Places {
    /// The configuration file.
    pub(super) config: PathBuf,
    /// The environment, with the service's folders if the configuration is that of the service.
    pub(super) outside: Outside,
    service: Option<Service>,
    is_service: bool,
    /// The configuration is that of the service, but systemd did not start this process for it.
    by_hand: bool,
}

impl Places {
    /// Finds the configuration, and the service if there is one.
    pub(super) fn find(global: &Global) -> Self {
        let mut outside = Outside::of_process();
        let service = Service::installed(&outside);
        let default = service.as_ref().map_or(Path::new(CONFIG), Service::config);
        let config = outside.config_path(global.config(), default);
        let is_service = service
            .as_ref()
            .is_some_and(|service| is_same(&config, service.config()));
        if is_service || is_same(&config, Path::new(CONFIG)) {
            outside = outside.with_credentials(credentials(service.as_ref().filter(|_| is_service)));
        }
        let state_given = outside.variable("STATE_DIRECTORY").is_some();
        let mut by_hand = false;
        if let Some(service) = service.as_ref().filter(|_| is_service) {
            by_hand = service.state.is_some() && !state_given;
            service.complete(&mut outside);
        }
        Self {
            config,
            outside,
            service,
            is_service,
            by_hand,
        }
    }

    /// Reads these tables of the configuration, with their secrets. Errors in other tables are ignored.
    pub(super) fn read(&self, tables: &[&str]) -> Result<Config, CommandError> {
        let (config, problems) =
            Config::load(&self.config, Purpose::Serve, &self.outside).map_err(print_all)?;
        Self::sound(tables, config, problems)
    }

    /// Like `read`, for finding the running daemon: the file may be invalid TOML, because the daemon itself reports
    /// that.
    pub(super) fn recover(&self, tables: &[&str]) -> Result<Config, CommandError> {
        let loaded = Config::load(&self.config, Purpose::Route, &self.outside)
            .or_else(|_| Config::recover(&self.config, Purpose::Route, &self.outside));
        let (config, problems) = loaded.map_err(print_all)?;
        Self::sound(tables, config, problems)
    }

    fn sound(tables: &[&str], config: Config, problems: Problems) -> Result<Config, CommandError> {
        let concerned = problems.all().iter().any(|problem| {
            let table = problem.key.split('.').next().unwrap_or_default();
            problem.severity == Severity::Error && tables.contains(&table)
        });
        if concerned {
            return Err(print_all(problems));
        }
        Ok(config)
    }

    /// Refuses to run the service's daemon outside the service: its files would belong to another user.
    pub(super) fn refuse_by_hand(&self) -> Result<(), CommandError> {
        if !self.by_hand {
            return Ok(());
        }
        Err(CommandError::wrong(format!(
            "{} is the configuration of the installed service: start it with `systemctl start smsbridge`. To run \
             another daemon by hand, give it a configuration of its own with --config",
            self.config.display()
        )))
    }

    /// Why the daemon may run at another socket than this one, and the next step: the configuration does not name the
    /// socket, and is not sound. `None` if the configuration explains where the socket is.
    pub(super) fn doubt(&self, socket: &Path) -> Option<String> {
        let loaded = Config::load(&self.config, Purpose::Route, &self.outside);
        let nothing = Config::read("", &self.config, Purpose::Route, &self.outside)
            .ok()?
            .0;
        if self.is_service || nothing.admin.socket != socket {
            return None;
        }
        let config = self.config.display();
        let what = match loaded {
            Err(problems) => {
                let first = problems.all().first().map(|first| problems.place(first));
                format!("{config} cannot be read ({})", first.unwrap_or_default())
            }
            Ok((_, problems)) if is_wrong(&problems) => format!(
                "{config} names neither `admin.socket` nor `store.path`, and has {} (`smsbridge check` lists them)",
                problems.error_count()
            ),
            Ok(_) => return None,
        };
        Some(format!(
            "{what}, so the default socket was tried, and a running daemon may have another one: fix the file, or pass \
             the file that the daemon was started with as --config PATH"
        ))
    }

    /// Why the daemon may not respond, and how to start it.
    pub(super) fn not_running(&self) -> String {
        match &self.service {
            Some(_) if self.is_service => service_state().to_owned(),
            _ if let Some(words) = self.held_open() => words,
            Some(service) => format!(
                "the daemon of {} is not running. The installed service has another configuration: for that one, add \
                 --config {}",
                self.config.display(),
                service.config().display()
            ),
            None => format!(
                "the daemon is not running; start it with `smsbridge serve --config {}`",
                self.config.display()
            ),
        }
    }

    /// An explanation if a process has the store open: the daemon is running, although it does not respond.
    fn held_open(&self) -> Option<String> {
        let store = self.recover(&["store"]).ok()?.store;
        let store = store.database.is_none().then_some(store.path)?;
        sled::is_in_use(&store).then(|| {
            format!(
                "smsbridge is starting or stopping: it has the store {} open, see its log (or was \
                 `admin.socket` changed without a restart?)",
                store.display()
            )
        })
    }

    /// Refuses a store that is not configured: with the system-wide configuration, a store in the default folder
    /// would not be that of any service.
    pub(super) fn refuse_to_guess(&self, store: &Path) -> Result<(), CommandError> {
        let guessed = self.outside.folder("STATE_DIRECTORY").is_none()
            && is_same(&self.config, Path::new(CONFIG))
            && store.file_name().is_some_and(|name| name == "smsbridge-data");
        if !guessed {
            return Ok(());
        }
        Err(CommandError::wrong(format!(
            "the store of {} is unknown: the file has no `store.path`, and no installed {UNIT} has a \
             StateDirectory. Set `store.path`, or set STATE_DIRECTORY=FOLDER for the command",
            self.config.display()
        )))
    }

    /// Returns true if the configuration is that of the installed service.
    pub(super) fn is_service(&self) -> bool {
        self.is_service
    }
}

fn is_wrong(problems: &Problems) -> bool {
    let mut all = problems.all().iter();
    all.any(|problem| problem.severity == Severity::Error)
}

impl Service {
    fn installed(outside: &Outside) -> Option<Self> {
        Self::read(&unit_folders(outside))
    }

    /// Reads the unit and its drop-ins. A masked unit is treated as missing.
    fn read(folders: &[PathBuf]) -> Option<Self> {
        let unit = folders
            .iter()
            .find_map(|folder| std::fs::read_to_string(folder.join(UNIT)).ok())
            .filter(|unit| !unit.trim().is_empty())?;
        let mut service = Self::default();
        service.apply(&unit);
        for path in drop_ins(folders).values() {
            service.apply(&std::fs::read_to_string(path).unwrap_or_default());
        }
        Some(service)
    }

    /// Applies the lines of a unit file.
    fn apply(&mut self, file: &str) {
        let file = file.replace("\\\n", " ");
        for (key, value) in file.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim();
            match key.trim() {
                "StateDirectory" => set_folder(&mut self.state, value),
                "RuntimeDirectory" => set_folder(&mut self.runtime, value),
                "DynamicUser" => self.dynamic_user = matches!(value, "1" | "yes" | "true" | "on"),
                "ExecStart" => self.config = config_of(value),
                "LoadCredential" => load_credential(&mut self.credentials, value),
                "LoadCredentialEncrypted" | "SetCredential" | "SetCredentialEncrypted" => {
                    let name = value.split(':').next().unwrap_or_default().to_owned();
                    self.credentials.elsewhere.insert(name);
                }
                _ => {}
            }
        }
    }

    fn config(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(CONFIG))
    }

    /// Sets the variables that systemd sets for the service's own processes.
    fn complete(&self, outside: &mut Outside) {
        if let Some(name) = &self.state {
            outside.set_default(
                "STATE_DIRECTORY",
                &state_folder(Path::new("/var/lib"), name, self.dynamic_user),
            );
        }
        if let Some(name) = &self.runtime {
            outside.set_default("RUNTIME_DIRECTORY", &Path::new("/run").join(name));
        }
    }
}

fn unit_folders(outside: &Outside) -> Vec<PathBuf> {
    match outside.variable("SYSTEMD_UNIT_PATH") {
        Some(given) => given
            .split(':')
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from)
            .collect(),
        None => UNIT_FOLDERS.map(PathBuf::from).to_vec(),
    }
}

/// The drop-ins by name, in the order in which systemd applies them. Of two with the same name, the one in the folder
/// with precedence is used.
fn drop_ins(folders: &[PathBuf]) -> BTreeMap<OsString, PathBuf> {
    let listed = folders
        .iter()
        .rev()
        .filter_map(|folder| std::fs::read_dir(folder.join(format!("{UNIT}.d"))).ok());
    listed
        .flatten()
        .filter_map(|entry| Some((entry.as_ref().ok()?.file_name(), entry.ok()?.path())))
        .filter(|(_, path)| path.extension().is_some_and(|extension| extension == "conf"))
        .collect()
}

/// The first folder of a list is used. An empty value resets the list.
fn set_folder(folder: &mut Option<String>, value: &str) {
    let Some(first) = value.split_whitespace().next() else {
        *folder = None;
        return;
    };
    // `NAME:LINK` also creates a link. A specifier such as `%i` has no meaning outside systemd.
    let name = first.split(':').next().unwrap_or_default();
    if folder.is_none() && !name.contains('%') {
        *folder = Some(name.to_owned());
    }
}

/// The files of the service's credentials; the default folder if no installed unit lists any.
fn credentials(service: Option<&Service>) -> CredentialFiles {
    service.map_or_else(
        || CredentialFiles {
            folder: Some(PathBuf::from(CREDENTIALS.1)),
            ..CredentialFiles::default()
        },
        |service| service.credentials.clone(),
    )
}

/// `NAME:PATH`; an empty value resets the list. A name alone is a file of systemd's own credential store.
fn load_credential(credentials: &mut CredentialFiles, value: &str) {
    if value.is_empty() {
        *credentials = CredentialFiles::default();
        return;
    }
    let Some((name, path)) = value.split_once(':') else {
        credentials.elsewhere.insert(value.to_owned());
        return;
    };
    if name == CREDENTIALS.0 {
        credentials.folder = Some(PathBuf::from(path));
    } else {
        credentials.single.insert(name.to_owned(), PathBuf::from(path));
    }
}

/// The value of `--config` in a command line.
fn config_of(command: &str) -> Option<PathBuf> {
    let mut words = command
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']));
    while let Some(word) = words.next() {
        match word {
            "--config" | "-c" => return words.next().map(PathBuf::from),
            _ => {
                if let Some(path) = word.strip_prefix("--config=") {
                    return Some(PathBuf::from(path));
                }
            }
        }
    }
    None
}

/// The folder itself instead of the link to it: systemd creates the link when the service starts, and a dangling link
/// prevents creating a folder. A folder created before `DynamicUser` was enabled is moved by systemd, including its
/// content.
fn state_folder(base: &Path, name: &str, dynamic_user: bool) -> PathBuf {
    let public = base.join(name);
    if dynamic_user && !std::fs::symlink_metadata(&public).is_ok_and(|found| found.is_dir()) {
        base.join("private").join(name)
    } else {
        public
    }
}

fn is_same(path: &Path, other: &Path) -> bool {
    let whole = |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    path == other || matches!((whole(path), whole(other)), (Ok(path), Ok(other)) if path == other)
}

/// Asks systemd for the state, so that a starting service is not reported as stopped.
fn service_state() -> &'static str {
    let asked = Command::new("systemctl")
        .args(["is-active", UNIT])
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .output();
    let state = asked.map(|output| output.stdout).unwrap_or_default();
    match state.trim_ascii() {
        b"active" | b"reloading" => {
            "the service is running but does not answer there: was `admin.socket` changed without a restart? \
             `systemctl restart smsbridge`"
        }
        b"activating" => {
            "the service is starting, or is started again after an error: `journalctl -u smsbridge` says which"
        }
        b"deactivating" => "the service is stopping: `systemctl status smsbridge` says what it waits for",
        _ => {
            "the service is not running; start it with `systemctl start smsbridge` (`journalctl -u smsbridge` says why \
             it stopped)"
        }
    }
}

fn print_all(problems: Problems) -> CommandError {
    problems::print_all(&problems);
    CommandError::from(Exit::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(config: &str, state: &str) -> Option<Service> {
        Some(Service {
            config: Some(config.into()),
            state: Some(state.to_owned()),
            runtime: Some("smsbridge".to_owned()),
            dynamic_user: true,
            credentials: CredentialFiles {
                folder: Some(CREDENTIALS.1.into()),
                // Set to a word, so that the service starts without the folder.
                elsewhere: [CREDENTIALS.0.to_owned()].into(),
                ..CredentialFiles::default()
            },
        })
    }

    #[test]
    fn the_unit_and_its_drop_ins_are_read_as_systemd_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let folders = ["etc", "lib"].map(|name| folder.path().join(name));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(Service::read(&folders), None);
        write(
            "lib/smsbridge.service",
            include_str!("../../systemd/smsbridge.service"),
        );
        let shipped = service(CONFIG, "smsbridge");
        assert_eq!(Service::read(&folders), shipped);
        write("etc/smsbridge.service.d/note.txt", "[Service]\nStateDirectory=\n");
        write(
            "lib/smsbridge.service.d/a.conf",
            "[Service]\nStateDirectory=unused\n",
        );
        write(
            "etc/smsbridge.service.d/a.conf",
            "[Service]\nStateDirectory=\nStateDirectory=sms:link more\n",
        );
        write(
            "etc/smsbridge.service.d/b.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/smsbridge serve \\\n  --config=/srv/sms.toml\n",
        );
        assert_eq!(Service::read(&folders), service("/srv/sms.toml", "sms"));
        write(
            "etc/smsbridge.service.d/c.conf",
            "[Service]\nStateDirectory=\nStateDirectory=%N\n",
        );
        assert_eq!(Service::read(&folders).unwrap().state, None);
        write(
            "etc/smsbridge.service.d/d.conf",
            "[Service]\nLoadCredential=code:/srv/code\nLoadCredential=stored\n",
        );
        let credentials = Service::read(&folders).unwrap().credentials;
        let path = |name| credentials.path(name).map(|path| path.display().to_string());
        assert_eq!(path("code").as_deref(), Some("/srv/code"));
        assert_eq!(path("other").as_deref(), Some("/etc/smsbridge/credentials/other"));
        assert_eq!(path("stored"), None);
        // A masked unit.
        write("etc/smsbridge.service", "");
        assert_eq!(Service::read(&folders), None);
    }

    #[test]
    fn the_store_of_a_dynamic_user_is_found_before_and_after_its_first_start() {
        let base = tempfile::tempdir().unwrap();
        let (public, private) = (base.path().join("sms"), base.path().join("private/sms"));
        let found = |dynamic| state_folder(base.path(), "sms", dynamic);
        assert_eq!((found(true), found(false)), (private.clone(), public.clone()));
        // The dangling link that systemd creates.
        std::os::unix::fs::symlink("private/sms", &public).unwrap();
        assert_eq!(found(true), private);
        std::fs::remove_file(&public).unwrap();
        std::fs::create_dir(&public).unwrap();
        assert_eq!(found(true), public);
    }

    #[test]
    fn the_store_of_the_system_wide_configuration_is_not_guessed() {
        let places = |outside| Places {
            config: CONFIG.into(),
            outside,
            service: None,
            is_service: false,
            by_hand: false,
        };
        let beside = Path::new("/etc/smsbridge/smsbridge-data");
        let refused = places(Outside::default()).refuse_to_guess(beside).unwrap_err();
        assert_eq!(refused.print(), Exit::Wrong);
        assert!(
            places(Outside::default())
                .refuse_to_guess(Path::new("/srv/sms"))
                .is_ok()
        );
        let given = Outside::of([("STATE_DIRECTORY", "/etc/smsbridge/smsbridge-data")]);
        assert!(places(given).refuse_to_guess(beside).is_ok());
    }
}
