// Current problems, described in the same way on the overview and on the card of a destination.

import { pill } from './components.js';
import { count, h, plural } from './dom.js';
import { lasting, upcoming } from './time.js';
import { plain, prose } from './text.js';

/** The list of a destination's deliveries that shows the problem. */
const LISTS = { dead: 'dead', late: 'pending', limited: 'pending', slow: 'pending', paused: 'pending', removed: 'pending' };

/** A problem of a destination, or one of the daemon, which is a complete sentence. */
export function problem(problem, destination) {
  const { severity, kind, destination: name, message } = problem;
  const urgency = h('span', { class: 'hidden' }, severity === 'error' ? 'Error: ' : 'Warning: ');
  if (!name || !(kind in ADVICE)) return h('li', { class: severity }, h('div', { class: 'what' }, urgency, prose(message)), name && show(name, kind));
  return h('li', { class: severity },
    h('div', { class: 'what' },
      h('div', { class: 'headline' }, urgency, h('a', { href: `#/destinations/${name}` }, h('b', {}, name)), ' ', label(problem), ' ', address(problem), ' ', h('span', {}, facts(problem, destination))),
      details(problem, destination)),
    show(name, kind));
}

/** A link to the destination, with the deliveries concerned. */
function show(name, kind) {
  const list = LISTS[kind];
  return h('a', { class: 'show', href: `#/destinations/${name}${list ? `?list=${list}` : ''}`, 'aria-label': `Show ${name}: ${kind}` }, 'Show');
}

/** The cause and the next step. */
export function details(problem, destination) {
  return [
    problem.cause && h('p', { class: 'cause', title: plain(problem.cause) }, problem.kind === 'dead' && 'The newest: ', prose(problem.cause)),
    h('p', { class: 'advice muted' }, ADVICE[problem.kind](problem, destination ?? {})),
  ];
}

const label = ({ severity, kind, dead }) => pill(kind === 'dead' ? `${count(dead)} dead` : kind, null, severity === 'error' ? 'bad' : 'wait');

const address = ({ address: place, cause }) => place && !cause?.includes(place) && h('span', { class: 'muted' }, place);

/** Since when, and how many deliveries are pending. */
function facts({ kind, since, pending, oldest }, destination) {
  if (kind === 'dead') return null;
  const started = kind === 'slow' ? destination?.attempting_since : since;
  return [started && ['for ', lasting(started), ', '], `${count(pending)} pending`, oldest && h('span', { class: 'wide' }, ', the oldest for ', lasting(oldest))];
}

/** The next step for each kind of problem of a destination. */
const ADVICE = {
  parked: ({ pending }, { until }) => ['Its configuration or the account needs fixing. ', until && pending > 0 && upcoming(until, 'It is checked again %. ', 'It is being checked. '), 'Test checks it at once.'],
  down: ({ pending }, { until }) => (pending === 0
    ? 'Nothing is pending, so no attempt will start. Use Test.'
    : [until ? upcoming(until, 'It is tried again %.', 'It is being tried.') : 'It is tried again automatically.', ' If this lasts, check that it runs and can be reached from the daemon’s machine.']),
  limited: (_, { until }) => ['Its deliveries are sent as its limit allows', until && upcoming(until, '; the next attempt is %', ''), '. If this lasts, raise the limit there, or send it fewer messages.'],
  slow: () => 'An attempt has been running for long without an answer. Check the destination.',
  late: ({ cause }) => (cause
    ? 'Its deliveries are tried again automatically. Each is listed with the result of its last attempt, or with what it waits for.'
    : ['Messages arrive faster than it accepts them. Raise its ', prose('`concurrency`'), ' (and its ', prose('`rate`'), ', if it has one), or send it fewer messages.']),
  paused: () => 'An operator paused it. Nothing is sent to it until it is resumed.',
  removed: () => 'It is no longer configured. Configure it again, or discard its pending deliveries.',
  dead: () => 'Retry them, or acknowledge those that need no attention.',
};

/** Describes how many problems are errors. */
export function heading(problems) {
  const errors = problems.filter(({ severity }) => severity === 'error').length;
  const warnings = problems.length - errors;
  if (errors === 0) return plural(warnings, 'warning');
  return warnings === 0 ? plural(errors, 'error') : `${plural(errors, 'error')}, ${plural(warnings, 'warning')}`;
}

/** The note about a destination without a problem, by its state. */
export const NOTES = {
  untested: 'Nothing has been sent to it since it was configured or changed. Use Test.',
  limited: 'It is rate limiting. Nothing is pending for it.',
  removed: 'It is no longer configured.',
};

/** The last attempt of a destination, if it failed although the destination answers. */
export const failed = ({ state, last_attempt: last }) => state === 'up' && last && last.verdict !== 'delivered' && last;
