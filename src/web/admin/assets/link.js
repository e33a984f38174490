// Decides which links may be clicked, by the same rules as `src/template/link.rs`; `tests/fixtures/links.json` tests both.

const LENGTH_MAX = 2048;

/** A web address: scheme, host, optional port, and only ASCII characters that cannot end a link. No user, no backslash. */
const LINK = /^https?:[/][/]([\w.-]+|\[[\w.:-]+\])(?::\d+)?(?:[/?#][!#-;=?-[\]_a-z~]*)?$/i;

/** Returns true if a link leads to the address the reader sees. Other links must be shown as plain text. */
export function isSafeLink(link) {
  const match = link.length <= LENGTH_MAX && LINK.exec(link);
  if (!match) return false;
  try {
    // The parser reads `0x7f.1` and `2130706433` as addresses.
    return new URL(link).hostname === match[1].toLowerCase();
  } catch {
    return false;
  }
}
