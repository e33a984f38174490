//! Routes by the words that their regular expression requires.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex_syntax::hir::literal::{ExtractKind, Extractor};

/// Routes by word. One pass over the body finds all words.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    ids: HashMap<String, usize>,
    routes: Vec<Vec<usize>>,
    /// Created by [`Words::seal`]; `None` while there are no words.
    finder: Option<Arc<AhoCorasick>>,
}

/// The words of which any matching body contains at least one, in ASCII lower case: those it may begin with,
/// and those it may end with. A set is omitted if it is empty or too large.
pub(super) fn required(expression: &str) -> Vec<BTreeSet<String>> {
    let Ok(hir) = regex_syntax::parse(expression) else {
        return Vec::new();
    };
    [ExtractKind::Prefix, ExtractKind::Suffix]
        .into_iter()
        .filter_map(|kind| {
            let literals = Extractor::new()
                .kind(kind.clone())
                .limit_total(WORDS_MAX)
                .extract(&hir);
            let words = literals.literals()?.iter().map(|literal| {
                let word = std::str::from_utf8(literal.as_bytes()).ok()?.to_ascii_lowercase();
                (!word.is_empty()).then_some(word)
            });
            words
                .collect::<Option<BTreeSet<String>>>()
                .filter(|words| !words.is_empty())
        })
        .collect()
}

/// An expression with more words than this is too expensive to search for. Most of them are one word in upper
/// and lower case, and collapse.
const WORDS_MAX: usize = 128;

/// The number of routes that share a word.
pub(super) struct Shared<'w>(HashMap<&'w str, usize>);

/// Counts the routes by word.
pub(super) fn shared<'w>(routes: impl Iterator<Item = &'w BTreeSet<String>>) -> Shared<'w> {
    let mut shared = HashMap::new();
    routes
        .flatten()
        .for_each(|word| *shared.entry(word.as_str()).or_default() += 1);
    Shared(shared)
}

impl Shared<'_> {
    /// The number of routes that would be found together with a route with these words. Numbers are preferred
    /// if equal; words of one or two letters, which many messages contain, count as shared by many.
    pub(super) fn company(&self, words: &BTreeSet<String>) -> usize {
        let company = |word: &String| {
            let routes = self.0.get(word.as_str()).copied().unwrap_or_default();
            if word.len() < 3 { routes + 1000 } else { routes + 1 }
        };
        words.iter().map(company).sum()
    }
}

impl Words {
    /// Files a route.
    pub(super) fn file(&mut self, at: usize, words: &BTreeSet<String>) {
        for word in words {
            let id = *self.ids.entry(word.clone()).or_insert(self.routes.len());
            if id == self.routes.len() {
                self.routes.push(Vec::new());
            }
            self.routes[id].push(at);
        }
    }

    /// Builds the matcher after all routes are filed.
    pub(super) fn seal(&mut self) {
        let mut words: Vec<(&String, &usize)> = self.ids.iter().collect();
        words.sort_by_key(|(_, id)| **id);
        let builder = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(words.iter().map(|(word, _)| word));
        match builder {
            Ok(finder) if !words.is_empty() => self.finder = Some(Arc::new(finder)),
            _ => {}
        }
    }

    /// Adds the routes whose words occur in the body.
    pub(super) fn find<'i>(&'i self, text: &str, lists: &mut Vec<&'i [usize]>) {
        let Some(finder) = &self.finder else { return };
        let mut seen = BTreeSet::new();
        for found in finder.find_overlapping_iter(text) {
            if seen.insert(found.pattern().as_usize()) {
                lists.extend(self.routes.get(found.pattern().as_usize()).map(Vec::as_slice));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_expression_are_found() {
        for (expression, words) in [
            (
                r"(?i)\b(urgent|down)\b",
                vec![vec!["down", "urgent"], vec!["down", "urgent"]],
            ),
            (r"^(alarm) (?P<zone>\d+)", vec![vec!["alarm "]]),
            (r"[a-z]+ failed$", vec![vec![" failed"]]),
            (r"fault\w+ pump7", vec![vec!["fault"], vec![" pump7"]]),
            (r".*", vec![]),
            (r"\d+", vec![]),
            (r"(a|)", vec![]),
        ] {
            let words: Vec<BTreeSet<String>> = words
                .into_iter()
                .map(|words| words.into_iter().map(str::to_owned).collect())
                .collect();
            assert_eq!(required(expression), words, "{expression}");
        }
    }
}
