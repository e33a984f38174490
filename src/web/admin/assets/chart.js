// Charts of the last hour.

import { count, h, s } from './dom.js';
import { clock } from './time.js';

const HEIGHT = 96;

/** Width of the scale to the right of the plot. */
const SCALE = 30;

/** The minutes of `GET /series` for the charts; null where nothing is known, as while the daemon was not running. */
export const hour = ({ minutes }) => minutes.map(({ at, pending, ...counts }) => (pending === null ? null : { at: Date.parse(at), pending, ...counts }));

/** Describes which part of the hour is known; empty if all of it is. */
export function span(minutes) {
  const first = minutes.findIndex(Boolean);
  if (first < 0) return '';
  const gaps = minutes.slice(first).filter((minute) => !minute).length;
  return [first > 0 && `since ${clock(minutes[first].at)}`, gaps > 0 && `${gaps} min without data`].filter(Boolean).join(', ');
}

/** The parts of the hour without a gap: lists of `[position, minute]`. */
function stretches(minutes) {
  const found = [];
  minutes.forEach((minute, at) => {
    if (!minute) return;
    if (at === 0 || !minutes[at - 1]) found.push([]);
    found.at(-1).push([at, minute]);
  });
  return found;
}

/** A chart that is redrawn when its width changes. */
export function chart(title, legend, draw) {
  const plot = h('div', { class: 'plot' });
  const figure = h('figure', { class: 'card chart' }, h('figcaption', {}, h('h2', {}, title), legend), plot,
    h('div', { class: 'axis' }, h('span', {}, '60 min ago'), h('span', {}, '30 min'), h('span', {}, 'now')));
  let minutes = [];
  const paint = () => {
    if (plot.clientWidth) plot.replaceChildren(draw(minutes, plot.clientWidth - SCALE));
  };
  const observer = new ResizeObserver(paint);
  observer.observe(plot);
  return {
    element: figure,
    show(next) {
      minutes = next;
      paint();
    },
    stop: () => observer.disconnect(),
  };
}

/** The next round number that is not smaller. */
function roundUp(value) {
  if (value <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((step) => step * power).find((step) => step >= value);
}

function frame(width, top, label) {
  const svg = s('svg', { width: width + SCALE, height: HEIGHT, role: 'img', 'aria-label': label });
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(HEIGHT - 1 - part * (HEIGHT - 14)) + 0.5;
    svg.append(s('line', { x1: 0, x2: width, y1: y, y2: y, class: part ? 'grid' : 'base' }));
    if (part) svg.append(s('text', { x: width + SCALE, y: y + 4, 'text-anchor': 'end' }, count(top * part)));
  }
  return svg;
}

const height = (value, top) => (value / top) * (HEIGHT - 14);

/** Adds a tooltip to each minute. */
function hints(svg, minutes, step, hint) {
  minutes.forEach((minute, at) => {
    if (!minute) return;
    svg.append(s('rect', { x: at * step, y: 0, width: step, height: HEIGHT, class: 'hint' }, s('title', {}, `${clock(minute.at)}: ${hint(minute)}`)));
  });
}

/** Draws accepted messages as bars and delivered ones as a line. */
export function rates(minutes, width) {
  const known = minutes.filter(Boolean);
  const top = roundUp(Math.max(0, ...known.flatMap(({ accepted, delivered }) => [accepted, delivered])));
  const total = (key) => count(known.reduce((sum, minute) => sum + minute[key], 0));
  const svg = frame(width, top, `In the last hour ${total('accepted')} accepted, ${total('delivered')} delivered${span(minutes) && `; ${span(minutes)}`}`);
  const step = width / minutes.length;
  for (const stretch of stretches(minutes)) {
    const points = stretch.map(([at, { accepted, delivered }]) => {
      const tall = height(accepted, top);
      if (tall) svg.append(s('rect', { x: at * step + 1, y: HEIGHT - 1 - tall, width: Math.max(1, step - 2), height: tall, rx: 1.5, class: 'bar' }));
      return `${(at + 0.5) * step},${HEIGHT - 1 - height(delivered, top)}`;
    });
    const [x, y] = points[0].split(',');
    svg.append(points.length > 1 ? s('polyline', { points: points.join(' '), class: 'line' }) : s('circle', { cx: x, cy: y, r: 1.75, class: 'dot' }));
  }
  hints(svg, minutes, step, ({ accepted, delivered, dead }) => `${count(accepted)} accepted, ${count(delivered)} delivered, ${count(dead)} dead`);
  return svg;
}

/** Draws the pending deliveries as steps. */
export function backlog(minutes, width) {
  const known = minutes.filter(Boolean);
  const top = roundUp(Math.max(0, ...known.map(({ pending }) => pending)));
  const svg = frame(width, top, `at most ${count(known.at(-1)?.pending ?? 0)} pending in this minute`);
  const step = width / minutes.length;
  for (const stretch of stretches(minutes)) {
    const path = stretch.map(([at, { pending }]) => `L${at * step} ${HEIGHT - 1 - height(pending, top)}h${step}`).join('').replace('L', 'M');
    svg.append(s('path', { d: `${path}V${HEIGHT - 1}H${stretch[0][0] * step}Z`, class: 'area' }), s('path', { d: path, class: 'edge' }));
  }
  hints(svg, minutes, step, ({ pending }) => `at most ${count(pending)} pending`);
  return svg;
}
