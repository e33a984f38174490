//! Lints about numbers and patterns that never match, because no carrier sends such a number.

use toml::Spanned;

use crate::config::{self, Conditions, Config, Problems};
use crate::model::number::Pattern;

pub(super) fn note(config: &Config, problems: &mut Problems) {
    for route in &config.routes {
        let key = format!("route.{}", route.name);
        conditions(config, &key, &route.when, problems);
        if let Some(unless) = &route.unless {
            conditions(config, &format!("{key}.unless"), unless, problems);
        }
    }
    let sources: Vec<&config::Source> = config.sources.iter().collect();
    for (number, name) in &config.contacts {
        let pattern = Pattern::Exact(number.clone());
        if let Some(message) = finding(&pattern, &sources) {
            problems.warning(&name.span(), "contacts", message);
        }
    }
}

fn conditions(config: &Config, key: &str, conditions: &Conditions, problems: &mut Problems) {
    let named = |source: &&config::Source| {
        let names = conditions.source.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name.get_ref() == source.name.as_str()))
    };
    let sources: Vec<&config::Source> = config.sources.iter().filter(named).collect();
    let lists: [(&str, &Option<Vec<Spanned<Pattern>>>); 2] =
        [("from", &conditions.from), ("to", &conditions.to)];
    for (list, patterns) in lists {
        for pattern in patterns.iter().flatten() {
            if let Some(message) = finding(pattern.get_ref(), &sources) {
                problems.warning(&pattern.span(), format!("{key}.{list}"), message);
            }
        }
    }
}

/// Explains why the pattern matches no number that the sources send; `None` if it may match.
fn finding(pattern: &Pattern, sources: &[&config::Source]) -> Option<String> {
    if let Some(why) = impossible(pattern) {
        return Some(format!(
            "can never match, because {why}: write the number in international form, such as +49…"
        ));
    }
    let all_name_countries =
        !sources.is_empty() && sources.iter().all(|source| source.config.names_countries());
    (is_bare_short_code(pattern) && all_name_countries).then(|| {
        format!(
            "can never match: short codes arrive with their country, so write `1-{pattern}` for one of the United \
             States"
        )
    })
}

/// The reason why such a number does not exist, if it does not.
fn impossible(pattern: &Pattern) -> Option<&'static str> {
    let (Pattern::Exact(normal) | Pattern::Prefix(normal)) = pattern else {
        return None;
    };
    let digits = normal.strip_prefix('+')?;
    if digits.starts_with('0') {
        return Some("it is read as +0…, and no country code begins with 0");
    }
    if digits.starts_with("10") || digits.starts_with("11") {
        return Some("it is read as +1…, and no North American area code begins with 0 or 1");
    }
    let short = matches!(pattern, Pattern::Exact(_)) && digits.starts_with('1') && digits.len() != 11;
    short.then_some("it is read as +1…, and a North American number has ten digits after that")
}

fn is_bare_short_code(pattern: &Pattern) -> bool {
    matches!(pattern, Pattern::Exact(normal) if normal.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_exist_are_found() {
        for (pattern, found) in [
            ("0171 2345678", true),
            ("0049 171 2345678", true),
            ("+0*", true),
            ("0303867530", true),
            ("+1 130 386 7530", true),
            ("+1303867530", true),
            ("+1303*", false),
            ("+13038675309", false),
            ("+7708675309", false),
            ("*0171", false),
            ("1-1234", false),
            ("Google", false),
            ("*", false),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(impossible(&parsed).is_some(), found, "{pattern}");
        }
        assert!(is_bare_short_code(&Pattern::parse("1234").unwrap()));
        assert!(!is_bare_short_code(&Pattern::parse("1-1234").unwrap()));
    }
}
