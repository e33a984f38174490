// One message: its body, its deliveries, and their attempts.

import { get } from './api.js';
import { confirm, deliveredBy, pill, say, statePill } from './components.js';
import { STANDING, isDiscarded } from './deliveries.js';
import { fill, h, plural } from './dom.js';
import { isSafeLink } from './link.js';
import { retried, waits } from './pending.js';
import { duration, time } from './time.js';
import { contact, prose, visible } from './text.js';

export class Detail {
  id = '';
  #asked = 0;
  #answered = 0;

  constructor(app, close) {
    this.app = app;
    this.close = h('button', { class: 'plain close', 'aria-label': 'Close', title: 'Close (Esc)', onclick: close }, '\u00d7');
    this.content = h('div', { class: 'content' });
    this.element = h('aside', { class: 'detail', role: 'dialog', 'aria-label': 'Message', hidden: true }, this.close, this.content);
  }

  show(id) {
    if (id === this.id) return;
    const opened = !this.id;
    this.id = id;
    this.json = '';
    this.element.hidden = !id;
    fill(this.content);
    this.element.scrollTop = 0;
    if (!id) return;
    this.refresh();
    // Keeps the focus in the list while the operator moves through it with the arrow keys.
    if (opened || !document.activeElement?.closest('tr')) this.close.focus({ preventScroll: true });
  }

  async refresh() {
    const id = this.id;
    if (!id) return;
    this.#asked += 1;
    const turn = this.#asked;
    try {
      const message = await get(`/messages/${id}`);
      const json = JSON.stringify(message);
      // Responses may arrive out of order: ignores an older one.
      if (id !== this.id || turn < this.#answered) return;
      this.#answered = turn;
      if (json === this.json) return;
      this.json = json;
      this.#fill(message);
    } catch (error) {
      if (id === this.id) fill(this.content, h('h2', {}, 'This message cannot be shown'), h('p', {}, prose(error.message)));
    }
  }

  #fill(message) {
    const redacted = message.redacted_at !== null;
    fill(this.content,
      h('header', {}, h('h2', {}, contact(message.from, message.from_name)),
        h('p', { class: 'muted' }, 'to ', contact(message.to, message.to_name), ', ', time(message.received_at))),
      redacted
        ? h('p', { class: 'body muted' }, 'Body and numbers were redacted ', time(message.redacted_at), '.')
        : visible(message.text || '', 'blockquote', { class: message.text ? 'body' : 'body none' }),
      message.media.length > 0 && h('ul', { class: 'media' }, message.media.map(attachment)),
      h('div', { class: 'buttons' }, statePill(message), h('span', { class: 'muted' }, deliveredBy(message)), !redacted && h('button', { onclick: ({ currentTarget }) => this.#resend(currentTarget, message) }, 'Resend')),
      h('h3', {}, message.deliveries.length ? plural(message.deliveries.length, 'delivery', 'deliveries') : 'No deliveries'),
      message.deliveries.length === 0 && h('p', { class: 'muted' }, `${message.state === 'kept' ? 'Its routes deliver it to no destination' : 'No route matched it'}.`, !redacted && ' Resend sends it to a destination you choose.'),
      message.deliveries.map((delivery) => this.#delivery(delivery, redacted)),
      h('dl', { class: 'facts' },
        fact('Routes', message.routes.length ? message.routes.join(', ') : 'none matched'),
        fact('Source', message.source),
        fact('Carrier’s id', visible(message.provider_id)),
        Object.entries(message.extra).map(([name, json]) => fact(visible(`Field ${name}`), visible(json))),
        fact('Id', message.id)));
  }

  #delivery(delivery, redacted) {
    const { id, destination, recipient, state, attempts, attempts_made: made, ended_at: ended, reason, acknowledged_at: acknowledged, acknowledged_by: by } = delivery;
    const discarded = isDiscarded(delivery);
    const button = (name, action, danger) => h('button', { class: danger ? 'danger' : null, onclick: ({ currentTarget }) => action(currentTarget) }, name);
    const result = (done, none) => ({ deliveries }) => (deliveries ? done : none);
    const retry = (at) => this.app.change(at, '/deliveries/retry', { ids: [id] }, ({ results }) => retried(results[0]));
    const acknowledge = (at) => this.app.change(at, '/deliveries/acknowledge', { ids: [id] }, result('Acknowledged', 'Not acknowledged: it is already acknowledged or no longer dead'));
    const discard = async (at) => {
      const sure = await confirm({ title: 'Discard this delivery?', text: `${destination} will not receive this message. The message stays stored and can be resent.`, action: 'Discard', danger: true });
      if (sure) await this.app.change(at, '/deliveries/discard', { ids: [id] }, result('Discarded', 'Not discarded: an attempt is in progress, or the delivery has ended'));
    };
    const given = discarded
      ? ['Discarded by the operator ', time(ended), '.']
      : ['Given up ', time(ended), ': ', prose(reason ?? 'no reason given'), '.', acknowledged && settled(delivery)];
    return h('section', { class: 'delivery', 'aria-label': `Delivery to ${destination}${recipient ? `, ${recipient}` : ''}` },
      h('header', {}, h('a', { href: `#/destinations/${destination}` }, h('b', {}, destination)), recipient && visible(recipient), pill(state === 'pending' && made ? 'retrying' : state), acknowledged && !discarded && pill(STANDING[by]),
        h('span', { class: 'muted' }, origin(delivery))),
      h('p', { class: 'standing' }, state === 'pending' && waits(delivery),
        state === 'delivered' && ['Delivered ', time(ended), made > 1 ? `, at attempt ${made}.` : '.'],
        state === 'dead' && given),
      attempts.length > 0 && h('ol', { class: 'attempts' }, attempts.map(attempt)),
      made > attempts.length && h('p', { class: 'muted' }, `Only the first and the most recent of ${made} attempts are stored.`),
      state !== 'delivered' && h('div', { class: 'buttons' }, !redacted && button('Retry now', retry), state === 'dead' && !acknowledged && button('Acknowledge', acknowledge), state === 'pending' && button('Discard', discard, true)));
  }

  async #resend(button, message) {
    const names = this.app.status.destinations.filter(({ kind }) => kind).map(({ name }) => name);
    const extra = h('fieldset', {}, h('legend', {}, 'To'), names.map((name) => {
      const there = message.deliveries.filter(({ destination }) => destination === name);
      return h('label', { class: 'check' },
        // Preselects only destinations that have not received the message.
        h('input', { type: 'checkbox', name: 'destination', value: name, checked: there.length > 0 && there.every(needsAttention) }), h('span', { class: 'name' }, name), standing(there));
    }));
    const form = await confirm({ title: 'Resend this message?', text: 'A destination that already received it receives it again, and one where it is still pending receives it twice.', action: 'Resend', careful: true, extra });
    if (!form) return;
    const destinations = form.getAll('destination');
    if (destinations.length === 0) {
      say('Nothing was sent: no destination was selected', 'bad');
      return;
    }
    await this.app.change(button, `/messages/${message.id}/resend`, { destinations }, ({ deliveries }) => `${plural(deliveries, 'new delivery', 'new deliveries')}`);
  }
}

const needsAttention = ({ state, acknowledged_at: acknowledged }) => state === 'dead' && !acknowledged;

/** The state of a message at a destination, from its deliveries there. */
function standing(there) {
  const delivered = there.findLast(({ state }) => state === 'delivered');
  const note = (...what) => h('span', { class: 'note muted' }, ...what);
  if (there.some(({ state }) => state === 'pending')) return note('pending');
  if (delivered) return note('delivered ', time(delivered.ended_at));
  const dead = there.at(-1);
  if (!dead) return null;
  if (dead.acknowledged_by === 'fallback') return note(`dead, delivered by fallback ${dead.delivered_by ?? ''}`);
  return note('dead');
}

/** How a delivery came about. A fallback and a resent delivery have a route, too, for its template. */
function origin({ route, resent, fallback_of: first, handed_over: late }) {
  if (first) return `fallback of ${first}${late ? ` (${late})` : ''}`;
  if (resent) return 'resent by an operator';
  return route ? `by route ${route}` : 'matched no route';
}

/** Why a dead delivery needs no attention, after the sentence about its end. */
function settled({ acknowledged_at: at, acknowledged_by: by, delivered_by: fallback }) {
  const how = { fallback: ` Fallback ${fallback ?? ''} delivered the message `, delivery: ' Another delivery to it delivered the message ' }[by] ?? ' Acknowledged ';
  return [how, time(at), '.'];
}

const fact = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));

const attempt = ({ at, took_ms: took, verdict, detail }) => h('li', { class: verdict },
  h('span', { class: 'muted' }, time(at), ` · ${took < 1000 ? `${took} ms` : duration(took / 1000)}`), pill(verdict), h('span', { class: 'answer' }, prose(detail || 'no details')));

/** Shows an attachment; a link that is not safe to click is shown as plain text. */
function attachment({ link, content_type: type, filename }) {
  const name = filename ?? type ?? 'attachment';
  return h('li', {}, visible(name), ' ', isSafeLink(link)
    ? h('a', { href: link, target: '_blank', rel: 'noopener noreferrer' }, visible(link))
    : visible(link, 'span', { class: 'muted' }));
}
