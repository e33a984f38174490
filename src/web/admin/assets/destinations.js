// The destinations: their state, and the actions on them.

import { post } from './api.js';
import { act, confirm, pill } from './components.js';
import { Deliveries } from './deliveries.js';
import { count, fill, h } from './dom.js';
import { NOTES, details, failed } from './problems.js';
import { dueTime, now, time } from './time.js';
import { prose } from './text.js';

/** How long the result of a test is shown at least, in milliseconds, whatever happens to the destination meanwhile. */
const TEST_SHOWN = 10_000;

export class Destinations {
  constructor(app) {
    this.app = app;
    this.cards = new Map();
    this.list = h('div', { class: 'destinations' });
    this.element = h('div', { class: 'stack' }, h('h1', { class: 'hidden' }, 'Destinations'), this.list);
  }

  /** Remembers the destination to focus, and its list to open: a link is `#/destinations/NAME?list=dead`. */
  go({ rest, query }) {
    this.wanted = rest;
    this.wantedList = query.list;
  }

  status({ destinations, problems }) {
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
        card = new Card(this.app, destination.name);
        this.cards.set(destination.name, card);
        this.list.insertBefore(card.element, this.list.children[at] ?? null);
      }
      card.show(destination, problems.filter(({ destination: name, kind }) => name === destination.name && kind !== 'stopping'));
    });
    const card = this.cards.get(this.wanted);
    if (card) {
      this.wanted = '';
      if (['dead', 'pending'].includes(this.wantedList)) card.list(this.wantedList);
      card.element.focus();
      card.element.scrollIntoView({ block: 'nearest' });
    }
  }

  refresh() {
    for (const card of this.cards.values()) card.refresh();
  }
}

class Card {
  constructor(app, name) {
    this.app = app;
    this.name = name;
    this.head = h('header');
    this.facts = h('dl', { class: 'facts' });
    this.problems = h('div', { class: 'stack' });
    this.outcome = h('div', { class: 'outcome', role: 'status' });
    this.deliveries = new Deliveries(app, name);
    const path = `/destinations/${encodeURIComponent(name)}`;
    this.test = h('button', { onclick: ({ currentTarget }) => this.#test(currentTarget, path) }, 'Test');
    this.pause = h('button', { onclick: ({ currentTarget }) => this.#pause(currentTarget, path) }, 'Pause');
    this.dead = h('button', { onclick: () => this.#toggle('dead') });
    this.pending = h('button', { onclick: () => this.#toggle('pending') });
    this.element = h('article', { class: 'card destination', tabindex: '-1', 'aria-label': name },
      this.head, this.problems, this.facts, h('div', { class: 'buttons' }, this.test, this.pause, this.pending, this.dead), this.outcome, this.deliveries.element);
  }

  show(destination, problems) {
    this.shown = destination;
    this.#dropVerdict();
    const json = JSON.stringify([destination, problems.map(({ kind, cause }) => [kind, cause])]);
    if (json === this.json) return;
    this.json = json;
    const { kind, address, state, since, until, reason, pending, dead, acknowledged, oldest, delivered_at: delivered, fallback } = destination;
    const isPaused = state === 'paused';
    const last = failed(destination);
    fill(this.head, h('div', {}, h('h2', {}, this.name), h('span', { class: 'kind' }, kind ?? 'not configured')), h('div', {}, last ? pill(state, null, 'wait') : pill(state), address && h('span', { class: 'address muted' }, address)));
    fill(this.problems, problems.map((each) => h('div', {}, details(each, destination))),
      problems.length === 0 && h('div', {}, reason && h('p', { class: 'cause' }, prose(reason)), NOTES[state] && h('p', { class: 'muted' }, NOTES[state])),
      last && !problems.some(({ cause }) => cause === last.detail) && h('p', { class: 'muted' }, 'It answers, but its last attempt failed ', time(last.at), ': ', prose(last.detail)));
    fill(this.facts,
      since && fact('Since', time(since)), until && pending > 0 && !isPaused && fact(state === 'parked' ? 'Next check' : 'Next attempt', dueTime(until)),
      fact('Pending', count(pending)), oldest && fact('Oldest', time(oldest)), fact('Dead', count(dead)), acknowledged > 0 && fact('Dead, need no attention', count(acknowledged)),
      fact('Last delivery', delivered ? time(delivered) : 'never'), fallback && fact('Fallback', h('a', { href: `#/destinations/${fallback}` }, fallback)));
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
    await this.app.change(button, `${path}/${isPaused ? 'resume' : 'pause'}`, undefined, () => `${this.name} is ${isPaused ? 'resumed' : 'paused'}`);
  }

  async #test(button, path) {
    fill(this.outcome, h('p', { class: 'muted' }, 'Sending a test message …'));
    const tested = await act(button, () => post(`${path}/test`));
    fill(this.outcome);
    if (!tested) return;
    const { delivered, failure, detail, took_ms: took } = tested;
    const at = new Date(now()).toISOString();
    fill(this.outcome, h('p', { class: delivered ? 'good' : 'bad' },
      h('b', {}, delivered ? 'The test message was accepted' : 'The test message failed'), ' ', time(at), `, after ${count(took)} ms`, detail && [': ', prose(detail)]),
    !delivered && h('p', { class: 'muted' }, FAILURES[failure]));
    this.verdict = { at: Date.parse(at), delivered, state: this.shown.state };
    this.app.reloadStatus();
  }

  /** Removes the result of a test that the destination's state or a later delivery has overtaken. */
  #dropVerdict() {
    const { verdict, shown } = this;
    if (!verdict) return;
    const deliveredSince = shown.delivered_at && Date.parse(shown.delivered_at) > verdict.at;
    const isOld = now() - verdict.at > TEST_SHOWN;
    if ((deliveredSince && (isOld || !verdict.delivered)) || (isOld && shown.state !== verdict.state)) {
      this.verdict = null;
      fill(this.outcome);
    }
  }

  /** Shows or hides the deliveries in this state. */
  #toggle(state) {
    this.list(this.deliveries.state === state ? null : state);
  }

  list(state) {
    this.deliveries.state = state;
    this.refresh();
  }

  refresh() {
    const { state } = this.deliveries;
    for (const [button, listed] of [[this.dead, 'dead'], [this.pending, 'pending']]) button.setAttribute('aria-expanded', String(state === listed));
    this.deliveries.show(state, this.shown);
  }
}

const fact = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));

/** The meaning of a failed test. */
const FAILURES = {
  transient: 'A message would stay pending and be retried.',
  permanent: 'A message would not be delivered and not be retried: it would become a dead delivery.',
  parked: 'A message would stay pending until this is fixed: check the address, the token and the permissions.',
};
