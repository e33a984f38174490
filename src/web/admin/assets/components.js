// Parts that several views use: labels of states, notices, dialogs, and buttons that do something.

import { h, plural } from './dom.js';
import { prose } from './text.js';

/** The colour of each state: good, bad, wait or calm; the others, such as `kept`, are grey. */
const TONES = {
  up: 'good', delivered: 'good', fallback: 'good', limited: 'wait', pending: 'calm', retrying: 'wait', paused: 'wait', unrouted: 'wait', transient: 'wait',
  down: 'bad', parked: 'bad', dead: 'bad', removed: 'bad', permanent: 'bad',
};

/** A coloured label for a state. */
export const pill = (state, title, tone = TONES[state] ?? 'quiet') => h('span', { class: `pill ${tone}`, title }, state);

/** Describes which fallbacks delivered a message; empty if none did. */
export function deliveredBy({ state, deliveries }) {
  const names = new Set(deliveries.map(({ delivered_by: by }) => by).filter(Boolean));
  return state === 'delivered' && names.size > 0 ? `delivered by fallback ${[...names].join(', ')}` : '';
}

/** The label of a message's state: `retrying` if it is pending and an attempt failed, `fallback` if one delivered it. */
export function statePill(message) {
  const fallback = deliveredBy(message);
  if (fallback) return pill('fallback', fallback);
  const waiting = message.deliveries.filter(({ state }) => state === 'pending');
  const tries = Math.max(0, ...waiting.map(({ attempts_made: made }) => made));
  return tries > 0 ? pill('retrying', `pending after ${plural(tries, 'attempt')}`) : pill(message.state);
}

/** Shows a short notice about the result of an action: nodes or strings. */
export function say(content, tone = 'good') {
  const toast = h('p', { class: `toast ${tone}` }, content);
  document.getElementById('toasts').append(toast);
  setTimeout(() => toast.remove(), tone === 'bad' ? 12_000 : 5000);
}

/**
 * Asks for confirmation. Resolves to the form's data, or to null if cancelled. The focus starts on the action, so that
 * Enter confirms, except when the action removes or repeats something.
 */
export function confirm({ title, text, action, danger = false, careful = danger, extra = null }) {
  return new Promise((resolve) => {
    const form = h('form', { method: 'dialog' },
      h('h2', {}, title),
      [text].flat().filter(Boolean).map((paragraph) => h('p', {}, paragraph)),
      extra,
      h('div', { class: 'buttons' },
        h('button', { value: '', type: 'submit', formnovalidate: true, autofocus: careful }, 'Cancel'),
        h('button', { value: 'yes', type: 'submit', class: danger ? 'danger' : 'primary', autofocus: !careful }, action)));
    const dialog = h('dialog', { 'aria-label': title }, form);
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'yes' ? new FormData(form) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Runs the action of a button: disables the button meanwhile and shows errors. */
export async function act(button, work) {
  button.disabled = true;
  try {
    return await work();
  } catch (error) {
    say(prose(error.message), 'bad');
    return undefined;
  } finally {
    button.disabled = false;
  }
}
