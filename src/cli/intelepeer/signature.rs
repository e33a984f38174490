//! `smsbridge intelepeer detect-signature`: derives the lines for the configuration from one captured webhook.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::{CommandError, Exit, Global, print};
use crate::model::secret::Secret;
use crate::source::intelepeer::detect::{self, Scheme};

/// Larger than any webhook or secret.
const FILE_MAX: u64 = 1024 * 1024;

/// The arguments of `intelepeer detect-signature`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A file with the shared code or the account's secret in it
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// The body of one webhook as it arrived, `-` for standard input
    #[arg(value_name = "SAMPLE.json")]
    sample: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let secret = secret(&arguments.secret_file)?;
    let sample = read(&arguments.sample)?;
    let schemes = detect::detect(&secret, &sample)
        .map_err(|error| CommandError::failed(format!("{}: {error}", arguments.sample.display())))?;
    if global.json {
        print::json(&json!({ "schemes": schemes.iter().map(describe).collect::<Vec<_>>() }))?;
        return Ok(if schemes.is_empty() {
            Exit::Failed
        } else {
            Exit::Done
        });
    }
    let Some((first, others)) = schemes.split_first() else {
        return Err(CommandError::failed(
            "no known scheme explains the signature with this secret: check that it belongs to this account and that the sample is \
             exactly the body that arrived. If both are right, guard the source with `basic_auth` or `allow_from` instead",
        ));
    };
    print::text(&format!("# below [source.NAME]:\n{}", detect::lines(first)))?;
    if !others.is_empty() {
        let others: String = others
            .iter()
            .map(|scheme| format!("\n# or:\n{}", detect::lines(scheme)))
            .collect();
        print::text(&others)?;
        print::remark("several schemes match this sample; try another one to distinguish them");
    }
    Ok(Exit::Done)
}

/// Reads a secret like the configuration: a newline at the end is removed.
fn secret(path: &Path) -> Result<Secret, CommandError> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| CommandError::wrong(format!("{}: the secret is not text", path.display())))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(CommandError::wrong(format!(
            "{}: the secret is empty",
            path.display()
        )));
    }
    Ok(Secret::new(secret))
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|error| CommandError::wrong(format!("{} cannot be read: {error}", path.display())))?;
    Ok(bytes)
}

fn describe(scheme: &Scheme) -> Value {
    let lines = detect::lines(scheme);
    match scheme {
        Scheme::SharedCode => json!({ "verify": "shared-code", "lines": lines }),
        Scheme::Hmac(config) => json!({
            "verify": "hmac",
            "hmac": {
                "algorithm": config.algorithm.as_str(),
                "encoding": config.encoding.as_str(),
                "over": config.over,
                "refid_length": config.refid_length,
            },
            "lines": lines,
        }),
    }
}
