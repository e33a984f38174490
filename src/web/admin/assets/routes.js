// The routes in order, and a form that explains how a message would be routed.

import { get, post } from './api.js';
import { act } from './components.js';
import { fill, h } from './dom.js';
import { prose, visible } from './text.js';

export class Routes {
  constructor(app) {
    this.app = app;
    this.list = h('ol', { class: 'routes' });
    this.answer = h('div', { class: 'answer stack', 'aria-live': 'polite' });
    const field = (title, input) => h('label', {}, h('span', {}, title), input);
    const form = h('form', { class: 'card try', onsubmit: (event) => this.#try(event) },
      h('h2', {}, 'Test the routes'),
      h('p', { class: 'muted' }, 'Nothing is sent or stored.'),
      h('div', { class: 'pair' },
        field('From', h('input', { name: 'from', required: true, autocomplete: 'off', placeholder: '+13035550100' })),
        field('To', h('input', { name: 'to', required: true, autocomplete: 'off', placeholder: '+13038675309' }))),
      field('Message', h('textarea', { name: 'message', rows: 4 })),
      field('Source', h('input', { name: 'source', autocomplete: 'off', placeholder: 'the first one' })),
      this.failure = h('p', { class: 'failure', role: 'alert' }),
      h('div', { class: 'buttons' }, h('button', { class: 'primary', type: 'submit' }, 'Where would it go?')));
    this.element = h('div', { class: 'stack' }, h('h1', { class: 'hidden' }, 'Routes'),
      h('div', { class: 'two' }, h('section', { class: 'card' }, h('h2', { class: 'pad' }, 'Routes, in evaluation order'), this.list),
        h('div', { class: 'stack' }, form, this.answer)));
    this.refresh();
  }

  async refresh() {
    try {
      const { routes, unmatched } = await get('/routes');
      fill(this.list, routes.map(route), h('li', { class: 'rest' },
        h('header', {}, h('span', { class: 'muted' }, routes.length ? 'Messages that match no route' : 'No routes: all messages'), targets(unmatched, 'unrouted')),
        routes.length === 0 && h('p', { class: 'muted' }, 'To add a route, write a ', h('code', {}, '[[route]]'), ' table in the configuration.')));
    } catch (error) {
      fill(this.list, h('li', { class: 'failure' }, prose(error.message)));
    }
  }

  async #try(event) {
    event.preventDefault();
    const { from, to, message, source } = Object.fromEntries(new FormData(event.target));
    const question = { from: from.trim(), to: to.trim(), message, render: true };
    if (source.trim()) question.source = source.trim();
    fill(this.failure);
    const button = event.target.querySelector('[type=submit]');
    const explained = await act(button, async () => {
      try {
        return await post('/route', question);
      } catch (error) {
        fill(this.failure, prose(error.message));
        return undefined;
      }
    });
    fill(this.answer, explained && explain(explained));
  }
}

/** Longer lists are collapsed. */
const LISTED = 8;

function route({ name, deliver, continue: continues, template, unless, urgent, active, muted, ...when }) {
  const conditions = [...rows(when), ...times(active, muted)];
  return h('li', {},
    h('header', {}, h('b', {}, name),
      continues && h('span', { class: 'tag', title: 'Later routes are evaluated, too' }, 'continues'),
      urgent && h('span', { class: 'tag', title: 'Its deliveries are not held, and do not wait for other messages of their conversation' }, 'urgent'),
      template && h('span', { class: 'tag', title: 'This route has its own template' }, 'template'),
      targets(deliver)),
    h('dl', {}, conditions.length ? conditions : h('div', {}, h('dt', {}, 'any message'))),
    unless && h('dl', { class: 'unless' }, h('div', {}, h('dt', {}, 'unless'), h('dd', {}, h('dl', {}, rows(unless))))));
}

/** The destinations; without any, the state of the messages, which leads to them. */
const targets = (names, state = 'kept') => h('span', { class: 'to' }, names.length
  ? names.map((to) => h('a', { href: `#/destinations/${to}` }, to))
  : h('a', { href: `#/messages?state=${state}`, title: 'stored, but delivered to no destination' }, state));

/** The conditions of a route; for a list, one of its values must match. */
function rows({ source, to, from, message, keyword }) {
  const row = (title, value) => value && h('div', {}, h('dt', {}, title), h('dd', {}, value));
  return [
    row('source', source && values(source)), row('to', to && values(to)), row('from', from && values(from)),
    row('keyword', keyword && values(keyword)), row('body matches', message !== null && visible(message, 'code')),
  ].filter(Boolean);
}

/** The time intervals in which a route matches, and in which it does not. */
const times = (active, muted) => [
  active.length > 0 && h('div', {}, h('dt', {}, 'during'), h('dd', {}, values(active))),
  muted.length > 0 && h('div', {}, h('dt', {}, 'not during'), h('dd', {}, values(muted))),
].filter(Boolean);

function values(list) {
  const codes = (items) => items.map((item) => [visible(item, 'code'), ' ']);
  const rest = list.slice(LISTED);
  return [codes(list.slice(0, LISTED)), rest.length > 0 && h('details', {}, h('summary', {}, `and ${rest.length} more`), codes(rest))];
}

const OUTCOMES = { matched: ['matched', 'good'], failed: ['no', ''], not_reached: ['not reached', ''] };

function explain({ from, from_name: fromName, to, to_name: toName, routes, matched, destinations }) {
  const named = (number, name) => (name ? `${name} (${number})` : number);
  return [
    h('section', { class: 'card pad' },
      h('h2', {}, 'Why'),
      h('p', { class: 'muted' }, `From ${named(from, fromName)} to ${named(to, toName)}`),
      h('ol', { class: 'tried' }, routes.map(({ route: name, outcome, reason }) => {
        const [title, tone] = OUTCOMES[outcome];
        return h('li', { class: outcome }, h('b', {}, name), h('span', { class: `pill ${tone}` }, title), reason && h('span', { class: 'muted' }, prose(reason)));
      })),
      !matched && h('p', {}, prose('No route matched: it goes to the destinations of `routing.unmatched`.'))),
    destinations.length === 0 && h('section', { class: 'card pad' }, h('h2', {}, 'No destination'), h('p', { class: 'muted' }, 'The message would be stored and not delivered.')),
    destinations.map(({ destination, kind, route: by, payload, error }) => h('section', { class: 'card pad payload' },
      h('h2', {}, destination, ' ', h('span', { class: 'muted' }, `${kind}, ${by ? `by route ${by}` : 'for messages that match no route'}`)),
      error && h('p', { class: 'failure' }, 'The payload cannot be rendered: ', visible(error)),
      payload && visible(payload, 'pre', { tabindex: '0', 'aria-label': `Payload for ${destination}` }))),
  ];
}
