//! Every kind of source with mutated requests that are signed: a bounded run of the fuzz target `carriers`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::promises::rng::Rng;
use crate::signed;

const INPUTS: usize = 2_000;

/// Upper bound for one input, on a machine that does other work, too.
const SLOW: Duration = Duration::from_secs(5);

#[test]
fn a_mutated_request_causes_no_panic_and_is_accepted_if_it_is_signed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/carriers");
    let files = fs::read_dir(folder).unwrap();
    let corpus: Vec<Vec<u8>> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(corpus.len() > 200, "{} inputs", corpus.len());
    corpus.iter().for_each(|input| signed::run(input));
    let mut rng = Rng::new();
    for _ in 0..INPUTS {
        let input = mutated(&corpus, &mut rng);
        let started = Instant::now();
        signed::run(&input);
        assert!(started.elapsed() < SLOW, "{:?}", String::from_utf8_lossy(&input));
    }
}

/// One of the inputs with a few changes after its first two bytes.
fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = corpus[rng.below(corpus.len())].clone();
    for _ in 0..=rng.below(5) {
        if input.len() < 3 {
            break;
        }
        let at = 2 + rng.below(input.len() - 2);
        let byte = u8::try_from(rng.below(256)).unwrap();
        match rng.below(5) {
            0 => input[at] = byte,
            1 => drop(input.remove(at)),
            2 => input.insert(at, byte),
            3 => input.truncate(at),
            _ => {
                let other = &corpus[rng.below(corpus.len())];
                let from = rng.below(other.len());
                let piece = other[from..].iter().take(40).copied();
                input.splice(at..at, piece);
            }
        }
    }
    input
}
