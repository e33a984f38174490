//! Finds the few routes that can match a message, so that ten thousand routes cost no more than ten.
//!
//! Each route is filed once: under its receivers, its senders, or the words that its regular expression must
//! begin or end with, whichever it shares with the fewest other routes. The numbers and words of a message
//! select lists of candidates, which are merged in the order of the routes. The index only leaves out routes
//! that cannot match; the candidates are still evaluated completely.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::{Route, Subject};
use crate::model::number::Pattern;

mod words;

/// Where each route is filed.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    to: Numbers,
    from: Numbers,
    words: words::Words,
    /// Routes that any message may match.
    always: Vec<usize>,
}

/// Routes by the patterns of one number.
#[derive(Clone, Debug, Default)]
struct Numbers {
    exact: HashMap<String, Vec<usize>>,
    prefix: Affixes,
    suffix: Affixes,
}

/// Routes by the beginning or the end of a number.
#[derive(Clone, Debug, Default)]
struct Affixes {
    lengths: BTreeSet<usize>,
    routes: HashMap<String, Vec<usize>>,
}

impl Index {
    /// Files these routes under their positions.
    pub(super) fn over(routes: &[Route]) -> Self {
        let possible: Vec<_> = routes.iter().map(words_of).collect();
        let shared = words::shared(possible.iter().flatten());
        let rarest = |sets: &Vec<BTreeSet<String>>| {
            let least = sets.iter().min_by_key(|words| shared.company(words));
            least.cloned()
        };
        let words: Vec<_> = possible.iter().map(rarest).collect();
        Self::file(&routes.iter().enumerate().collect::<Vec<_>>(), &words)
    }

    /// Files the routes under their numbers only.
    pub(super) fn over_numbers(routes: &[(usize, &Route)]) -> Self {
        Self::file(routes, &vec![None; routes.len()])
    }

    fn file(routes: &[(usize, &Route)], words: &[Option<BTreeSet<String>>]) -> Self {
        let mut index = Self::default();
        let to = Shared::of(routes.iter().map(|(_, route)| route.when.to.as_deref()));
        let from = Shared::of(routes.iter().map(|(_, route)| route.when.from.as_deref()));
        let shared_words = words::shared(words.iter().flatten());
        for (&(at, route), words) in routes.iter().zip(words) {
            let by_to = to.company(route.when.to.as_deref());
            let by_from = from.company(route.when.from.as_deref());
            let by_words = words
                .as_ref()
                .map_or(usize::MAX, |words| shared_words.company(words));
            match (by_to.min(by_from).min(by_words), words) {
                (usize::MAX, _) => index.always.push(at),
                (least, _) if least == by_to => index.to.file(at, route.when.to.as_deref()),
                (least, _) if least == by_from => index.from.file(at, route.when.from.as_deref()),
                (_, Some(words)) => index.words.file(at, words),
                (_, None) => index.always.push(at),
            }
        }
        index.words.seal();
        index
    }

    /// The positions of the routes that can match, in ascending order and without duplicates.
    pub(super) fn candidates(&self, subject: &Subject<'_>) -> impl Iterator<Item = usize> {
        self.possible(subject.to.normal(), subject.from.normal(), subject.text)
    }

    /// Like the previous method, for numbers in normal form or parts of them.
    pub(super) fn possible(&self, to: &str, from: &str, text: &str) -> impl Iterator<Item = usize> {
        let mut lists = vec![self.always.as_slice()];
        self.to.find(to, &mut lists);
        self.from.find(from, &mut lists);
        self.words.find(text, &mut lists);
        Merge::of(lists)
    }
}

fn words_of(route: &Route) -> Vec<BTreeSet<String>> {
    let expression = route.when.message.as_ref();
    expression.map_or_else(Vec::new, |expression| words::required(expression.as_str()))
}

/// The number of routes that share a pattern.
struct Shared<'r>(HashMap<&'r Pattern, usize>);

impl<'r> Shared<'r> {
    fn of(lists: impl Iterator<Item = Option<&'r [Pattern]>>) -> Self {
        let mut shared = HashMap::new();
        lists
            .flatten()
            .flatten()
            .for_each(|pattern| *shared.entry(pattern).or_default() += 1);
        Self(shared)
    }

    /// The number of routes that would be found together with a route with this list; the maximum if the list
    /// is no restriction.
    fn company(&self, list: Option<&[Pattern]>) -> usize {
        match list {
            Some(list) if !list.contains(&Pattern::Any) => list
                .iter()
                .map(|pattern| self.0.get(pattern).copied().unwrap_or_default())
                .sum(),
            _ => usize::MAX,
        }
    }
}

impl Numbers {
    fn file(&mut self, at: usize, patterns: Option<&[Pattern]>) {
        for pattern in patterns.unwrap_or_default() {
            match pattern {
                Pattern::Exact(number) => push(&mut self.exact, number, at),
                Pattern::Prefix(start) => self.prefix.file(start, at),
                Pattern::Suffix(end) => self.suffix.file(end, at),
                Pattern::Any => {}
            }
        }
    }

    fn find<'i>(&'i self, number: &str, lists: &mut Vec<&'i [usize]>) {
        lists.extend(self.exact.get(number).map(Vec::as_slice));
        self.prefix.find(|length| number.get(..length), lists);
        self.suffix
            .find(|length| number.get(number.len().checked_sub(length)?..), lists);
    }
}

impl Affixes {
    fn file(&mut self, affix: &str, at: usize) {
        self.lengths.insert(affix.len());
        push(&mut self.routes, affix, at);
    }

    fn find<'i, 'n>(&'i self, part: impl Fn(usize) -> Option<&'n str>, lists: &mut Vec<&'i [usize]>) {
        let parts = self.lengths.iter().filter_map(|length| part(*length));
        lists.extend(parts.filter_map(|part| self.routes.get(part)).map(Vec::as_slice));
    }
}

/// A route that names the same pattern twice is filed once.
fn push(lists: &mut HashMap<String, Vec<usize>>, key: &str, at: usize) {
    let list = lists.entry(key.to_owned()).or_default();
    if list.last() != Some(&at) {
        list.push(at);
    }
}

/// Merges several ascending lists without duplicates; lazily, because the first match ends the search.
struct Merge<'i> {
    lists: Vec<&'i [usize]>,
    heads: BinaryHeap<Reverse<(usize, usize)>>,
    last: Option<usize>,
}

impl<'i> Merge<'i> {
    fn of(lists: Vec<&'i [usize]>) -> Self {
        let mut merge = Self {
            heads: BinaryHeap::with_capacity(lists.len()),
            lists,
            last: None,
        };
        (0..merge.lists.len()).for_each(|list| merge.advance(list));
        merge
    }

    fn advance(&mut self, list: usize) {
        if let Some((head, rest)) = self.lists.get(list).and_then(|list| list.split_first()) {
            self.heads.push(Reverse((*head, list)));
            self.lists[list] = rest;
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let Reverse((at, list)) = self.heads.pop()?;
            self.advance(list);
            if self.last != Some(at) {
                self.last = Some(at);
                return Some(at);
            }
        }
    }
}
