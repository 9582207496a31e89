/** Building and renewing elements. Text goes in as text alone: what records hold is never parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "circle", "rect", "line"]);
const HANDLERS = ["onclick", "onchange", "oninput", "onkeydown", "onsubmit"];

/**
 * Characters that show nothing, or turn the text around them: controls, bidi marks, zero-width ones, tags; and joiners
 * where nothing joins: after what is no emoji, no mark and no letter of a script without capitals.
 */
const HIDDEN =
  /[\p{Cc}\p{Cs}\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]|(?<![\p{Lo}\p{M}\p{Extended_Pictographic}\p{Emoji_Modifier}])[\u200c\u200d]/gu;
/** Of a hover text; a browser that lays out more of it stands still. */
const LONGEST_HINT = 1_000;
/** Of what is shown in full; the topic holds the rest. */
const LONGEST_SHOWN = 20_000;

/**
 * An element. Properties: `on…` handlers, `style` (an object, set through the CSSOM as the policy of the page wants),
 * and attributes; what is null or false is left out. `key` names it among its siblings when it is renewed.
 * @param {string} tag name, with classes as in `div.tile.wide`
 * @param {...(Object<string, any>|Node|string|number|null|false|Array)} content properties, if any, then children
 */
export function h(tag, ...content) {
  const [name, ...classes] = tag.split(".");
  const element = SVG_TAGS.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  const { value, ...rest } = content[0]?.constructor === Object ? content.shift() : {};
  for (const [key, it] of Object.entries(rest)) set(element, key, it);
  element.append(...content.flat(Infinity).filter((it) => it !== null && it !== false && it !== undefined));
  if (value !== undefined) element.value = value; // after the options of a select
  return element;
}

function set(element, key, value) {
  if (value === null || value === undefined || value === false) return;
  if (key.startsWith("on")) element[key] = value;
  else if (key === "style") for (const [name, it] of Object.entries(value)) element.style.setProperty(name, it);
  else element.setAttribute(key === "key" ? "data-key" : key, value === true ? "" : value);
}

/** Text in which nothing is hidden: control characters as their pictures, others that show nothing by number. */
export function visible(text) {
  return String(text).replace(HIDDEN, (found) => {
    const code = found.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

/** The first characters of a text, visibly cut. */
export function cut(text, most) {
  const begin = Array.from(String(text).slice(0, 2 * most + 2));
  return begin.length > most ? `${visible(begin.slice(0, most - 1).join(""))}\u2026` : visible(begin.join(""));
}

/** What a record holds, on one line and turned by nobody; more of it on hover where it is cut. */
export function data(text, most = 48) {
  const shown = cut(text, most);
  return h("bdi.data", { title: shown.endsWith("\u2026") ? cut(text, LONGEST_HINT) : null }, shown);
}

/** The same where there is room: a long one can be opened. */
export function quoted(text, most = 120) {
  if (String(text).length <= most) return data(text, most);
  const whole = h("pre.data", { tabindex: 0 }, cut(text, LONGEST_SHOWN));
  return h("details.quoted", h("summary", data(text, most)), whole);
}

/**
 * Makes `old` like `fresh` and keeps what is the same, so that focus, scroll, open details and charts stay as they
 * are. Elements with `data-keep` look after their own content and value.
 * @returns {Node} what stands in its place now
 */
export function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName || old.dataset?.key !== fresh.dataset?.key) {
    old.replaceWith(fresh);
    return fresh;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return old;
  }
  const keeps = "keep" in old.dataset;
  if (!keeps) attributes(old, fresh);
  for (const name of HANDLERS) old[name] = fresh[name];
  if (keeps) return old;
  children(old, fresh);
  if ("value" in fresh && old !== document.activeElement && old.value !== fresh.value) old.value = fresh.value;
  return old;
}

/** Makes the content of `element` that of a list of children. */
export function renew(element, ...content) {
  const fresh = h("div", ...content);
  children(element, fresh);
}

function attributes(old, fresh) {
  const own = (name) => name === "style" || (name === "open" && old.nodeName === "DETAILS");
  for (const { name } of [...old.attributes]) if (!own(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) {
    if (!own(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
}

function children(old, fresh) {
  const keyed = new Map([...old.children].filter((it) => it.dataset.key).map((it) => [it.dataset.key, it]));
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = wanted.dataset?.key;
    const same = at && !at.dataset?.key && at.nodeName === wanted.nodeName ? at : null;
    const found = key ? keyed.get(key) : same;
    keyed.delete(key);
    if (!found) old.insertBefore(wanted, at);
    else {
      if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      morph(found, wanted);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Into the clipboard; where the browser gives that to pages of a secure origin only, by way of a selection. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", { value: text, readonly: true, "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
