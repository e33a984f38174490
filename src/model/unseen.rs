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
