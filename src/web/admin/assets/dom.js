// Builds elements. Strings always become text nodes, never markup.

/** Creates an element: attributes, `on…` listeners and properties, then children (nodes, strings, lists, null). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  apply(element, attributes);
  append(element, children);
  return element;
}

/** Creates an SVG element. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  append(element, children);
  return element;
}

function apply(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in PROPERTIES) element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
}

/** Attributes that must be set as properties. */
const PROPERTIES = { value: 1, checked: 1, disabled: 1 };

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Replaces all children. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

// --- Values -------------------------------------------------------------------------------------------------------

export const count = (number) => number.toLocaleString('en').replaceAll(',', '\u202f');

export function bytes(size) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const at = size < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  const value = size / 1024 ** at;
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Runs `action` once, `wait` milliseconds after the first of several calls. */
export function soon(action, wait) {
  let timer = 0;
  const request = () => {
    if (!timer) timer = setTimeout(() => { timer = 0; action(); }, wait);
  };
  request.cancel = () => { clearTimeout(timer); timer = 0; };
  return request;
}
