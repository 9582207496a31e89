/** Pieces that several views are made of. */

import { address, zone } from "./address.js";
import { copy, data, h } from "./dom.js";
import { ms, span, tell } from "./time.js";
import { KINDS, LABELS, figure, isPoint, lasted, value, who } from "./words.js";

const SHAPES = { minor: "M8 4a4 4 0 100 8 4 4 0 000-8z", major: "M8 2.5l6 11H2z", critical: "M8 1l7 7-7 7-7-7z" };
const ICONS = {
  tick: "M3 8.5l3.5 3.5L13 4.5",
  cross: "M4 4l8 8M12 4l-8 8",
  bang: "M8 3v6M8 12v.6",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
};

/** A severity by shape, colour and name. */
export function severity(name, withName = true) {
  const label = withName ? { "aria-hidden": "true" } : { role: "img", "aria-label": name };
  const shape = h("svg.shape", { viewBox: "0 0 16 16", ...label }, h("path", { d: SHAPES[name] }));
  return h(`span.severity.${name}`, shape, withName && name);
}

/** A small picture; it says nothing that stands not beside it. */
export const icon = (name) =>
  h(`svg.icon.${name}`, { viewBox: "0 0 16 16", "aria-hidden": "true" }, h("path", { d: ICONS[name] }));

/** A date in the chosen zone. */
export function time(at, form = "moment") {
  const instant = typeof at === "number" ? at : ms(at);
  if (instant === null) return h("span.muted", "\u2013");
  const iso = new Date(instant).toISOString();
  return h("time", { datetime: iso, title: tell(instant, zone(), "full") }, tell(instant, zone(), form));
}

/** A head for columns of times: which zone they are in. */
export const zoned = (words) => [`${words} `, h("span.zone", zone())];

/** A part of the page under a heading. */
export function panel(key, title, aside, ...content) {
  const head = h("div.panel-head", h("h2", { id: `head-${key}` }, title), h("div.aside", aside));
  return h("section.panel", { key, "aria-labelledby": `head-${key}` }, head, ...content);
}

/** What is asked for with `resource`: a skeleton before it is there, why not, or what `shown` makes of it. */
export function content(source, shown, height = "8rem") {
  if (source.data !== null) return [source.error && trouble(source.error), shown(source.data)];
  if (source.error) return trouble(source.error);
  return h("div.skeleton", { style: { height }, role: "img", "aria-label": "loading" });
}

const trouble = (error) => h("p.notice.bad", { role: "alert" }, icon("bang"), h("span", data(error.message, 400)));

/** Nothing to show, and what that means. */
export const empty = (words, more = "") => h("p.empty", words, more && h("span.muted", ` ${more}`));

/** What people said, as a small mark. */
export const label = (name) => (name ? h(`span.chip.label-${name}`, LABELS[name]) : null);

/** One reason on a line: `tcp_in_use 3 (expected 120)`. */
export const reason = (it) =>
  h(
    "span.why",
    data(it.feature, 32),
    " ",
    h("b", data(value(it.observed), 24)),
    h("span.muted", " expected ", data(value(it.expected), 24)),
  );

/** A link to an incident. */
const toIncident = (row, ...words) => h("a", { href: address("incident", {}, row.incident) }, ...words);

/** How long, or that it goes on. */
export function duration(row, clock) {
  if (isPoint(row)) return h("span.muted", "once");
  const long = span(lasted(row, clock));
  return row.resolved === null ? [h("span.chip.open", "open"), " ", long] : long;
}

/** Incidents as a table, which becomes cards where there is no room; `alike` tells how much each is like another. */
export function incidents(rows, clock, caption, alike = null) {
  const heads = ["Severity", "Entity", zoned("Began"), "Lasted", "What", "Why", "Label", ...(alike ? ["Alike"] : [])];
  const body = rows.map((row, at) =>
    h(
      "tr",
      { key: row.incident, "data-testid": "incident-row" },
      h("td", severity(row.severity)),
      h("th", { scope: "row" }, toIncident(row, data(who(row), 40))),
      h("td", { "data-head": "Began" }, time(row.opened)),
      h("td", { "data-head": "Lasted" }, duration(row, clock)),
      h("td", KINDS[row.kind]),
      h("td.long", h("div.whys", row.reasons.length ? row.reasons.slice(0, 2).map(reason) : h("span.muted", "\u2013"))),
      h("td", label(row.label)),
      alike && h("td.number", { "data-head": "Alike" }, alike[at]),
    ),
  );
  return table(caption, heads, body);
}

/** A table that scrolls within, or becomes cards; rows are `tr`. */
export function table(caption, heads, rows) {
  const head = h(
    "tr",
    heads.map((it) => h("th", { scope: "col" }, it)),
  );
  return h("div.wide", h("table.cards", h("caption.hidden", caption), h("thead", head), h("tbody", rows)));
}

/** Figures by name; of what is compared with the champion both. */
export function figures(of) {
  const names = Object.keys(of).filter((it) => !it.startsWith("champion "));
  const both = names.some((it) => `champion ${it}` in of);
  const heads = ["Figure", "This version", ...(both ? ["Champion"] : [])];
  return table(
    "Figures",
    heads,
    names.map((name) =>
      h(
        "tr",
        { key: name },
        h("th", { scope: "row" }, data(name)),
        h("td.number", { "data-head": "This version" }, figure(of[name])),
        both && h("td.number", { "data-head": "Champion" }, figure(of[`champion ${name}`])),
      ),
    ),
  );
}

/** A button that copies, and says that it did. */
export function copying(text, words, testid = null) {
  const button = h("button.plain", { type: "button", title: text, "data-testid": testid }, icon("copy"), words);
  button.onclick = async () => {
    await copy(text);
    announce(`Copied: ${text}`);
  };
  return button;
}

/** Says something for a moment, to eyes and ears. */
export function announce(words, tone = "good") {
  const said = h(`p.toast.${tone}`, icon(tone === "good" ? "tick" : "bang"), data(words, 300));
  document.getElementById("toasts").append(said);
  setTimeout(() => said.remove(), 6_000);
}

/**
 * Asks before something is done. Focus stays inside, and goes back where it was.
 * @returns {Promise<boolean>}
 */
export function confirm(title, consequences, yes) {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "confirm-title" },
    h("h2", { id: "confirm-title" }, title),
    consequences.map((it) => h("p", it)),
    h(
      "div.buttons",
      h("button", { type: "button", "data-testid": "confirm-no", onclick: () => dialog.close("no") }, "Cancel"),
      h("button.primary", { type: "button", "data-testid": "confirm-yes", onclick: () => dialog.close("yes") }, yes),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    }),
  );
}

/** Something that has a name and a value, several of them. */
export const facts = (pairs) =>
  h(
    "dl.facts",
    pairs.filter((it) => it && it[1] !== null).map(([name, it]) => h("div", h("dt", name), h("dd", it))),
  );

/** A share as a bar, with a mark where there is a limit; the number beside it says the same. */
export const bar = (share, tone = "plain", limit = null) =>
  h(
    "span.bar",
    { "aria-hidden": "true" },
    h(`span.fill.${tone}`, { style: { width: `${Math.min(100, 100 * share)}%` } }),
    limit !== null && h("span.limit", { style: { left: `${100 * limit}%` } }),
  );
