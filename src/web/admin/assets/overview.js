// Current problems, throughput, and the state of every destination.

import { backlog, chart, rates, span } from './chart.js';
import { pill } from './components.js';
import { bytes, count, fill, h } from './dom.js';
import { failed, heading, problem } from './problems.js';
import { clockSeconds, duration, lasting, now, time } from './time.js';
import { plain, prose } from './text.js';

/** A delivery that is pending for longer, in milliseconds, has probably failed at least once. */
const PROMPT = 5_000;

export class Overview {
  constructor(app) {
    this.app = app;
    this.problems = h('section', { class: 'card problems', 'aria-label': 'Problems' });
    this.figures = h('dl', { class: 'figures card' });
    this.accepted = h('b');
    this.delivered = h('b');
    this.dead = h('b');
    this.since = h('span', { class: 'muted' });
    this.rates = chart('Messages in the last hour', [
      h('span', { class: 'key bar' }, 'accepted ', this.accepted), h('span', { class: 'key line' }, 'delivered ', this.delivered),
      h('span', { class: 'muted' }, 'dead ', this.dead), this.since,
    ], rates);
    this.backlog = chart('Deliveries pending', [], backlog);
    this.health = h('tbody');
    this.nodes = h('tbody');
    this.shared = h('section', { class: 'card', hidden: true },
      h('h2', { class: 'pad' }, 'Nodes'),
      h('table', { class: 'health nodes' },
        h('thead', {}, h('tr', {}, ['Name', 'State', 'Version', 'Started', 'Seen', 'Serves'].map((title) => h('th', { scope: 'col' }, title)))),
        this.nodes));
    this.foot = h('p', { class: 'foot muted' });
    this.element = h('div', { class: 'stack' },
      h('h1', { class: 'hidden' }, 'Overview'),
      this.problems, this.figures,
      h('div', { class: 'charts' }, this.rates.element, this.backlog.element),
      h('section', { class: 'card' },
        h('h2', { class: 'pad' }, 'Destinations'),
        h('table', { class: 'health' },
          h('thead', {}, h('tr', {}, ['Name', 'State', 'Pending', 'Oldest', 'Dead', 'Last delivery'].map((title) => h('th', { scope: 'col' }, title)))),
          this.health)),
      this.shared, this.foot);
  }

  status(status) {
    const { messages, store } = status;
    fill(this.problems, this.#problems(status));
    fill(this.figures,
      figure('Accepted', count(messages.accepted), ['messages', undelivered(messages)]),
      figure('Delivered', count(messages.delivered), 'deliveries'),
      figure('Pending', count(messages.pending), 'deliveries'),
      figure('Dead', count(messages.dead), messages.acknowledged ? `need attention; ${count(messages.acknowledged)} do not` : 'need attention', messages.dead > 0 && 'bad'),
      figure('Store', bytes(store.bytes), store.free_bytes === null ? 'in the database' : `${bytes(store.free_bytes)} free`),
      figure('Uptime', duration((now() - Date.parse(status.started_at)) / 1000), status.stopping ? 'stopping' : status.ready ? 'ready' : 'not ready', !status.ready && 'bad'));
    fill(this.health, status.destinations.map(row));
    this.shared.hidden = !status.nodes;
    fill(this.nodes, status.nodes?.nodes.map((node) => nodeRow(node, status.nodes)));
    fill(this.foot, `smsbridge ${status.version}${status.nodes ? ` on node ${status.nodes.node}` : ''}, started `, time(status.started_at),
      store.commit_ms === null ? '' : `. The last commit took ${store.commit_ms.toFixed(1)} ms.`);
    this.element.classList.toggle('stale', this.app.silent !== null);
  }

  charts() {
    const minutes = this.app.minutes;
    const known = minutes.filter(Boolean);
    for (const name of ['accepted', 'delivered', 'dead']) fill(this[name], count(known.reduce((sum, minute) => sum + minute[name], 0)));
    fill(this.since, span(minutes));
    this.rates.show(minutes);
    this.backlog.show(minutes);
  }

  stop() {
    this.rates.stop();
    this.backlog.stop();
  }

  /** The problems, or a summary of what is confirmed to work. */
  #problems({ problems, destinations, stopping, ready }) {
    const box = (tone, title, ...content) => {
      this.problems.dataset.tone = tone;
      return [h('h2', {}, title), content];
    };
    const { silent } = this.app;
    if (silent !== null) return box('bad', 'The state is unknown', h('p', { class: 'muted' }, `Below is the state at ${clockSeconds(silent)}, the last one received.`));
    const others = problems.filter(({ kind }) => kind !== 'stopping');
    const listed = others.length > 0 && h('ul', {}, others.map((each) => problem(each, destinations.find(({ name }) => name === each.destination))));
    if (stopping) {
      return box('bad', 'The daemon is stopping', h('p', {}, 'It is ', prose(stopping), '. Carriers send new messages again later; pending deliveries continue after the next start.'), listed);
    }
    if (listed) return box(problems.some(({ severity }) => severity === 'error') ? 'bad' : 'wait', heading(problems), listed);
    if (!ready) return box('bad', 'The daemon is not ready', h('p', { class: 'muted' }, 'Messages are not accepted at the moment.'));
    const late = destinations.filter((destination) => destination.pending > 0 && (failed(destination) || now() - Date.parse(destination.oldest) > PROMPT));
    const failing = destinations.filter((destination) => failed(destination));
    const limited = destinations.filter(({ state }) => state === 'limited');
    return box(late.length + failing.length + limited.length ? 'wait' : 'good', late.length ? 'Deliveries are delayed' : 'No problems',
      h('p', { class: 'muted' }, 'Messages are accepted. ', pendingAt(late), limited.map(({ name, reason }) => [`${name} is rate limiting: `, prose(reason), '. ']), failing.map(({ name, last_attempt: last }) => [`The last attempt of ${name} failed `, time(last.at), ': ', prose(last.detail), '. ']), untested(destinations)));
  }
}

/** Messages without a delivery; without them the figures do not add up. */
const undelivered = (messages) => ['kept', 'unrouted'].map((state) => messages[state] > 0
  && ['; ', h('a', { href: `#/messages?state=${state}`, title: 'stored, but delivered to no destination' }, `${count(messages[state])} ${state}`)]);

/** Describes where deliveries have been pending for some time. */
const pendingAt = (late) => late.map(({ name, pending, oldest }) => [h('a', { href: `#/destinations/${name}?list=pending` }, name), `: ${count(pending)} pending, the oldest for `, lasting(oldest), '. ']);

function untested(destinations) {
  const names = destinations.filter(({ state }) => state === 'untested').map(({ name }) => name);
  return names.length > 0 && `Not tested yet: ${names.join(', ')}.`;
}

const figure = (name, value, note, tone) => h('div', {}, h('dt', {}, name), h('dd', { class: tone || null }, value), h('dd', { class: 'muted' }, note));

/** A node that shares the store, and the destinations that it serves. */
function nodeRow({ name, state, version, configuration, started_at: started, seen_at: seen }, { node, lanes }) {
  const served = lanes.filter((lane) => lane.node === name).map(({ destination }) => destination);
  const links = served.flatMap((destination, at) => [at > 0 && ', ', h('a', { href: `#/destinations/${destination}` }, destination)]);
  return h('tr', {},
    h('th', { scope: 'row' }, name, ' ', name === node && h('span', { class: 'kind' }, 'this node')),
    h('td', { class: 'state' }, pill(state, null, state === 'up' ? 'good' : 'bad'), ' ', h('span', { class: 'reason muted', title: 'a digest of its configuration, the same on all nodes' }, configuration)),
    h('td', { class: 'muted' }, version),
    h('td', { class: 'last' }, time(started)),
    h('td', {}, time(seen)),
    h('td', {}, links.length > 0 ? links : h('span', { class: 'muted' }, 'none')));
}

/** A destination. On a narrow screen the table has no header and no columns: each number has a label. */
function row(destination) {
  const { name, kind, state, pending, oldest, dead, delivered_at: delivered } = destination;
  const last = failed(destination);
  const reason = last ? `last attempt: ${last.detail}` : destination.reason;
  const narrow = (text) => h('span', { class: 'narrow' }, text);
  return h('tr', {},
    h('th', { scope: 'row' }, h('a', { href: `#/destinations/${name}` }, name), ' ', h('span', { class: 'kind' }, kind ?? 'not configured')),
    h('td', { class: 'state' }, last ? pill(state, 'It answers, but the last attempt failed', 'wait') : pill(state), ' ', reason && h('span', { class: 'reason muted', title: plain(reason) }, prose(reason))),
    h('td', { class: pending ? 'n' : 'n none' }, count(pending), narrow(' pending')),
    h('td', { class: oldest ? '' : 'none' }, oldest ? [narrow('oldest '), time(oldest)] : h('span', { class: 'muted' }, '–')),
    h('td', { class: dead ? 'n bad' : 'n none' }, count(dead), narrow(' dead')),
    h('td', { class: 'last' }, delivered ? time(delivered) : h('span', { class: 'muted' }, 'never')));
}
