//! Compiles the regular expressions of all routes within one budget: a few characters can require megabytes
//! and seconds, and a limit for each expression does not limit many of them.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

/// Maximum length of an expression, in bytes.
const TEXT_MAX: usize = 8 * 1024;

/// Limits for the compiled size of one expression, in bytes. They are tried in this order, and the first
/// sufficient one counts. `\w{1,50}` fits.
const SIZES: [usize; 8] = [
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 23,
];

/// Limit for the compiled size of all expressions. Compiling this much takes about a second.
const SIZE_MAX: usize = 32 * 1024 * 1024;

/// Maximum number of different expressions. Each takes about 50 KiB, however small it is.
const COUNT_MAX: usize = 10_000;

/// Maximum memory for the cache of one expression at run time, in bytes. A smaller cache is slower, not
/// wrong.
const CACHE_MAX: usize = 1024 * 1024;

/// Why an expression was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    /// It is invalid, or too large.
    #[error("not a usable regular expression: {}", last_line(.0))]
    Wrong(#[from] regex::Error),
    /// It is too long.
    #[error("longer than {} KiB", TEXT_MAX / 1024)]
    TooLong,
    /// Together with the previous ones it exceeds the budget.
    #[error(
        "the regular expressions of all routes are too large together; this one takes {} KiB or more: bounded repetitions \
         such as `{{1,50}}` and classes such as `\\w` make one large",
        .0 / 1024
    )]
    TooLarge(usize),
    /// There are too many different expressions.
    #[error("more than {COUNT_MAX} different regular expressions")]
    TooMany,
}

/// The expressions compiled so far. Identical ones count once.
#[derive(Debug, Default)]
pub struct Expressions {
    known: HashMap<String, Regex>,
    size: usize,
}

impl Expressions {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The expression is invalid or exceeds the budget.
    pub fn compile(&mut self, text: &str) -> Result<Regex, ExpressionError> {
        if let Some(known) = self.known.get(text) {
            return Ok(known.clone());
        }
        if text.len() > TEXT_MAX {
            return Err(ExpressionError::TooLong);
        }
        if self.known.len() == COUNT_MAX {
            return Err(ExpressionError::TooMany);
        }
        let mut builder = RegexBuilder::new(text);
        builder.dfa_size_limit(CACHE_MAX);
        let mut failed = None;
        for size in SIZES {
            if self.size + size > SIZE_MAX {
                return Err(ExpressionError::TooLarge(size));
            }
            match builder.size_limit(size).build() {
                Ok(expression) => {
                    self.size += size;
                    self.known.insert(text.to_owned(), expression.clone());
                    return Ok(expression);
                }
                Err(error @ regex::Error::CompiledTooBig(_)) => failed = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(failed.map_or(ExpressionError::TooLong, ExpressionError::from))
    }
}

/// The last line of the error, which states the problem; the lines before it show the expression.
fn last_line(error: &regex::Error) -> String {
    let whole = error.to_string();
    let last = whole.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_expression_is_explained_on_one_line() {
        let error = Expressions::default().compile("(unclosed").unwrap_err();
        assert_eq!(
            error.to_string(),
            "not a usable regular expression: unclosed group"
        );
    }

    #[test]
    fn many_small_ones_fit_and_a_few_large_ones_do_not() {
        let mut small = Expressions::default();
        for number in 0..50 {
            small
                .compile(&format!(r"(?i)\b(alarm|fault)\s+pump{number}\b"))
                .unwrap();
        }
        // Ten thousand of them would fit.
        assert!(small.size * 200 <= 2 * SIZE_MAX, "{}", small.size);
        let mut large = Expressions::default();
        let refused = (0..200).find_map(|number| large.compile(&format!("x{{100000}}{number}")).err());
        assert!(
            matches!(refused, Some(ExpressionError::TooLarge(_))),
            "{refused:?}"
        );
        assert!(
            large.known.len() >= 4 && large.size <= SIZE_MAX,
            "{}",
            large.known.len()
        );
        let compiled = large.known.len();
        assert!(large.compile("x{100000}0").is_ok(), "known already");
        assert_eq!(large.known.len(), compiled);
    }

    #[test]
    fn a_far_too_large_expression_is_refused() {
        for text in [
            r"\w{1,500}",
            r"(((a{100}){100}){100}){100}",
            &"(".repeat(300),
            &"x".repeat(9000),
        ] {
            let error = Expressions::default().compile(text).unwrap_err();
            println!("{error}");
        }
    }
}
