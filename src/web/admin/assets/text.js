// Text from messages, servers and the configuration: shown as it is, but unable to disguise or to overlay anything.

import { h } from './dom.js';

/**
 * Characters that are invisible or change the direction of the text: all those of `src/model/unseen.rs` except line
 * break and tab, and others that ordinary text may contain (marks of direction, zero-width and blank characters).
 */
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e007f}]/u;

const INVISIBLE_NAMES = {
  '\u0000': 'NUL', '\u0007': 'BEL', '\b': 'BS', '\u001b': 'ESC', '\r': 'CR', '\u007f': 'DEL', '\u00ad': 'SHY', '\u061c': 'ALM',
  '\u200b': 'ZWSP', '\u200e': 'LRM', '\u200f': 'RLM', '\u202a': 'LRE', '\u202b': 'RLE', '\u202c': 'PDF', '\u202d': 'LRO',
  '\u202e': 'RLO', '\u2066': 'LRI', '\u2067': 'RLI', '\u2068': 'FSI', '\u2069': 'PDI', '\ufeff': 'BOM',
};

/** A mark that is drawn above or below the character before it. */
const MARK = /[\p{Mn}\p{Me}]/u;

/** The most marks on one character. No script needs more, and a hundred would reach over the lines around them. */
const MARKS_MAX = 6;

/** Shows a string with its invisible characters made visible, and isolates its direction from the text around it. */
export function visible(text, tag = 'span', attributes = {}) {
  const element = h(tag, { dir: 'auto', ...attributes });
  let seen = '';
  let marks = 0;
  const flush = () => {
    if (seen) element.append(seen);
    seen = '';
    if (marks > MARKS_MAX) element.append(chip(`+${marks - MARKS_MAX} marks`, 'Further combining marks on the same character'));
    marks = 0;
  };
  for (const character of text) {
    if (INVISIBLE.test(character)) {
      flush();
      element.append(unseen(character));
    } else if (MARK.test(character)) {
      marks += 1;
      if (marks <= MARKS_MAX) seen += character;
    } else {
      if (marks > MARKS_MAX) flush();
      marks = 0;
      seen += character;
    }
  }
  flush();
  return element;
}

/** A string for an attribute, which cannot hold elements: what `visible` makes visible is named in brackets. */
export function plain(text) {
  const element = visible(text);
  for (const name of element.children) name.textContent = `[${name.textContent}]`;
  return element.textContent;
}

/** Shows a string as `visible` does, on one line. */
export const line = (text, tag, attributes) => visible(text.replace(/\r?\n/g, ' \u21b5 '), tag, attributes);

const chip = (name, title) => h('span', { class: 'unseen', title }, name);

function unseen(character) {
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
  return chip(INVISIBLE_NAMES[character] ?? code, `${code}: invisible character`);
}

/** A sentence from the daemon, with `commands` shown as code. */
export function prose(text) {
  const parts = text.split('`');
  // Without a partner, a backtick is only a character.
  if (parts.length % 2 === 0) parts.push(`${parts.splice(-2, 1)}\`${parts.pop()}`);
  return parts.map((part, at) => (at % 2 ? code(part) : visible(part)));
}

/** A command or a key. Short ones are not broken into lines, longer ones only between their words. */
const code = (text) => h('code', {}, text.split(/(?<= )/).map((word) => h('span', { class: 'whole' }, visible(word))));

/** A number with its contact's name, if any. */
export function contact(number, name) {
  if (!number) return h('span', { class: 'muted' }, 'redacted');
  return name
    ? h('span', { class: 'party' }, visible(name, 'b'), ' ', visible(number, 'span', { class: 'number' }))
    : h('span', { class: 'party' }, visible(number, 'b', { class: 'number' }));
}
