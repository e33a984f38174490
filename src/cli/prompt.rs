//! Asks for confirmation before an irreversible action.

use std::io::{self, IsTerminal as _, Write as _};

use super::{CommandError, print};

/// Returns if `--yes` was given or the person at the terminal confirms. Without a terminal, an action that needs
/// confirmation is refused: a script passes `--yes`.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(CommandError::wrong(format!(
            "{question} Not a terminal: add --yes to confirm. Nothing was changed"
        )));
    }
    eprint!("{} [y/N] ", print::harmless(question));
    let mut answer = String::new();
    let read = io::stderr()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer));
    match read {
        Ok(_) if is_yes(&answer) => Ok(()),
        _ => Err(CommandError::failed("not confirmed; nothing was changed")),
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
