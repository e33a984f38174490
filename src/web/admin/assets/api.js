// Client of the admin API: requests, login, and the stream of live events.

/** A failed request, with a message for the operator. `status` is 0 if there was no response. */
export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Time limit of a request, in milliseconds. */
const TIMEOUT = 20_000;

/** That of an action: a test of a destination takes as long as an attempt, whose `timeout` is at most ten minutes. */
const ACTION_TIMEOUT = 660_000;

const NO_RESPONSE = 'The daemon does not respond. Check that it is running: `systemctl status smsbridge`.';

/** Fires `ended` when the login is no longer valid. */
export const session = new EventTarget();

async function ask(method, path, body, limit = TIMEOUT) {
  const options = { method, signal: AbortSignal.timeout(limit) };
  if (body !== undefined) {
    options.headers = { 'content-type': 'application/json' };
    options.body = JSON.stringify(body);
  }
  let response;
  let answer;
  try {
    response = await fetch(path, options);
    answer = await response.json();
  } catch {
    throw new RequestError(response ? `The daemon sent an unreadable response (HTTP ${response.status}).` : NO_RESPONSE, response?.status ?? 0);
  }
  if (response.ok) return answer;
  if (response.status === 401) session.dispatchEvent(new Event('ended'));
  throw new RequestError(answer.error ?? `The daemon responded with HTTP ${response.status}.`, response.status);
}

export const get = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value);
  const search = given.length ? `?${new URLSearchParams(given)}` : '';
  return ask('GET', `/api/v1${path}${search}`);
};

export const post = (path, body) => ask('POST', `/api/v1${path}`, body, ACTION_TIMEOUT);

export const login = (token) => ask('POST', '/login', { token });

export const logout = () => ask('POST', '/logout');

const KINDS = ['message', 'delivery', 'destination', 'reload', 'lagged'];

/** How long a page in the background keeps its event stream: browsers limit the connections to one host. */
const HIDDEN_MAX = 30_000;

/**
 * Live events from the daemon. Fires `event` with `kind` and `data`, and `state` when the stream opens or breaks. After
 * each opening, the page must fetch everything it shows again.
 */
export class EventStream extends EventTarget {
  #source = null;
  #timer = 0;
  #hidden = () => this.#visibility();
  live = false;

  start() {
    document.addEventListener('visibilitychange', this.#hidden);
    this.#open();
  }

  stop() {
    document.removeEventListener('visibilitychange', this.#hidden);
    this.#close();
  }

  #open() {
    this.#close();
    const source = new EventSource('/api/v1/events');
    this.#source = source;
    source.onopen = () => this.#say(true);
    source.onerror = () => {
      this.#say(false);
      // The browser does not reconnect by itself after an error response.
      if (source.readyState === EventSource.CLOSED) this.#timer = setTimeout(() => this.#open(), 3000);
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.dispatchEvent(new CustomEvent('event', { detail: { kind, data: JSON.parse(event.data) } }));
      });
    }
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #say(live) {
    this.live = live;
    this.dispatchEvent(new Event('state'));
  }

  #visibility() {
    if (document.hidden) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#close(), HIDDEN_MAX);
    } else if (this.#source) {
      clearTimeout(this.#timer);
      if (this.#source.readyState === EventSource.CLOSED) this.#open();
    } else {
      this.#open();
    }
  }
}
