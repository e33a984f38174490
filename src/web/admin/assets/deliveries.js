// The pending or dead deliveries of one destination, and the actions on all of them.

import { get } from './api.js';
import { confirm, pill } from './components.js';
import { count, fill, h, plural } from './dom.js';
import { clockSeconds } from './time.js';
import { contact, prose } from './text.js';

const LISTED = 20;

export class Deliveries {
  /** `state` of the deliveries shown: `dead`, `pending` or nothing. */
  state = null;
  /** The senders of the messages listed, by id, so that each is fetched once. */
  #senders = new Map();

  constructor(app, name) {
    this.app = app;
    this.name = name;
    this.element = h('div', { class: 'listed' });
  }

  async show(state, destination) {
    this.state = state;
    this.destination = destination;
    if (!state) {
      fill(this.element);
      return;
    }
    try {
      const page = await get('/deliveries', { destination: this.name, state, limit: LISTED });
      if (state === this.state) this.#fill(page);
    } catch (error) {
      fill(this.element, h('p', { class: 'failure' }, prose(error.message)));
    }
  }

  #fill({ items, next }) {
    const { state } = this;
    if (items.length === 0) {
      fill(this.element, h('p', { class: 'muted' }, state === 'dead' ? 'No dead deliveries.' : 'No pending deliveries.'));
      return;
    }
    const button = (name, action, danger) => h('button', { class: danger ? 'danger' : null, onclick: ({ currentTarget }) => action.call(this, currentTarget) }, name);
    fill(this.element,
      h('ul', {}, items.map((item) => this.#item(item))),
      next && h('p', { class: 'muted' }, `Only the newest ${LISTED} are listed.`),
      h('div', { class: 'buttons' },
        (state === 'pending' || this.destination.dead > 0) && button('Retry all', this.#retry),
        state === 'dead' && this.destination.dead > 0 && button('Acknowledge all', this.#acknowledge),
        state === 'pending' && button('Discard all', this.#discard, true)));
  }

  #item(delivery) {
    const { id, created_at: created, reason, pending, acknowledged_by: by } = delivery;
    const message = id.slice(0, id.lastIndexOf('-'));
    const sender = h('span', {});
    this.#sender(message, sender);
    return h('li', {},
      h('a', { href: `#/messages/${message}` }, sender), ' ', h('span', { title: created }, clockSeconds(created)), ' ',
      h('span', { class: 'muted' }, prose(reason ?? pending?.why ?? 'no reason given')), by && !isDiscarded(delivery) && [' ', pill(STANDING[by])]);
  }

  /** Names the sender, which the list of deliveries does not contain; the end of the id if it is not known. */
  async #sender(id, element) {
    const known = this.#senders.get(id);
    fill(element, known ? contact(known.from, known.from_name) : `\u2026${id.slice(-8)}`);
    if (known) return;
    try {
      const { from, from_name } = await get(`/messages/${id}`);
      this.#senders.set(id, { from, from_name });
      fill(element, contact(from, from_name));
    } catch {
      // The end of the id stays.
    }
  }

  async #retry(button) {
    const { dead, acknowledged, pending, state: standing } = this.destination;
    const isDead = this.state === 'dead';
    const number = isDead ? dead : pending;
    const text = [
      `${number === 1 ? 'It becomes due now and is' : 'They become due now and are'} sent${number === 1 ? '' : ' in order'} as soon as ${this.name} accepts messages.`,
      isDead && acknowledged > 0 && `Not included: ${plural(acknowledged, 'dead delivery', 'dead deliveries')} that ${acknowledged === 1 ? 'needs' : 'need'} no attention, because they were acknowledged, or a fallback or another delivery delivered the message.`,
      standing === 'paused' && `${this.name} is paused: nothing is sent until it is resumed.`,
    ];
    const sure = await confirm({ title: `Retry ${all(number, this.state)} to ${this.name}?`, text, action: `Retry ${count(number)}`, careful: isDead });
    if (sure) await this.#change(button, 'retry', 'due now');
  }

  async #acknowledge(button) {
    const { dead } = this.destination;
    const text = 'Acknowledged deliveries stay listed and can be retried, but are no longer reported as a problem.';
    const sure = await confirm({ title: `Acknowledge ${all(dead, 'dead')} to ${this.name}?`, text, action: `Acknowledge ${count(dead)}` });
    if (sure) await this.#change(button, 'acknowledge', 'acknowledged');
  }

  async #discard(button) {
    const { pending } = this.destination;
    const text = 'Discarded deliveries are not delivered. The messages stay stored and can be resent one by one.';
    const sure = await confirm({ title: `Discard ${all(pending, 'pending')} to ${this.name}?`, text, action: `Discard ${count(pending)}`, danger: true });
    if (sure) await this.#change(button, 'discard', 'discarded');
  }

  #change(button, action, verb) {
    return this.app.change(button, `/deliveries/${action}`, { destination: this.name, state: this.state }, (answer) => report(answer, verb));
  }
}

/** `all 12 dead deliveries` */
const all = (number, state) => (number === 1 ? `the ${state} delivery` : `all ${count(number)} ${state} deliveries`);

/** Why a dead delivery needs no attention. */
export const STANDING = { fallback: 'fallback delivered', delivery: 'delivered since', operator: 'acknowledged' };

/** A discarded delivery is acknowledged by the same action. */
export const isDiscarded = ({ acknowledged_by: by, acknowledged_at: acknowledged, ended_at: ended }) => by === 'operator' && acknowledged === ended;

/** The result of an action on many deliveries. */
function report({ deliveries, already_due: due, attempting, redacted, results }, verb) {
  const result = results?.[0];
  return [
    `${plural(deliveries, 'delivery', 'deliveries')} ${verb}`,
    due > 0 && `, ${count(due)} ${due === 1 ? 'was' : 'were'} due already`,
    attempting > 0 && `, ${count(attempting)} in progress`,
    redacted > 0 && `, ${count(redacted)} skipped: their messages are redacted`,
    result?.pending && ['; ', prose(result.pending.why), result.outcome === 'probed' && '; probing it now with one delivery'],
  ];
}
