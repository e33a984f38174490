//! Invisible characters that change or hide the characters around them.

/// Returns true if a character is a control character, or reorders or hides its context. This includes
/// line breaks and tabs; callers that allow them make an exception.
///
/// The left-to-right and right-to-left marks and the joiners are not included: ordinary Arabic, Hebrew,
/// Persian and emoji need them, and they cannot disguise anything important.
#[must_use]
pub fn acts_unseen(character: char) -> bool {
    match character {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true, // direction embeddings, overrides, isolates
        '\u{2028}' | '\u{2029}' => true,                           // line and paragraph separators
        '\u{206a}'..='\u{206f}' => true,                           // deprecated format characters
        '\u{fff9}'..='\u{fffb}' | '\u{feff}' => true,              // interlinear annotations, byte order mark
        '\u{e0000}'..='\u{e007f}' => true,                         // tag characters
        other => other.is_control(),
    }
}

/// Returns true if a character shows nothing although it is no space: a message of these alone looks empty. Ordinary
/// text may contain some of them, so only displays for operators name them.
#[must_use]
pub fn looks_empty(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2060}'..='\u{2065}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{ffa0}'
            | '\u{1d173}'..='\u{1d17a}'
    )
}
