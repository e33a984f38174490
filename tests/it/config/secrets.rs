//! Secrets: their sources, and that no output repeats them.

use super::*;

fn token(path: &Path, purpose: Purpose, outside: &Outside) -> Result<(String, Vec<String>), Vec<String>> {
    let loaded = load(path, purpose, outside, None).map_err(|problems| lines(&problems))?;
    let tokens = loaded.plan.admin.token.unwrap();
    let tokens: Vec<&str> = tokens
        .all()
        .iter()
        .map(smsbridge::model::secret::Secret::reveal)
        .collect();
    Ok((tokens.join(" "), lines(&loaded.warnings)))
}

#[test]
fn secrets_are_read_from_environment_files_and_credentials() {
    let admin = "[admin]\nlisten = '127.0.0.1:1'\n\
                 token = [{ file = 'token' }, { env = 'TOKEN' }, { credential = 'token' }, 'fedcba9876543210']\n";
    let (folder, path) = folder(&format!("{admin}{BASE}"));
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    write_secret(&folder.path().join("token"), &format!("{LONG}\n\n"), 0o600);
    write_secret(&credentials.join("token"), &format!("{LONG}\r\n"), 0o644);
    let outside = Outside::of([
        ("TOKEN", LONG),
        ("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap()),
    ]);
    assert_eq!(
        token(&path, Purpose::Serve, &outside),
        Ok((format!("{LONG}\n {LONG} {LONG} fedcba9876543210"), vec![]))
    );
}

#[test]
fn credentials_come_from_the_unit_s_folder_or_one_by_one() {
    let admin =
        |name: &str| format!("[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ credential = '{name}' }}\n{BASE}");
    let credentials = tempfile::tempdir().unwrap();
    // The files that systemd creates for LoadCredential=smsbridge:FOLDER, LoadCredential=single:FILE and SetCredential=smsbridge:none.
    let files = [
        ("smsbridge_code", "a"),
        ("single", "b"),
        ("smsbridge_single", "not this one"),
        ("smsbridge", "none"),
    ];
    for (name, content) in files {
        fs::write(credentials.path().join(name), content).unwrap();
    }
    let outside = Outside::of([("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())]);
    for (name, secret) in [
        ("code", Some("a")),
        ("single", Some("b")),
        ("smsbridge", None),
        ("other", None),
    ] {
        let (_folder, path) = folder(&admin(name));
        let found = token(&path, Purpose::Serve, &outside);
        assert_eq!(
            found.as_ref().ok().map(|found| found.0.as_str()),
            secret,
            "{name}: {found:?}"
        );
    }
    let problems = problems(&admin("other"), &outside);
    assert!(
        problems[0].contains("put it into /etc/smsbridge/credentials/other"),
        "{problems:?}"
    );
}

#[test]
fn a_secret_file_readable_by_others_is_a_warning() {
    let (folder, path) = folder(&format!(
        "[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ file = 'token' }}\n{BASE}"
    ));
    write_secret(&folder.path().join("token"), LONG, 0o640);
    let warning = "3:9: warning: admin.token: the secret file token is accessible to others (mode 640): chmod 600 token";
    assert_eq!(
        token(&path, Purpose::Serve, &Outside::default()),
        Ok((LONG.to_owned(), vec![warning.to_owned()]))
    );
}

#[test]
fn an_invalid_secret_is_an_error() {
    let (folder, path) = folder(&format!(
        "[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ file = 'token' }}\n{BASE}"
    ));
    let file = folder.path().join("token");
    for (content, error) in [
        ("", "is empty"),
        ("\n", "is empty"),
        (&"x".repeat(65537), "is larger than 64KiB"),
    ] {
        write_secret(&file, content, 0o600);
        let errors = token(&path, Purpose::Serve, &Outside::default()).unwrap_err();
        assert_eq!(
            errors,
            [format!("3:9: error: admin.token: the secret file token {error}")]
        );
    }
    let wrong = format!("[admin]\ntoken = {{ credential = '../token' }}\n{BASE}");
    let problems = problems(&wrong, &Outside::of([("CREDENTIALS_DIRECTORY", "/")]));
    assert!(
        problems[0].contains("is not the name of a credential"),
        "{problems:?}"
    );
}

#[test]
fn only_serving_needs_credentials_and_routing_needs_no_secret() {
    let text =
        format!("[admin]\nlisten = '127.0.0.1:1'\ntoken = [{{ credential = 't' }}, {{ env = 'T' }}]\n{BASE}");
    let (_folder, path) = folder(&text);
    let outside = Outside::of([("T", LONG)]);
    assert!(token(&path, Purpose::Serve, &outside).unwrap_err()[0].contains("only systemd can read it"));
    let warnings = token(&path, Purpose::Check, &outside).unwrap().1;
    assert!(
        warnings.len() == 1 && warnings[0].contains("3:10: warning"),
        "{warnings:?}"
    );
    assert_eq!(
        token(&path, Purpose::Route, &Outside::default()).unwrap().1,
        [""; 0]
    );
}

#[test]
fn a_credential_is_read_from_the_file_named_in_the_unit() {
    let (folder, path) = folder(&format!(
        "[admin]\nlisten = '127.0.0.1:1'\ntoken = {{ credential = 'token' }}\n{BASE}"
    ));
    let files = |elsewhere: &[&str]| CredentialFiles {
        folder: Some(folder.path().join("credentials")),
        elsewhere: elsewhere.iter().map(ToString::to_string).collect(),
        ..CredentialFiles::default()
    };
    let outside = Outside::default().with_credentials(files(&[]));
    for purpose in [Purpose::Check, Purpose::Serve] {
        assert_eq!(
            token(&path, purpose, &outside).unwrap_err(),
            [
                "3:9: error: admin.token: credential `token` does not exist: write the secret into the file \
              credentials/token (mode 600), and restart the service"
            ]
        );
    }
    fs::create_dir(folder.path().join("credentials")).unwrap();
    write_secret(&folder.path().join("credentials/token"), LONG, 0o600);
    assert_eq!(
        token(&path, Purpose::Check, &outside),
        Ok((LONG.to_owned(), vec![]))
    );
    let encrypted = Outside::default().with_credentials(files(&["token"]));
    let warnings = token(&path, Purpose::Check, &encrypted).unwrap().1;
    assert!(
        warnings.len() == 1 && warnings[0].contains("was not checked"),
        "{warnings:?}"
    );
}

#[test]
fn no_message_repeats_a_secret() {
    let outside = Outside::of([("CANARY", "canary-7")]);
    let canary = "{ env = 'CANARY' }";
    let wrong = [
        format!("[server]\nlisten = {canary}\nmax_body = {canary}\nheader_timeout = {canary}"),
        format!("[server]\npublic_url = {canary}\ntrusted_proxies = [{canary}]\nmax_connections = {canary}"),
        format!(
            "[log]\nlevel = {canary}\nformat = {canary}\n[store]\nretain = {canary}\nmin_free = {canary}"
        ),
        format!("[smtp.x]\nhost = 'h'\nport = {canary}\nsecurity = {canary}"),
        format!(
            "[destination.x]\nkind = 'console'\nrate = {canary}\nconcurrency = {canary}\ntimeout = {canary}"
        ),
        "[server]\nmax_body = 'canary-7x'\nmax_connections = 'canary-7'".to_owned(),
    ];
    for text in wrong {
        let problems = problems(&format!("{text}\n{BASE}"), &outside);
        let errors = problems.iter().filter(|line| line.contains("error")).count();
        assert!(errors >= 2, "{problems:?}");
        let told = problems
            .iter()
            .any(|line| line.contains("canary-7") && !line.contains("canary-7x"));
        assert!(!told, "{problems:?}");
    }
}
