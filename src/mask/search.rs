//! Finds the parts of an answer that must be masked, however they are quoted.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;

use super::quoting::{Unit, decode, decode_base64, units};
use crate::model::message::Message;

/// Maximum number of layers of escapes, and of base64 within each, that are decoded.
const LAYERS_MAX: usize = 4;
const BASE64_LAYERS_MAX: u8 = 2;

/// Minimum length of a run of letters that may be base64.
const BASE64_MIN: usize = 8;

/// Minimum length of a secret after removing the characters that are ignored.
const SECRET_MIN: usize = 4;

/// A secret of at least this length is also found by this many consecutive characters.
const LONG_SECRET_MIN: usize = 16;
const LONG_SECRET_RUN: usize = 8;

/// This many consecutive letters and digits belong to the message, and this many digits to its numbers.
const TEXT_RUN: usize = 6;
const NUMBER_RUN: usize = 5;

/// The secrets and words to search for.
#[derive(Default)]
pub(super) struct Search {
    secrets: Runs,
    letters: Runs,
    words: HashSet<String>,
}

impl Search {
    pub(super) fn new(secrets: &[String], message: Option<&Message>) -> Self {
        let mut search = Self::default();
        for secret in secrets {
            search.add_secret(secret);
        }
        if let Some(message) = message {
            search.add_message(message);
        }
        search
    }

    /// Returns for each character whether it must be masked.
    pub(super) fn hidden(&self, said: &[char]) -> Vec<bool> {
        self.seen_through(said, BASE64_LAYERS_MAX)
    }

    fn add_secret(&mut self, secret: &str) {
        let characters: Vec<char> = secret.chars().collect();
        // The secret as written, and as it looks after decoding the quoting of the other server.
        for units in layers(units(&characters)) {
            let characters = unspaced(&units).characters;
            match characters.len() {
                LONG_SECRET_MIN.. => self.secrets.add(&characters, LONG_SECRET_RUN),
                length @ SECRET_MIN.. => self.secrets.add(&characters, length),
                _ => {}
            }
        }
    }

    fn add_message(&mut self, message: &Message) {
        let numbers = [&message.from, &message.to].map(|number| [number.normal(), number.raw()]);
        for number in numbers.as_flattened() {
            let digits: Vec<char> = number.chars().filter(char::is_ascii_digit).collect();
            self.letters.add(&digits, NUMBER_RUN);
            self.add_text(number);
        }
        self.add_text(&message.text);
        for media in &message.media {
            self.add_text(&media.link);
            self.add_text(media.filename.as_deref().unwrap_or_default());
        }
    }

    fn add_text(&mut self, text: &str) {
        let letters: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).map(fold).collect();
        self.letters.add(&letters, TEXT_RUN);
        let words = text.split(|c: char| !c.is_alphanumeric());
        self.words.extend(
            words
                .filter(|word| is_telling(word))
                .map(|word| word.chars().map(fold).collect()),
        );
    }

    fn seen_through(&self, said: &[char], base64_layers: u8) -> Vec<bool> {
        let mut hidden = vec![false; said.len()];
        for units in layers(units(said)) {
            let mut found = self.find(&units);
            if let Some(base64_layers) = base64_layers.checked_sub(1) {
                found.extend(self.find_base64(&units, base64_layers));
            }
            for Range { start, end } in found {
                hidden[units[start].from..units[end - 1].to].fill(true);
            }
        }
        hidden
    }

    fn find(&self, units: &[Unit]) -> Vec<Range<usize>> {
        let mut found = self.secrets.find(&unspaced(units));
        found.extend(self.letters.find(&Stream::of(units, char::is_alphanumeric)));
        let is_known = |range: &Range<usize>| {
            let word: String = units[range.clone()]
                .iter()
                .map(|unit| fold(unit.character))
                .collect();
            self.words.contains(&word)
        };
        found.extend(runs(units, char::is_alphanumeric).into_iter().filter(is_known));
        found
    }

    fn find_base64(&self, units: &[Unit], base64_layers: u8) -> Vec<Range<usize>> {
        let repeats = |range: &Range<usize>| {
            let run: String = units[range.clone()].iter().map(|unit| unit.character).collect();
            // The quoted words may begin at any position in a group of four.
            let mut decoded = (0..4).filter_map(|offset| decode_base64(&run, offset));
            decoded.any(|decoded| {
                let decoded: Vec<char> = decoded.chars().collect();
                self.seen_through(&decoded, base64_layers).contains(&true)
            })
        };
        runs(units, |c| c.is_ascii_alphanumeric() || "+/-_=".contains(c))
            .into_iter()
            .filter(|range| range.len() >= BASE64_MIN)
            .filter(repeats)
            .collect()
    }
}

/// Returns true if a word alone reveals something about the message.
fn is_telling(word: &str) -> bool {
    let length = word.chars().count();
    length >= 4
        || length >= 3 && word.contains(|c: char| c.is_ascii_digit())
        || length >= 2 && !word.is_ascii()
}

/// The response, followed by versions of it, each with one more layer of quoting removed.
fn layers(units: Vec<Unit>) -> Vec<Vec<Unit>> {
    let mut layers = vec![units];
    while layers.len() < LAYERS_MAX
        && let Some(next) = layers.last().and_then(|last| decode(last))
    {
        layers.push(next);
    }
    layers
}

/// The longest runs of characters that match.
fn runs(units: &[Unit], is: impl Fn(char) -> bool) -> Vec<Range<usize>> {
    let (mut runs, mut start) = (Vec::new(), None);
    for (at, unit) in units.iter().enumerate() {
        if is(unit.character) {
            start.get_or_insert(at);
        } else if let Some(start) = start.take() {
            runs.push(start..at);
        }
    }
    runs.extend(start.map(|start| start..units.len()));
    runs
}

/// The characters that are compared, and the units they come from.
struct Stream {
    characters: Vec<char>,
    from: Vec<usize>,
}

impl Stream {
    fn of(units: &[Unit], matters: impl Fn(char) -> bool) -> Self {
        let (from, characters) = units
            .iter()
            .enumerate()
            .filter(|(_, unit)| matters(unit.character))
            .map(|(at, unit)| (at, fold(unit.character)))
            .unzip();
        Self { characters, from }
    }
}

/// All characters except white space, its escapes, and escape characters.
fn unspaced(units: &[Unit]) -> Stream {
    Stream::of(units, |c| !c.is_whitespace() && !"+\\".contains(c))
}

/// Runs of characters, by hash: a collision only masks too much.
#[derive(Default)]
struct Runs {
    lengths: BTreeSet<usize>,
    hashes: HashSet<u64>,
}

impl Runs {
    /// Adds every run of `length` in these characters.
    fn add(&mut self, characters: &[char], length: usize) {
        self.lengths.insert(length);
        self.hashes.extend(characters.windows(length).map(hash));
    }

    fn find(&self, stream: &Stream) -> Vec<Range<usize>> {
        let of_length = |&length: &usize| {
            let runs = stream.characters.windows(length).enumerate();
            let known = runs.filter(|(_, run)| self.hashes.contains(&hash(run)));
            known.map(move |(at, _)| stream.from[at]..stream.from[at + length - 1] + 1)
        };
        self.lengths.iter().flat_map(of_length).collect()
    }
}

fn hash(run: &[char]) -> u64 {
    let mut hasher = DefaultHasher::new();
    run.hash(&mut hasher);
    hasher.finish()
}

fn fold(character: char) -> char {
    character.to_lowercase().next().unwrap_or(character)
}
