//! Suggests known words for a misspelled one.

/// The end of an error "unknown …": the most similar known word, if one is similar, and all known words.
pub(crate) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let list = list(&known);
    match nearest(word, &known) {
        Some(near) => format!("; did you mean `{near}`? (known here: {list})"),
        None if known.is_empty() => "; none is known here".to_owned(),
        None => format!(" (known here: {list})"),
    }
}

/// Suggests a name that the operator defined, with its place: `screen at config.toml:5`.
pub(crate) fn suggestion_of_defined<'a>(
    word: &str,
    what: &str,
    defined: impl IntoIterator<Item = (&'a str, String)>,
) -> String {
    let (names, places): (Vec<&str>, Vec<String>) = defined.into_iter().unzip();
    let each: Vec<String> = names
        .iter()
        .zip(&places)
        .map(|(name, place)| format!("{name} at {place}"))
        .collect();
    let list = list(&each.iter().map(String::as_str).collect::<Vec<_>>());
    match nearest(word, &names) {
        Some(near) => format!("; did you mean `{near}`? (defined: {list})"),
        None if names.is_empty() => format!("; no {what} is defined"),
        None => format!(" (defined: {list})"),
    }
}

/// Upper bound of the listed words.
const LISTED_MAX: usize = 24;

fn list(known: &[&str]) -> String {
    let shown = known
        .iter()
        .take(LISTED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match known.len().checked_sub(LISTED_MAX) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// Upper bound of the words that are compared, in bytes: time and memory grow with the length.
const WORD_MAX: usize = 64;

/// The most similar known word by edit distance, if the distance is small for the length.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > WORD_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    let (distance, near) = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), *known))
        .min_by_key(|(distance, _)| *distance)?;
    let prefixed = lower.len() >= 3 && (near.starts_with(&lower) || lower.starts_with(near));
    (distance <= (near.chars().count() / 3).max(1) || prefixed).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        let known = ["listen", "public_url", "max_body"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("publicurl", &known), Some("public_url"));
        assert_eq!(nearest("Listen", &known), Some("listen"));
        assert_eq!(nearest("public", &known), Some("public_url"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(suggestion("x", ["a1", "b1"]), " (known here: a1, b1)");
        assert_eq!(suggestion("x", []), "; none is known here");
    }
}
