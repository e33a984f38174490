// The destinations: their state, and the actions on them.

import { get, post } from './api.js';
import { act, confirm, count, dueTime, fill, h, pill, plural, time, words } from './dom.js';

const LISTED = 20;

export class Destinations {
  constructor(desk) {
    this.desk = desk;
    this.cards = new Map();
    this.list = h('div', { class: 'destinations' });
    this.element = h('div', { class: 'stack' }, h('h1', { class: 'hidden' }, 'Destinations'), this.list);
  }

  /** Remembers the destination to focus: a link from another view is `#/destinations/NAME`. */
  go({ rest }) {
    this.wanted = rest;
  }

  status({ destinations }) {
    const names = new Set(destinations.map(({ name }) => name));
    for (const [name, card] of this.cards) {
      if (!names.has(name)) {
        card.element.remove();
        this.cards.delete(name);
      }
    }
    destinations.forEach((destination, at) => {
      let card = this.cards.get(destination.name);
      if (!card) {
        card = new Card(this.desk, destination.name);
        this.cards.set(destination.name, card);
        this.list.insertBefore(card.element, this.list.children[at] ?? null);
      }
      card.show(destination);
    });
    const card = this.cards.get(this.wanted);
    if (card) {
      this.wanted = '';
      card.element.focus();
      card.element.scrollIntoView({ block: 'nearest' });
    }
  }

  refresh() {
    for (const card of this.cards.values()) card.refresh();
  }
}

class Card {
  constructor(desk, name) {
    this.desk = desk;
    this.name = name;
    this.head = h('header');
    this.facts = h('dl', { class: 'facts' });
    this.reason = h('div');
    this.outcome = h('div', { class: 'outcome', role: 'status' });
    this.listed = h('div', { class: 'listed' });
    const path = `/destinations/${encodeURIComponent(name)}`;
    this.test = h('button', { onclick: ({ currentTarget }) => this.#test(currentTarget, path) }, 'Test');
    this.pause = h('button', { onclick: ({ currentTarget }) => this.#pause(currentTarget, path) }, 'Pause');
    this.dead = h('button', { onclick: () => this.#list('dead') });
    this.pending = h('button', { onclick: () => this.#list('pending') });
    this.element = h('article', { class: 'card destination', tabindex: '-1', 'aria-label': name },
      this.head, this.reason, this.facts, h('div', { class: 'buttons' }, this.test, this.pause, this.pending, this.dead), this.outcome, this.listed);
  }

  show(destination) {
    const json = JSON.stringify(destination);
    if (json === this.json) return;
    this.json = json;
    this.shown = destination;
    const { kind, state, since, until, reason, pending, dead, acknowledged, oldest, delivered_at: delivered, fallback } = destination;
    const isPaused = state === 'paused';
    fill(this.head, h('h2', {}, this.name), h('span', { class: 'muted' }, kind ?? 'not configured'), pill(state));
    fill(this.reason, reason && words(reason, 'p', { class: 'said' }), ADVICE[state] && h('p', { class: 'muted' }, ADVICE[state]));
    fill(this.facts,
      since && fact('Since', time(since)), until && !isPaused && fact('Next attempt', dueTime(until)),
      fact('Pending', count(pending)), oldest && fact('Oldest', time(oldest)), fact('Dead', count(dead)), acknowledged > 0 && fact('Dead, acknowledged', count(acknowledged)),
      fact('Last delivery', delivered ? time(delivered) : 'never'), fallback && fact('Fallback', fallback));
    this.test.hidden = !kind;
    this.pause.hidden = !kind;
    fill(this.pause, isPaused ? 'Resume' : 'Pause');
    this.pending.hidden = pending === 0;
    fill(this.pending, `${count(pending)} pending`);
    this.dead.hidden = dead + acknowledged === 0;
    fill(this.dead, `${count(dead + acknowledged)} dead`);
    this.refresh();
  }

  async #pause(button, path) {
    const isPaused = this.shown.state === 'paused';
    if (!isPaused) {
      const sure = await confirm({ title: `Pause ${this.name}?`, text: 'Messages for it are accepted and stay pending until you resume it, even after a restart.', action: 'Pause' });
      if (!sure) return;
    }
    await this.desk.change(button, `${path}/${isPaused ? 'resume' : 'pause'}`, undefined, () => `${this.name} is ${isPaused ? 'resumed' : 'paused'}`);
  }

  async #test(button, path) {
    fill(this.outcome, h('p', { class: 'muted' }, 'Sending a test message …'));
    const tested = await act(button, () => post(`${path}/test`));
    fill(this.outcome);
    if (!tested) return;
    const { delivered, failure, detail, took_ms: took } = tested;
    fill(this.outcome, h('p', { class: delivered ? 'good' : 'bad' },
      h('b', {}, delivered ? 'The test message was accepted' : 'The test message failed'), ` after ${count(took)} ms`, detail && [': ', words(detail)]),
    !delivered && h('p', { class: 'muted' }, FAILURES[failure]));
    this.desk.reloadStatus();
  }

  /** Shows or hides the deliveries in this state. */
  #list(state) {
    this.state = this.state === state ? null : state;
    this.refresh();
  }

  async refresh() {
    for (const [button, state] of [[this.dead, 'dead'], [this.pending, 'pending']]) button.setAttribute('aria-expanded', String(this.state === state));
    const state = this.state;
    if (!state) {
      fill(this.listed);
      return;
    }
    try {
      const page = await get('/deliveries', { destination: this.name, state, limit: LISTED });
      if (state === this.state) this.#fill(page, state);
    } catch (error) {
      fill(this.listed, h('p', { class: 'complaint' }, error.message));
    }
  }

  #fill({ items, next }, state) {
    if (items.length === 0) {
      fill(this.listed, h('p', { class: 'muted' }, state === 'dead' ? 'No dead deliveries.' : 'No pending deliveries.'));
      return;
    }
    const report = (verb) => ({ deliveries, already_due: due, attempting, redacted, results }) => `${plural(deliveries, 'delivery', 'deliveries')} ${verb}${due ? `, ${due} due already` : ''}${attempting ? `, ${attempting} in progress` : ''}${redacted ? `, ${redacted} skipped: their messages are redacted` : ''}${results?.[0]?.pending ? `; ${results[0].pending.why}${results[0].outcome === 'probed' ? '; probing it now with one delivery' : ''}` : ''}`;
    const retry = async ({ currentTarget }) => {
      const sure = await confirm({ title: `Retry all ${state} deliveries to ${this.name}?`, text: 'All of them become due now and are sent in order as soon as the destination accepts messages.', action: 'Retry all' });
      if (sure) await this.desk.change(currentTarget, '/deliveries/retry', { destination: this.name, state }, report('due now'));
    };
    const acknowledge = async ({ currentTarget }) => {
      const sure = await confirm({ title: `Acknowledge all dead deliveries to ${this.name}?`, text: 'They stay listed and can be retried, but are no longer reported as a problem.', action: 'Acknowledge all' });
      if (sure) await this.desk.change(currentTarget, '/deliveries/acknowledge', { destination: this.name, state }, report('acknowledged'));
    };
    const discard = async ({ currentTarget }) => {
      const sure = await confirm({ title: `Discard all pending deliveries to ${this.name}?`, text: 'They will not be delivered. The messages stay stored and can be resent one by one.', action: 'Discard all', danger: true });
      if (sure) await this.desk.change(currentTarget, '/deliveries/discard', { destination: this.name, state }, report('discarded'));
    };
    fill(this.listed,
      h('ul', {}, items.map(({ id, created_at: created, reason, pending, acknowledged_by: by }) => h('li', {},
        h('a', { href: `#/messages/${id.slice(0, id.lastIndexOf('-'))}` }, time(created)), ' ', words(reason ?? pending?.why ?? 'no reason given', 'span', { class: 'muted' }), by && [' ', pill(by === 'fallback' ? 'fallback delivered' : 'acknowledged')]))),
      next && h('p', { class: 'muted' }, `Only the newest ${LISTED} are listed.`),
      h('div', { class: 'buttons' }, h('button', { onclick: retry }, 'Retry all'), state === 'dead' && this.shown.dead > 0 && h('button', { onclick: acknowledge }, 'Acknowledge all'), state === 'pending' && h('button', { class: 'danger', onclick: discard }, 'Discard all')));
  }
}

const fact = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));

/** The advice for each state. */
const ADVICE = {
  untested: 'No attempt since its configuration last changed. Test sends a test message.',
  down: 'Its deliveries stay pending and are retried. If this lasts, check that the destination is up and reachable from this machine.',
  parked: 'The configuration or the account must be fixed. Then press Test: if it succeeds, delivery resumes at once.',
  limited: 'The destination is rate limiting. No action is needed.',
  paused: 'Paused by an operator. Its deliveries stay pending until it is resumed.',
  removed: 'It is no longer configured. Configure it again, or discard its pending deliveries.',
};

/** The meaning of a failed test. */
const FAILURES = {
  transient: 'A real message would stay pending and be retried.',
  permanent: 'A real message would be dead: the destination rejected it for the reason above.',
  parked: 'A real message would stay pending until this is fixed: check the address, the token and the permissions.',
};
