// The stored messages, newest first, updated live.

import { RequestError, get } from './api.js';
import { statePill } from './components.js';
import { count, fill, h, plural, soon } from './dom.js';
import { Detail } from './message.js';
import { time } from './time.js';
import { line, contact, plain, prose } from './text.js';

const PAGE = 50;

/** Delay that joins a burst of events into one request, and the most messages that are fetched one by one. */
const REFRESH_DELAY = 250;
const SINGLY_MAX = 4;

/** A list scrolled by less shows its top: new rows appear there at once. */
const TOP = 80;

const FILTERS = ['text', 'from', 'to', 'state', 'source', 'since', 'until'];

export class Messages {
  constructor(app) {
    this.app = app;
    this.rows = new Map();
    this.changed = new Set();
    this.arrived = false;
    this.requests = 0;
    this.query = {};
    this.detail = new Detail(app, () => this.close());
    this.follow = soon(() => this.#follow(), REFRESH_DELAY);
    this.search = soon(() => this.#search(), REFRESH_DELAY);
    this.#build();
  }

  #build() {
    const field = (name, attributes) => h('input', { name, autocomplete: 'off', spellcheck: 'false', ...attributes });
    const label = (title, input) => h('label', {}, h('span', {}, title), input);
    const text = field('text', { type: 'search', placeholder: 'Search messages', 'aria-label': 'Search messages', 'data-search': true, 'aria-keyshortcuts': '/' });
    this.form = h('form', { class: 'filters', role: 'search', oninput: () => this.search(), onsubmit: (event) => { event.preventDefault(); this.#search(); } },
      h('div', { class: 'searchbox' }, text, h('kbd', { 'aria-hidden': 'true' }, '/')),
      this.more = h('details', { class: 'more' }, h('summary', {}, 'Filters'),
        h('div', { class: 'fields' },
          label('From', field('from', { placeholder: '+1303* or *0100' })),
          label('To', field('to', { placeholder: '+13038675309' })),
          label('State', h('select', { name: 'state' }, h('option', { value: '' }, 'any'), ['pending', 'delivered', 'dead', 'kept', 'unrouted'].map((state) => h('option', {}, state)))),
          label('Source', field('source', { placeholder: 'name' })),
          label('Since', field('since', { type: 'datetime-local' })),
          label('Until', field('until', { type: 'datetime-local' })),
          h('button', { type: 'button', class: 'plain', onclick: () => this.clear() }, 'Clear'))));
    this.failure = h('p', { class: 'failure', role: 'alert' });
    this.body = h('tbody', { onkeydown: (event) => this.#key(event) });
    this.table = h('table', { class: 'messages' },
      h('thead', {}, h('tr', {}, ['Time', 'From', 'To', 'Message', 'State'].map((title) => h('th', { scope: 'col' }, title)))), this.body);
    this.empty = h('div', { class: 'empty', hidden: true });
    this.older = h('button', { class: 'older', hidden: true, onclick: () => this.#older() }, 'Older messages');
    this.newer = h('button', { class: 'newer', hidden: true, onclick: () => this.#toTop() });
    this.hasNews = false;
    this.onscroll = () => this.#release();
    addEventListener('scroll', this.onscroll, { passive: true });
    this.element = h('div', { class: 'stack' }, h('h1', { class: 'hidden' }, 'Messages'), this.form, this.failure, this.newer,
      h('section', { class: 'card list', 'aria-label': 'Messages' }, this.table, this.empty), this.older, this.detail.element);
  }

  /** Handles a changed address: other filters, or a message to show. */
  go({ rest, query }) {
    const given = Object.fromEntries(FILTERS.filter((name) => query[name]).map((name) => [name, query[name]]));
    if (!this.loaded || JSON.stringify(given) !== JSON.stringify(this.query)) {
      this.query = given;
      this.#show();
      this.refresh();
    }
    const before = this.detail.id;
    this.detail.show(rest);
    for (const [id, { element }] of this.rows) element.classList.toggle('open', id === rest);
    if (before && !rest) {
      if (this.returning) this.#toTop();
      else this.rows.get(before)?.element.focus();
      this.returning = false;
      this.#release();
    }
  }

  /** Copies the filters of the address into the form, except into the focused field. */
  #show() {
    for (const name of FILTERS) {
      const input = this.form.elements[name];
      if (input === document.activeElement) continue;
      const value = this.query[name] ?? '';
      input.value = value && input.type === 'datetime-local' ? local(value) : value;
    }
    if (FILTERS.some((name) => name !== 'text' && this.query[name])) this.more.open = true;
  }

  #search() {
    this.search.cancel();
    const given = new URLSearchParams();
    for (const name of FILTERS) {
      const input = this.form.elements[name];
      const value = input.value.trim();
      if (value) given.set(name, input.type === 'datetime-local' ? new Date(value).toISOString() : value);
    }
    location.replace(`#/messages${String(given) && `?${given}`}`);
  }

  clear() {
    this.form.reset();
    for (const name of FILTERS) this.form.elements[name].value = '';
    this.#search();
  }

  /** Fetches the first page again; rows already shown keep their place. */
  async refresh() {
    this.follow.cancel();
    this.arrived = false;
    const changed = [...this.changed];
    this.changed.clear();
    const query = this.query;
    this.requests += 1;
    try {
      const page = await get('/messages', { ...query, limit: PAGE });
      if (query !== this.query) return;
      fill(this.failure);
      if (this.loaded === query && this.rows.size > 0 && this.#isReading()) await this.#announce(page, changed);
      else this.#first(page);
    } catch (error) {
      if (query !== this.query || !(error instanceof RequestError)) throw error;
      fill(this.failure, prose(error.message));
    } finally {
      this.requests -= 1;
    }
    this.detail.refresh();
  }

  /** Returns true if new rows would move or remove what the operator reads. */
  #isReading() {
    return this.detail.id !== '' || document.documentElement.scrollTop > TOP;
  }

  #first(page) {
    const same = this.loaded === this.query;
    const ids = new Set(page.items.map(({ id }) => id));
    // Older pages that were opened stay, unless the new first page no longer reaches them.
    const joins = same && page.items.some(({ id }) => this.rows.has(id));
    const kept = joins ? [...this.rows.keys()].filter((id) => !ids.has(id) && id < page.items.at(-1).id) : [];
    if (!joins || kept.length === 0) this.next = page.next;
    const rows = new Map();
    for (const message of page.items) rows.set(message.id, this.#row(message, same && !this.rows.has(message.id)));
    for (const id of kept) rows.set(id, this.rows.get(id));
    this.rows = rows;
    this.loaded = this.query;
    this.newer.hidden = true;
    this.#place();
  }

  /** Updates the rows shown, and announces the new ones instead of inserting them. */
  async #announce(page, changed) {
    this.hasNews = true;
    let fresh = 0;
    for (const message of page.items) {
      if (this.rows.has(message.id)) this.rows.set(message.id, this.#row(message, false));
      else fresh += 1;
    }
    const ids = new Set(page.items.map(({ id }) => id));
    await this.#update(changed.filter((id) => this.rows.has(id) && !ids.has(id)));
    if (fresh === 0) return;
    const isPart = fresh === page.items.length && page.next;
    fill(this.newer, isPart ? `More than ${count(fresh)} new messages` : plural(fresh, 'new message'));
    this.newer.hidden = false;
  }

  /** Shows the rows that were held back, once the operator has read the others. */
  async #release() {
    if (!this.hasNews || this.#isReading()) return;
    this.hasNews = false;
    await this.refresh();
  }

  /** Fetches these rows one by one. */
  async #update(ids) {
    for (const id of ids) {
      try {
        const message = await get(`/messages/${id}`);
        if (this.rows.has(id)) this.rows.set(id, this.#row(message, false));
      } catch {
        // The message may have been deleted meanwhile; the next refresh removes it.
      }
    }
  }

  /** Puts the rows in order, moving only those out of place. */
  #place() {
    const elements = [...this.rows.values()].map(({ element }) => element);
    elements.forEach((element, at) => {
      if (this.body.children[at] !== element) this.body.insertBefore(element, this.body.children[at] ?? null);
    });
    while (this.body.children.length > elements.length) this.body.lastChild.remove();
    const none = elements.length === 0;
    this.table.hidden = none;
    this.empty.hidden = !none;
    this.older.hidden = !this.next;
    if (none) fill(this.empty, Object.keys(this.query).length > 0 ? this.#nothingFound() : NOTHING_YET());
    if (!this.body.querySelector('[tabindex="0"]')) elements[0]?.setAttribute('tabindex', '0');
  }

  #nothingFound() {
    return [h('h2', {}, 'No messages match'), h('p', {}, 'A message must meet all filters. Enter whole numbers, or use ', h('code', {}, '*'), ' at one end.'),
      h('button', { onclick: () => this.clear() }, 'Clear the filters')];
  }

  #row(message, fresh) {
    const shown = this.rows.get(message.id);
    const json = JSON.stringify(message);
    if (shown?.json === json) return shown;
    const cells = [
      h('td', { class: 'when' }, time(message.received_at)),
      h('td', { class: 'from' }, contact(message.from, message.from_name)),
      h('td', { class: 'to' }, contact(message.to, message.to_name)),
      h('td', { class: 'text' }, excerpt(message)),
      h('td', { class: 'state' }, statePill(message)),
    ];
    const open = () => { if (!getSelection().toString()) this.open(message.id); };
    const element = shown?.element ?? h('tr', { tabindex: '-1', onclick: open, 'data-id': message.id });
    element.setAttribute('aria-label', plain(`From ${message.from_name ?? message.from}: ${message.text.slice(0, 80)}`));
    element.classList.toggle('open', message.id === this.detail.id);
    if (fresh) element.classList.add('fresh');
    fill(element, cells);
    return { element, json };
  }

  open(id) {
    const search = new URLSearchParams(this.query);
    location.hash = `#/messages/${id}${String(search) && `?${search}`}`;
  }

  close() {
    const search = new URLSearchParams(this.query);
    location.hash = `#/messages${String(search) && `?${search}`}`;
  }

  escape(event) {
    if (this.detail.id) this.close();
    else if (event.target.matches?.('input, select')) event.target.blur();
  }

  /** Moves between rows with the arrow keys and opens one with Enter. */
  #key(event) {
    const row = event.target.closest('tr');
    const rows = [...this.body.children];
    const at = rows.indexOf(row);
    const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (event.key === 'Enter') this.open(row.dataset.id);
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    row.setAttribute('tabindex', '-1');
    rows[to].setAttribute('tabindex', '0');
    rows[to].focus();
    if (this.detail.id) this.open(rows[to].dataset.id);
  }

  event(kind, data) {
    if (kind === 'message') this.arrived = true;
    if (kind === 'delivery') {
      const id = data.id.slice(0, data.id.lastIndexOf('-'));
      this.changed.add(id);
    }
    this.follow();
  }

  /** Fetches what changed: single messages, or the first page if many changed or a new one arrived. */
  async #follow() {
    // A pending response may be older than this event, or may already contain the message.
    if (this.requests > 0) {
      this.follow();
      return;
    }
    const shown = [...this.changed].filter((id) => this.rows.has(id));
    const detail = this.detail.id && this.changed.has(this.detail.id);
    if (this.arrived || shown.length > SINGLY_MAX || (shown.length > 0 && this.query.state)) {
      await this.refresh();
      return;
    }
    this.changed.clear();
    this.requests += 1;
    if (detail) this.detail.refresh();
    await this.#update(shown);
    this.requests -= 1;
  }

  /** Leaves what is being read, and shows the new messages. */
  async #toTop() {
    if (this.detail.id) {
      this.returning = true;
      this.close();
      return;
    }
    scrollTo({ top: 0 });
    await this.#release();
    this.body.firstChild?.focus({ preventScroll: true });
  }

  async #older() {
    this.older.disabled = true;
    try {
      const page = await get('/messages', { ...this.query, limit: PAGE, cursor: this.next });
      this.next = page.next;
      for (const message of page.items) this.rows.set(message.id, this.#row(message, false));
      this.#place();
    } catch (error) {
      fill(this.failure, prose(error.message));
    }
    this.older.disabled = false;
  }

  stop() {
    removeEventListener('scroll', this.onscroll);
    this.follow.cancel();
    this.search.cancel();
  }
}

const NOTHING_YET = () => [
  h('h2', {}, 'No messages yet'),
  h('p', {}, 'Messages appear here when the carrier delivers them. To send a test message, run this on the daemon’s machine:'),
  h('pre', {}, 'smsbridge simulate --from +13035550100 --to +13038675309 --message Hello'),
];

/** Formats a time for a `datetime-local` field. */
function local(iso) {
  const moment = new Date(iso);
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

const excerpt = (message) => {
  if (message.redacted_at) return h('span', { class: 'muted' }, 'redacted');
  if (message.text) return line(message.text.slice(0, 400));
  return h('span', { class: 'muted' }, message.media.length ? plural(message.media.length, 'attachment') : 'empty');
};
