//! Asking before something happens that cannot be taken back.

use std::io::{self, IsTerminal as _, Write as _};

use super::{Stop, print};

/// Goes on when `--yes` was given, or the person at the terminal agrees. Where nobody can be asked, an action
/// that wants a word first is refused: a script says `--yes`.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Stop> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Stop::wrong(format!(
            "{question} Nobody can be asked here: add --yes. Nothing was done"
        )));
    }
    eprint!("{} [y/N] ", print::harmless(question));
    let mut answer = String::new();
    let read = io::stderr()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer));
    match read {
        Ok(_) if is_yes(&answer) => Ok(()),
        _ => Err(Stop::failed("nothing was done")),
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!([" Y\n", "yes", "y"].into_iter().all(is_yes));
        assert!(!["", "\n", "n", "yep", "no, yes"].into_iter().any(is_yes));
    }
}
