// Builds elements. Strings always become text nodes, never markup.

/** Creates an element: attributes, `on…` listeners and properties, then children (nodes, strings, lists, null). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  apply(element, attributes);
  append(element, children);
  return element;
}

/** Creates an SVG element. */
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

/** Attributes that must be set as properties. */
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

// --- Strings -------------------------------------------------------------------------------------------------------

/** Characters that are invisible or change the direction of the text: controls, bidirectional marks, zero-width characters. */
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/u;

const INVISIBLE_NAMES = {
  '\u0000': 'NUL', '\u0007': 'BEL', '\b': 'BS', '\u001b': 'ESC', '\r': 'CR', '\u007f': 'DEL', '\u00ad': 'SHY', '\u061c': 'ALM',
  '\u200b': 'ZWSP', '\u200e': 'LRM', '\u200f': 'RLM', '\u202a': 'LRE', '\u202b': 'RLE', '\u202c': 'PDF', '\u202d': 'LRO',
  '\u202e': 'RLO', '\u2066': 'LRI', '\u2067': 'RLI', '\u2068': 'FSI', '\u2069': 'PDI', '\ufeff': 'BOM',
};

/** Shows a string with its invisible characters made visible, and isolates its direction from the text around it. */
export function words(text, tag = 'span', attributes = {}) {
  const element = h(tag, { dir: 'auto', ...attributes });
  let seen = '';
  for (const character of text) {
    if (!INVISIBLE.test(character)) {
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

/** Shows a string as `words` does, on one line. */
export const line = (text, tag, attributes) => words(text.replace(/\r?\n/g, ' \u21b5 '), tag, attributes);

function unseen(character) {
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
  return h('span', { class: 'unseen', title: `${code}: invisible character` }, INVISIBLE_NAMES[character] ?? code);
}

/** A sentence from the daemon, with `commands` shown as code. */
export const prose = (text) => text.split('`').map((part, at) => (at % 2 ? h('code', {}, part) : words(part)));

/** A number with its contact's name, if any. */
export function party(number, name) {
  if (!number) return h('span', { class: 'muted' }, 'redacted');
  return name
    ? h('span', { class: 'party' }, words(name, 'b'), ' ', h('span', { class: 'number' }, number))
    : h('span', { class: 'party' }, h('b', { class: 'number' }, number));
}

// --- Times -------------------------------------------------------------------------------------------------------

let ahead = 0;

/** Times are relative to the daemon's clock, not the browser's. */
export const setClock = (daemon) => {
  ahead = new Date(daemon).getTime() - Date.now();
};

export const now = () => Date.now() + ahead;

const UNITS = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

/** Formats a duration in its largest unit; days and hours with the next smaller one. */
export function duration(seconds) {
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
  const units = duration(Math.abs(seconds)).split(' ').slice(0, 2).join(' ');
  return seconds > 0 ? `${units} ago` : `in ${units}`;
}

const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** A relative time, with the exact one as a tooltip. */
export function time(iso, attributes = {}) {
  const moment = new Date(iso);
  const title = `${EXACT.format(moment)}\n${iso}`;
  return h('time', { datetime: iso, title, ...attributes }, relative(moment.getTime(), 'data-due' in attributes));
}

/** The time of a future event; shows `any moment` once it has passed. */
export const dueTime = (iso) => time(iso, { 'data-due': true });

/** The time of day, in hours and minutes. */
export const clock = (at) => new Date(at).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });

/** Updates all relative times on the page. */
export function tick() {
  for (const element of document.querySelectorAll('time')) {
    const words = relative(new Date(element.dateTime).getTime(), 'due' in element.dataset);
    if (element.textContent !== words) element.textContent = words;
  }
}

// --- Components ------------------------------------------------------------------------------------------------

/** The colour of each state: good, bad, wait or calm. */
const TONES = {
  up: 'good', delivered: 'good', fallback: 'good', limited: 'wait', pending: 'calm', kept: 'calm', retrying: 'wait', paused: 'wait', unrouted: 'wait', transient: 'wait',
  down: 'bad', parked: 'bad', dead: 'bad', removed: 'bad', permanent: 'bad',
};

/** A coloured label for a state. */
export const pill = (state, title) => h('span', { class: `pill ${TONES[state] ?? 'calm'}`, title }, state);

/** In words, which fallbacks delivered a message; empty if none did. */
export function deliveredBy({ state, deliveries }) {
  const names = new Set(deliveries.map(({ delivered_by: by }) => by).filter(Boolean));
  return state === 'delivered' && names.size > 0 ? `delivered by fallback ${[...names].join(', ')}` : '';
}

/** The label of a message's state: `retrying` if it is pending and an attempt failed, `fallback` if one delivered it. */
export function statePill(message) {
  const fallback = deliveredBy(message);
  if (fallback) return pill('fallback', fallback);
  const waiting = message.deliveries.filter(({ state }) => state === 'pending');
  const tries = Math.max(0, ...waiting.map(({ attempts_made: made }) => made));
  return tries > 0 ? pill('retrying', `pending after ${plural(tries, 'attempt')}`) : pill(message.state);
}

export const count = (number) => number.toLocaleString('en').replaceAll(',', '\u202f');

export function bytes(size) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const at = size < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  const value = size / 1024 ** at;
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Runs `action` once, `wait` milliseconds after the first of several calls. */
export function soon(action, wait) {
  let timer = 0;
  const request = () => {
    if (!timer) timer = setTimeout(() => { timer = 0; action(); }, wait);
  };
  request.cancel = () => { clearTimeout(timer); timer = 0; };
  return request;
}

/** Shows a short notice about the result of an action. */
export function say(text, tone = 'good') {
  const toast = h('p', { class: `toast ${tone}` }, text);
  document.getElementById('toasts').append(toast);
  setTimeout(() => toast.remove(), tone === 'bad' ? 12_000 : 5000);
}

/** Asks for confirmation. Resolves to the form's data, or to null if cancelled. */
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

/** Runs the action of a button: disables the button meanwhile and shows errors. */
export async function act(button, work) {
  button.disabled = true;
  try {
    return await work();
  } catch (error) {
    say(error.message, 'bad');
    return undefined;
  } finally {
    button.disabled = false;
  }
}
