// Which links may be clicked. The same rules as `src/template/link.rs`; both are held to `tests/fixtures/links.json`.

const LONGEST = 2048;

/** A web address: scheme, host, a port or none, and nothing but ASCII that cannot end a link. No user, no backslash. */
const LINK = /^https?:[/][/]([\w.-]+|\[[\w.:-]+\])(?::\d+)?(?:[/?#][!#-;=?-[\]_a-z~]*)?$/i;

/** Whether a link leads where a reader sees that it leads. What does not is to be shown as text. */
export function isSafeLink(link) {
  const match = link.length <= LONGEST && LINK.exec(link);
  if (!match) return false;
  try {
    // The parser reads `0x7f.1` and `2130706433` as addresses.
    return new URL(link).hostname === match[1].toLowerCase();
  } catch {
    return false;
  }
}
