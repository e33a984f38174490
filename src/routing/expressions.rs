//! Compiles the regular expressions of all routes within a budget: a few characters can ask for megabytes and for
//! seconds, and the limit of one expression does not bound many.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

/// The longest expression, in bytes.
const TEXT_MAX: usize = 8 * 1024;

/// How large one expression may be when it is compiled, in bytes: tried in this order, and the first that is enough
/// counts. `\w{1,50}` fits.
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

/// How large all of them may be together. Compiling this much takes about a second.
const SIZE_MAX: usize = 32 * 1024 * 1024;

/// How many different ones there may be. Each takes some 50 KiB, however small it is.
const COUNT_MAX: usize = 10_000;

/// The most memory one may take for a cache at work, in bytes. With less it is slower, not wrong.
const CACHE_MAX: usize = 1024 * 1024;

/// Why there is no expression.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    /// It is none, or too large.
    #[error("not a usable regular expression: {}", last_line(.0))]
    Wrong(#[from] regex::Error),
    /// It is too long.
    #[error("longer than {} KiB", TEXT_MAX / 1024)]
    TooLong,
    /// With those before it the budget is used up.
    #[error(
        "the regular expressions of all routes are too large together; this one takes {} KiB or more: bounded repetitions \
         such as `{{1,50}}` and classes such as `\\w` make one large",
        .0 / 1024
    )]
    TooLarge(usize),
    /// There are too many others.
    #[error("more than {COUNT_MAX} different regular expressions")]
    TooMany,
}

/// The expressions that were compiled so far. Two that are written alike are one.
#[derive(Debug, Default)]
pub struct Expressions {
    known: HashMap<String, Regex>,
    size: usize,
}

impl Expressions {
    /// Compiles one more.
    ///
    /// # Errors
    /// When it is no regular expression, or beyond the budget.
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

/// The expression is drawn over several lines by the regex crate; its last line says what is wrong.
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
    fn one_beyond_all_measure_is_refused() {
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
