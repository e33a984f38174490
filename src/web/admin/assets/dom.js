// Making elements. Whatever a text says becomes a text node: there is no way from here to markup.

/** An element: attributes, `on…` listeners and properties, then children (nodes, strings, lists, or nothing). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  apply(element, attributes);
  append(element, children);
  return element;
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  append(element, children);
  return element;
}

function apply(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in PROPERTIES) element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
}

/** What attributes cannot set, or only for the first time. */
const PROPERTIES = { value: 1, checked: 1, disabled: 1 };

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Replaces all children. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

// --- Texts -------------------------------------------------------------------------------------------------------

/** What shows nothing, or turns what follows around: controls, bidirectional marks, zero-width characters. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/u;

const UNSEEN_NAMES = {
  '\u0000': 'NUL', '\u0007': 'BEL', '\b': 'BS', '\u001b': 'ESC', '\r': 'CR', '\u007f': 'DEL', '\u00ad': 'SHY', '\u061c': 'ALM',
  '\u200b': 'ZWSP', '\u200e': 'LRM', '\u200f': 'RLM', '\u202a': 'LRE', '\u202b': 'RLE', '\u202c': 'PDF', '\u202d': 'LRO',
  '\u202e': 'RLO', '\u2066': 'LRI', '\u2067': 'RLI', '\u2068': 'FSI', '\u2069': 'PDI', '\ufeff': 'BOM',
};

/** A text with what cannot be seen made visible, isolated from what stands around it. */
export function words(text, tag = 'span', attributes = {}) {
  const element = h(tag, { dir: 'auto', ...attributes });
  let seen = '';
  for (const character of text) {
    if (!UNSEEN.test(character)) {
      seen += character;
      continue;
    }
    if (seen) element.append(seen);
    seen = '';
    element.append(unseen(character));
  }
  if (seen) element.append(seen);
  return element;
}

/** The same on one line. */
export const line = (text, tag, attributes) => words(text.replace(/\r?\n/g, ' \u21b5 '), tag, attributes);

function unseen(character) {
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
  return h('span', { class: 'unseen', title: `${code}: a character that shows nothing by itself` }, UNSEEN_NAMES[character] ?? code);
}

/** Words of the daemon, with `commands` set apart. */
export const prose = (text) => text.split('`').map((part, at) => (at % 2 ? h('code', {}, part) : words(part)));

/** A number with its contact's name, if there is one. */
export function party(number, name) {
  if (!number) return h('span', { class: 'muted' }, 'forgotten');
  return name
    ? h('span', { class: 'party' }, words(name, 'b'), ' ', h('span', { class: 'number' }, number))
    : h('span', { class: 'party' }, h('b', { class: 'number' }, number));
}

// --- Times -------------------------------------------------------------------------------------------------------

let ahead = 0;

/** The daemon's clock is what times are compared with, not the browser's. */
export const setClock = (daemon) => {
  ahead = new Date(daemon).getTime() - Date.now();
};

export const now = () => Date.now() + ahead;

const UNITS = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

/** A length of time in its largest unit; two for the longer ones. */
export function lasting(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const at = UNITS.findIndex(([, size]) => whole >= size);
  if (at < 0) return '0 s';
  const [unit, size] = UNITS[at];
  const [next, part] = UNITS[at + 1] ?? ['', 0];
  const rest = part && at < 2 ? Math.floor((whole % size) / part) : 0;
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${next}` : ''}`;
}

function relative(moment, isDue) {
  const seconds = (now() - moment) / 1000;
  if (isDue && seconds > -1) return 'any moment';
  if (Math.abs(seconds) < 2) return 'now';
  const units = lasting(Math.abs(seconds)).split(' ').slice(0, 2).join(' ');
  return seconds > 0 ? `${units} ago` : `in ${units}`;
}

const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** A moment, as long ago; exactly when pointed at. */
export function time(iso, attributes = {}) {
  const moment = new Date(iso);
  const title = `${EXACT.format(moment)}\n${iso}`;
  return h('time', { datetime: iso, title, ...attributes }, relative(moment.getTime(), 'data-due' in attributes));
}

/** A moment when something is to happen; once it is over, it may at any moment. */
export const dueTime = (iso) => time(iso, { 'data-due': true });

/** The time of day, in hours and minutes. */
export const clock = (at) => new Date(at).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });

/** Keeps all moments on the page true. */
export function tick() {
  for (const element of document.querySelectorAll('time')) {
    const words = relative(new Date(element.dateTime).getTime(), 'due' in element.dataset);
    if (element.textContent !== words) element.textContent = words;
  }
}

// --- Small things ------------------------------------------------------------------------------------------------

/** What a state means for the operator: good, bad, to be watched, or neither. */
const TONES = {
  up: 'good', delivered: 'good', limited: 'wait', pending: 'calm', kept: 'calm', retrying: 'wait', paused: 'wait', unrouted: 'wait', transient: 'wait',
  down: 'bad', parked: 'bad', dead: 'bad', removed: 'bad', permanent: 'bad',
};

/** A state, in a word and a colour. */
export const pill = (state, title) => h('span', { class: `pill ${TONES[state] ?? 'calm'}`, title }, state);

/** A message's state; one that is tried again and again is not simply pending. */
export function statePill(message) {
  const waiting = message.deliveries.filter(({ state }) => state === 'pending');
  const tries = Math.max(0, ...waiting.map(({ attempts_made: made }) => made));
  return tries > 0 ? pill('retrying', `pending, tried ${tries} times`) : pill(message.state);
}

export const count = (number) => number.toLocaleString('en').replaceAll(',', '\u202f');

export function bytes(size) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const at = size < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  const value = size / 1024 ** at;
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Runs `action` once, `wait` milliseconds after the first of several wishes. */
export function soon(action, wait) {
  let timer = 0;
  const wish = () => {
    if (!timer) timer = setTimeout(() => { timer = 0; action(); }, wait);
  };
  wish.cancel = () => { clearTimeout(timer); timer = 0; };
  return wish;
}

/** A short word at the edge of the page: what an action did. */
export function say(text, tone = 'good') {
  const toast = h('p', { class: `toast ${tone}` }, text);
  document.getElementById('toasts').append(toast);
  setTimeout(() => toast.remove(), tone === 'bad' ? 12_000 : 5000);
}

/** Asks before something is done; gives the filled form, or nothing. */
export function confirm({ title, text, action, danger = false, extra = null }) {
  return new Promise((resolve) => {
    const form = h('form', { method: 'dialog' },
      h('h2', {}, title),
      text && h('p', {}, text),
      extra,
      h('div', { class: 'buttons' },
        h('button', { value: '', type: 'submit', formnovalidate: true }, 'Cancel'),
        h('button', { value: 'yes', type: 'submit', class: danger ? 'danger' : 'primary', autofocus: true }, action)));
    const dialog = h('dialog', { 'aria-label': title }, form);
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'yes' ? new FormData(form) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Does something that a button asks for: the button waits, and what went wrong is said. */
export async function act(button, work) {
  button.disabled = true;
  try {
    return await work();
  } catch (trouble) {
    say(trouble.message, 'bad');
    return undefined;
  } finally {
    button.disabled = false;
  }
}
