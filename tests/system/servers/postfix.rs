//! A real Postfix: all its files are in a temporary folder, and it listens only on the loopback interface.
//!
//! Needs root and the Debian packages `postfix`, `sasl2-bin`, `libsasl2-modules`, `libsasl2-modules-db` and `openssl`.
//! `/etc/postfix` is neither read nor written.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The user of the login.
pub const USERNAME: &str = "bridge";
/// The password of the login.
pub const PASSWORD: &str = "correct horse";

/// The mailboxes at `example.com`; `greylisted` is deferred once.
pub const USERS: [&str; 5] = ["desk", "night", "sms", "victim", "greylisted"];

/// A running Postfix; dropping it stops it.
///
/// It accepts mail for [`USERS`] at `example.com` from clients that logged in over TLS, each into its own Maildir.
/// `refused@` and all others are unknown (550), `deferred@` is always deferred (451).
pub struct Postfix {
    folder: TempDir,
    /// The port with STARTTLS.
    pub starttls_port: u16,
    /// The port with implicit TLS.
    pub tls_port: u16,
}

impl Postfix {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it cannot be started, with the reason: a test that needs it must fail without it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pf")
            .tempdir()
            .expect("a temporary folder");
        let [starttls_port, tls_port] = free_ports();
        let postfix = Self {
            folder,
            starttls_port,
            tls_port,
        };
        postfix.lay_out();
        postfix.make_certificate();
        postfix.make_account();
        postfix.configure();
        run(Command::new("postfix")
            .arg("-c")
            .arg(postfix.path("etc"))
            .arg("start"));
        postfix.wait();
        postfix
    }

    /// The authority that signed its certificate, which is for `localhost`.
    pub fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The e-mails in a user's Maildir at `example.com`, oldest first, once there are `count` of them.
    ///
    /// # Panics
    /// When there are fewer after ten seconds, or more.
    pub fn mails(&self, user: &str, count: usize) -> Vec<String> {
        let folder = self.path("mail").join(user).join("new");
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let mut files: Vec<PathBuf> = fs::read_dir(&folder)
                .map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect())
                .unwrap_or_default();
            assert!(
                files.len() <= count,
                "{} e-mails for {user} instead of {count}",
                files.len()
            );
            if files.len() == count {
                files.sort_by_key(|file| {
                    fs::metadata(file)
                        .and_then(|data| data.modified())
                        .expect("its time")
                });
                return files
                    .iter()
                    .map(|file| fs::read_to_string(file).expect("an e-mail"))
                    .collect();
            }
            assert!(
                Instant::now() < end,
                "{} e-mails for {user} instead of {count}\n{}",
                files.len(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("mail.log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let text = text
            .replace("{folder}", &self.folder.path().display().to_string())
            .replace("{starttls_port}", &self.starttls_port.to_string())
            .replace("{tls_port}", &self.tls_port.to_string());
        fs::write(self.path(name), text).expect("a file for Postfix");
    }

    /// The folders, with the owners that Postfix's own programs insist on.
    fn lay_out(&self) {
        open_to_all(self.folder.path());
        for name in ["etc", "etc/sasl", "queue", "data", "mail", "seen"] {
            fs::create_dir(self.path(name)).expect("a folder for Postfix");
        }
        run(Command::new("chown").arg("postfix").arg(self.path("data")));
        run(Command::new("chown")
            .arg("nobody")
            .arg(self.path("mail"))
            .arg(self.path("seen")));
    }

    fn make_certificate(&self) {
        self.write(
            "leaf.ext",
            "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n",
        );
        let new_key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ];
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-days", "2", "-subj", "/CN=test authority"])
            .args(new_key);
        openssl.args([
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        run(openssl.current_dir(self.folder.path()));
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-new", "-subj", "/CN=localhost"])
            .args(new_key);
        run(openssl
            .args(["-keyout", "leaf.key", "-out", "leaf.csr"])
            .current_dir(self.folder.path()));
        let mut openssl = Command::new("openssl");
        openssl.args([
            "x509", "-req", "-days", "2", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        ]);
        openssl.args(["-CAcreateserial", "-extfile", "leaf.ext", "-out", "leaf.pem"]);
        run(openssl.current_dir(self.folder.path()));
    }

    fn make_account(&self) {
        let database = self.path("sasldb2");
        let script = format!("printf %s '{PASSWORD}' | saslpasswd2 -p -c -u localhost -f \"$0\" {USERNAME}");
        run(Command::new("sh").arg("-c").arg(script).arg(&database));
        run(Command::new("chown").arg("postfix").arg(&database));
    }

    fn configure(&self) {
        self.write("etc/sasl/smtpd.conf", SASL);
        self.write("etc/access", ACCESS);
        let mailboxes: String = USERS
            .iter()
            .map(|user| format!("{user}@example.com {user}/\n"))
            .collect();
        self.write("etc/mailboxes", &mailboxes);
        self.write("etc/greylist.sh", GREYLIST);
        self.write("etc/main.cf", MAIN);
        self.write("etc/master.cf", MASTER);
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        for port in [self.starttls_port, self.tls_port] {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                assert!(
                    Instant::now() < end,
                    "Postfix does not listen on port {port}\n{}",
                    self.log()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let stopped = Command::new("postfix")
            .arg("-c")
            .arg(self.path("etc"))
            .arg("stop")
            .output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            eprintln!("Postfix in {} did not stop", self.folder.path().display());
        }
    }
}

/// Runs a command to its end. Its output goes to a file and not a pipe, which Postfix's daemons would keep
/// open.
fn run(command: &mut Command) {
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = |file: &tempfile::NamedTempFile| Stdio::from(file.reopen().expect("the temporary file"));
    let status = command
        .stdin(Stdio::null())
        .stdout(output(&log))
        .stderr(output(&log))
        .status();
    let said = fs::read_to_string(log.path()).unwrap_or_default();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{command:?}: {status:?}\n{said}"
    );
}

fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("permissions of the folder");
}

/// Two free ports. Both are bound until both are found, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}

const SASL: &str = "\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb2
mech_list: PLAIN LOGIN
";

const ACCESS: &str = "\
refused@example.com 550 5.1.1 User unknown in the test
deferred@example.com 451 4.3.0 Not now, says the test
";

/// A policy server that records in a folder which recipients it has deferred.
const GREYLIST: &str = r#"
while read -r line; do
  case "$line" in
    recipient=greylisted*) seen="{folder}/seen/${line#recipient=}"; known=yes; test -e "$seen" || known=no ;;
    recipient=*) seen=; known=yes ;;
    "")
      if test "$known" = yes; then printf 'action=dunno\n\n'; else : >"$seen"; printf 'action=451 4.7.1 Greylisted\n\n'; fi ;;
  esac
done
"#;

const MAIN: &str = "\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks =
myhostname = localhost
mydestination =
local_transport = error:no local mail
alias_maps =
alias_database =
virtual_mailbox_domains = example.com
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/etc/mailboxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = {folder}/leaf.pem
smtpd_tls_key_file = {folder}/leaf.key
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = localhost
cyrus_sasl_config_path = {folder}/etc/sasl
smtpd_delay_reject = no
smtpd_sender_restrictions = permit_sasl_authenticated, reject
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access texthash:{folder}/etc/access, check_policy_service unix:private/policy
";

const MASTER: &str = "\
127.0.0.1:{starttls_port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
policy unix - n n - 0 spawn user=nobody argv=/bin/sh {folder}/etc/greylist.sh
postlog unix-dgram n - n - 1 postlogd
";
