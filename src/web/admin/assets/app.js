// The page: login, navigation, and the state shared by all views.

import { EventStream, RequestError, get, login, logout, post, session } from './api.js';
import { hour } from './chart.js';
import { act, say } from './components.js';
import { fill, h, soon } from './dom.js';
import { Destinations } from './destinations.js';
import { Messages } from './messages.js';
import { Overview } from './overview.js';
import { heading } from './problems.js';
import { Routes } from './routes.js';
import { clockSeconds, setClock, tick, time } from './time.js';
import { prose } from './text.js';

const VIEWS = {
  overview: ['Overview', Overview],
  messages: ['Messages', Messages],
  destinations: ['Destinations', Destinations],
  routes: ['Routes', Routes],
};

/** Interval between status requests while no events arrive, in milliseconds; the shorter one while something changes. */
const POLL = 10_000;
const POLL_CHANGING = 2_000;

const root = document.getElementById('app');

/** Parses the address: `#/messages/ID?state=dead` holds the view, the rest of the path, and the filters. */
function place() {
  const [path, search = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [view = '', rest = ''] = path.split('/');
  return { view: Object.hasOwn(VIEWS, view) ? view : 'overview', rest, query: Object.fromEntries(new URLSearchParams(search)) };
}

// --- The login ---------------------------------------------------------------------------------------------------

function showLogin(note = {}) {
  document.title = 'Log in · smsbridge';
  const token = h('input', {
    type: 'password', id: 'token', name: 'token', autocomplete: 'current-password', required: true, spellcheck: 'false',
  });
  const failure = h('p', { class: 'failure', role: 'alert' }, note.text);
  const button = h('button', { class: 'primary', type: 'submit' }, 'Log in');
  const submit = async (event) => {
    event.preventDefault();
    fill(failure);
    button.disabled = true;
    try {
      await login(token.value.trim());
      logins.opened();
      await begin();
      const started = app?.status.started_at;
      if (note.started && started && started !== note.started) {
        say(['The daemon was restarted ', time(started), `, at ${clockSeconds(started)}, which ends all sessions`]);
      }
    } catch (error) {
      fill(failure, error.status === 401 ? 'Wrong token.' : prose(error.message));
      token.select();
      button.disabled = false;
    }
  };
  fill(root, h('main', { class: 'alone' },
    h('form', { class: 'card login', onsubmit: submit },
      h('h1', {}, h('img', { src: '/assets/icon.svg', alt: '', width: 28, height: 28 }), 'smsbridge'),
      h('label', { for: 'token' }, 'Token'),
      token,
      h('p', { class: 'muted' }, prose('The value of `admin.token` in the configuration. If it is written `{ file = "…" }` or `{ credential = "…" }`, the token is in that file.')),
      failure,
      button)));
  token.focus();
}

/** When this browser logged in, to tell whether a session ended because it lasts twelve hours. */
const logins = {
  opened: () => remember(String(Date.now())),
  closed: () => remember(''),
  ended() {
    const age = Date.now() - Number(remembered() || NaN);
    return age >= SESSION ? 'Your login has expired after twelve hours. Log in again.' : 'Your session ended. Log in again.';
  },
};

const SESSION = 12 * 3600 * 1000;

/** Stores a value for all tabs, if the browser permits it. */
function remember(value) {
  try {
    localStorage.setItem('login', value);
  } catch {
    // Without it, the reason why a session ended is not known.
  }
}

function remembered() {
  try {
    return localStorage.getItem('login');
  } catch {
    return null;
  }
}

// --- The frame ---------------------------------------------------------------------------------------------------

/** The page while an operator is logged in. */
class App {
  constructor(status) {
    this.status = status;
    /** The last hour by minute. */
    this.minutes = [];
    this.events = new EventStream();
    this.live = h('span', { class: 'live', role: 'status' });
    this.links = Object.entries(VIEWS).map(([name, [title]]) => h('a', { href: `#/${name}`, 'data-view': name }, title));
    this.main = h('main', { id: 'view', tabindex: '-1' });
    this.outage = h('p', { class: 'outage', role: 'alert', hidden: true });
    /** When the daemon last responded, if it did not respond to the last request. */
    this.silent = null;
    this.answered = Date.parse(status.now);
    this.reloadStatus = soon(() => this.poll(), 400);
    this.reloadHour = soon(() => this.loadHour(), 1000);
    this.onhash = () => this.go();
  }

  start() {
    fill(root,
      h('a', { class: 'skip', href: '#view', onclick: (event) => { event.preventDefault(); this.main.focus(); } }, 'Skip to content'),
      h('header', { class: 'top' },
        h('a', { class: 'brand', href: '#/overview' }, h('img', { src: '/assets/icon.svg', alt: '', width: 22, height: 22 }), 'smsbridge'),
        h('nav', { 'aria-label': 'Views' }, this.links),
        this.live,
        h('button', { class: 'plain', onclick: ({ currentTarget }) => this.leave(currentTarget) }, 'Log out')),
      this.outage, this.main, h('div', { id: 'toasts', role: 'status' }));
    addEventListener('hashchange', this.onhash);
    addEventListener('focus', this.reloadStatus);
    this.events.addEventListener('state', () => this.showStream());
    this.events.addEventListener('event', ({ detail }) => this.handle(detail));
    this.events.start();
    this.timer = setInterval(() => this.#second(), 1000);
    this.go();
    this.showStatus(this.status);
  }

  stop() {
    removeEventListener('hashchange', this.onhash);
    removeEventListener('focus', this.reloadStatus);
    this.events.stop();
    clearInterval(this.timer);
    this.reloadStatus.cancel();
    this.reloadHour.cancel();
    this.view?.stop?.();
    document.querySelectorAll('dialog').forEach((dialog) => dialog.remove());
  }

  /** Shows the view of the address. If it is already shown, only passes the new address on to it. */
  go() {
    const at = place();
    if (this.at?.view !== at.view) {
      this.view?.stop?.();
      this.view = new VIEWS[at.view][1](this);
      fill(this.main, this.view.element);
      for (const link of this.links) {
        if (link.dataset.view === at.view) link.setAttribute('aria-current', 'page');
        else link.removeAttribute('aria-current');
      }
      scrollTo(0, 0);
      this.view.charts?.();
      this.loadHour();
    }
    this.at = at;
    document.title = `${VIEWS[at.view][0]} · smsbridge`;
    this.view.go?.(at);
    this.view.status?.(this.status);
  }

  /** Shows whether the event stream is open. After it opens, fetches everything again: events were missed. */
  showStream() {
    const live = this.events.live;
    fill(this.live, live ? 'Live' : 'Not live');
    this.live.classList.toggle('on', live);
    this.live.title = live ? 'Changes appear immediately' : 'The event stream is broken; reconnecting every few seconds';
    if (live) this.refresh();
    else this.poll();
  }

  handle({ kind, data }) {
    if (kind === 'lagged' || kind === 'reload') this.refresh();
    else this.view.event?.(kind, data);
    this.reloadStatus();
  }

  refresh() {
    this.view.refresh?.();
    this.loadHour();
    this.reloadStatus();
  }

  /** Loads the daemon's own counts, which include the time when the page was closed. */
  async loadHour() {
    if (!this.view.charts) return;
    try {
      this.minutes = hour(await get('/series'));
      this.view.charts?.();
    } catch {
      // The status request reports the same error.
    }
  }

  /** Updates the times, and requests the status when it is due. */
  #second() {
    tick();
    const interval = this.#isChanging() ? POLL_CHANGING : POLL;
    if (!document.hidden && Date.now() - (this.polled ?? 0) >= interval) this.poll();
  }

  #isChanging() {
    const { ready, stopping, destinations } = this.status;
    return this.silent !== null || !ready || stopping || destinations.some(({ pending, state }) => pending > 0 && state !== 'paused' && state !== 'removed');
  }

  async poll() {
    this.polled = Date.now();
    try {
      const status = await get('/status');
      this.answered = Date.parse(status.now);
      this.silent = null;
      this.showStatus(status);
    } catch (error) {
      if (error.status === 401) return;
      this.outage.hidden = false;
      fill(this.outage, prose(error.message), ' Trying again every few seconds.');
      this.silent = this.answered;
      this.view.status?.(this.status);
    }
  }

  showStatus(status) {
    this.outage.hidden = true;
    this.status = status;
    setClock(status.now);
    const [overview] = this.links;
    const { problems } = status;
    const tone = problems.some(({ severity }) => severity === 'error') ? 'bad' : 'wait';
    fill(overview, 'Overview', problems.length > 0 && h('span', { class: `badge ${tone}`, title: heading(problems) }, String(problems.length)));
    this.view.status?.(status);
    this.reloadHour();
  }

  /** Performs an action, reports its result, and refreshes the view. */
  async change(button, path, body, report) {
    const answer = await act(button, () => post(path, body));
    if (answer !== undefined) {
      if (report) say(report(answer));
      this.reloadStatus();
      this.view.refresh?.();
    }
    return answer;
  }

  async leave(button) {
    await act(button, logout);
    logins.closed();
    end({ text: 'You are logged out.' });
  }
}

let app = null;

async function begin() {
  try {
    const status = await get('/status');
    app?.stop();
    app = new App(status);
    app.start();
  } catch (error) {
    if (error instanceof RequestError && error.status === 401) throw error;
    const again = h('button', { class: 'primary', onclick: () => begin().catch(() => showLogin()) }, 'Try again');
    fill(root, h('main', { class: 'alone' }, h('div', { class: 'card login' }, h('h1', {}, 'No response'), h('p', {}, prose(error.message)), again)));
    again.focus();
  }
}

function end(note) {
  app?.stop();
  app = null;
  showLogin(note);
}

session.addEventListener('ended', () => {
  if (app) end({ text: logins.ended(), started: app.status.started_at });
});

// --- Keys --------------------------------------------------------------------------------------------------------

const isTyping = (target) => target.closest('input, textarea, select, dialog') !== null;

document.addEventListener('keydown', (event) => {
  if (!app || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/' && !isTyping(event.target)) {
    event.preventDefault();
    if (place().view !== 'messages') location.hash = '#/messages';
    // The view changes after the address has changed.
    setTimeout(() => document.querySelector('[data-search]')?.focus(), 0);
  }
  if (event.key === 'Escape' && !document.querySelector('dialog[open]')) app.view.escape?.(event);
});

begin().catch(() => showLogin());
