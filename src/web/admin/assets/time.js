// Times, relative to the daemon's clock, and kept up to date on the page.

import { h } from './dom.js';

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

/** The largest unit alone. */
const rough = (seconds) => duration(seconds).split(' ').slice(0, 2).join(' ');

/** Formats a time. `before` and `after` are the texts for a future event before and after its time. */
function phrase(moment, { form, before, after }) {
  const seconds = (now() - moment) / 1000;
  if (form === 'lasting') return rough(seconds);
  if (before !== undefined) return seconds > -1 ? after : before.replace('%', `in ${rough(-seconds)}`);
  if (Math.abs(seconds) < 2) return 'now';
  return seconds > 0 ? `${rough(seconds)} ago` : `in ${rough(-seconds)}`;
}

const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** A relative time, with the exact one as a tooltip. */
export function time(iso, data = {}) {
  const moment = new Date(iso);
  const element = h('time', { datetime: iso, title: `${EXACT.format(moment)}\n${iso}` }, phrase(moment.getTime(), data));
  Object.assign(element.dataset, data);
  return element;
}

/** For how long something has lasted: `5 min`. */
export const lasting = (iso) => time(iso, { form: 'lasting' });

/** Says `before`, with `%` as the time that is left, and `after` once the time has passed. */
export const upcoming = (iso, before, after) => time(iso, { before, after });

/** The time of a future event; shows `any moment` once it has passed. */
export const dueTime = (iso) => upcoming(iso, '%', 'any moment');

/** The time that is left until a future event: `in 5 s`; empty once it has passed. */
export const left = (iso) => {
  const seconds = (Date.parse(iso) - now()) / 1000;
  return seconds > 1 ? `in ${rough(seconds)}` : '';
};

/** The time of day, in hours and minutes. */
export const clock = (at) => new Date(at).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });

/** The time of day with seconds. */
export const clockSeconds = (at) => new Date(at).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

/** Updates all relative times on the page. */
export function tick() {
  for (const element of document.querySelectorAll('time')) {
    const words = phrase(new Date(element.dateTime).getTime(), element.dataset);
    if (element.textContent !== words) element.textContent = words;
  }
}
