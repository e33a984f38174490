// Current problems, throughput, and the state of every destination.

import { backlog, chart, rates } from './chart.js';
import { bytes, count, duration, fill, h, now, pill, plural, prose, time, words } from './dom.js';

export class Overview {
  constructor(desk) {
    this.desk = desk;
    this.problems = h('section', { class: 'card problems', 'aria-label': 'Problems' });
    this.figures = h('dl', { class: 'figures card' });
    this.accepted = h('b');
    this.delivered = h('b');
    this.dead = h('b');
    this.rates = chart('Messages in the last hour', [
      h('span', { class: 'key bar' }, 'accepted ', this.accepted), h('span', { class: 'key line' }, 'delivered ', this.delivered),
      h('span', { class: 'muted' }, 'dead ', this.dead),
    ], rates);
    this.backlog = chart('Deliveries pending', [], backlog);
    this.health = h('tbody');
    this.foot = h('p', { class: 'foot muted' });
    this.element = h('div', { class: 'stack' },
      h('h1', { class: 'hidden' }, 'Overview'),
      this.problems, this.figures,
      h('div', { class: 'charts' }, this.rates.element, this.backlog.element),
      h('section', { class: 'card' },
        h('h2', { class: 'pad' }, 'Destinations'),
        h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Destinations' },
          h('table', { class: 'health' },
            h('thead', {}, h('tr', {}, ['Name', 'State', 'Pending', 'Oldest', 'Dead', 'Last delivery'].map((title) => h('th', { scope: 'col' }, title)))),
            this.health))),
      this.foot);
  }

  status(status) {
    this.#problems(status);
    const { messages, store } = status;
    const dead = status.destinations.reduce((sum, destination) => sum + destination.dead, 0);
    fill(this.figures,
      figure('Accepted', count(messages.accepted), 'messages'),
      figure('Delivered', count(messages.delivered), 'deliveries'),
      figure('Pending', count(messages.pending), 'deliveries'),
      figure('Dead', count(dead), 'need attention', dead > 0 && 'bad'),
      figure('Store', bytes(store.bytes), `${bytes(store.free_bytes)} free`),
      figure('Uptime', duration((now() - Date.parse(status.started_at)) / 1000), status.stopping ? `stopping: ${status.stopping}` : status.ready ? 'ready' : 'not ready', !status.ready && 'bad'));
    fill(this.health, status.destinations.map(row));
    fill(this.foot, `smsbridge ${status.version}, started `, time(status.started_at),
      store.commit_ms === null ? '' : `. The last commit took ${store.commit_ms.toFixed(1)} ms.`);
  }

  charts() {
    const minutes = this.desk.minutes;
    const known = minutes.filter(Boolean);
    for (const name of ['accepted', 'delivered', 'dead']) fill(this[name], count(known.reduce((sum, minute) => sum + minute[name], 0)));
    this.rates.show(minutes);
    this.backlog.show(minutes);
  }

  stop() {
    this.rates.stop();
    this.backlog.stop();
  }

  #problems({ problems, destinations }) {
    this.problems.classList.toggle('good', problems.length === 0);
    if (problems.length === 0) {
      const untested = destinations.filter(({ state }) => state === 'untested').map(({ name }) => name);
      fill(this.problems, h('h2', {}, 'No problems'), h('p', { class: 'muted' }, 'Messages are accepted. ',
        untested.length > 0 ? `Not tested yet: ${untested.join(', ')}.` : 'The last attempt of every destination succeeded.'));
      return;
    }
    fill(this.problems, h('h2', {}, plural(problems.length, 'problem')), h('ul', {}, problems.map(({ severity, destination, message }) =>
      h('li', { class: severity }, h('span', {}, prose(message)), destination && h('a', { href: `#/destinations/${destination}` }, 'Show')))));
  }
}

const figure = (name, value, note, tone) => h('div', {}, h('dt', {}, name), h('dd', { class: tone || null }, value), h('dd', { class: 'muted' }, note));

function row(destination) {
  const { name, kind, state, reason, pending, oldest, dead, delivered_at: delivered } = destination;
  return h('tr', {},
    h('th', { scope: 'row' }, h('a', { href: `#/destinations/${name}` }, name), ' ', h('span', { class: 'muted' }, kind ?? 'not configured')),
    h('td', {}, pill(state), reason && words(reason, 'span', { class: 'reason muted', title: reason })),
    h('td', { class: 'n' }, count(pending)),
    h('td', {}, oldest ? time(oldest) : h('span', { class: 'muted' }, '–')),
    h('td', { class: dead ? 'n bad' : 'n' }, count(dead)),
    h('td', {}, delivered ? time(delivered) : h('span', { class: 'muted' }, 'never')));
}
