/** What of the past is looked at: chosen here, kept in the address. */

import { change, here, zone } from "../address.js";
import { h } from "../dom.js";
import { RANGES, RANGE_WORDS, tell } from "../time.js";
import { ASKED_KINDS, KINDS, LABELS } from "../words.js";

const DEFAULT_RANGE = "1w";
/** Typing a name asks once it pauses for so long (ms). */
const PAUSE = 300;

let waiting = 0;

/** The time that is looked at (ms): what was drawn over, or the last stretch up to the newest record. */
export function stretch(clock) {
  const { params } = here();
  const [begin, end] = [Number(params.get("begin")), Number(params.get("end"))];
  if (begin > 0 && end > begin) return { begin, end };
  const newest = clock ?? Date.now();
  return { begin: newest - (RANGES[params.get("range")] ?? RANGES[DEFAULT_RANGE]), end: newest + 1 };
}

/** The row of choices. */
export function filters() {
  const { params } = here();
  const zoomed = params.has("begin");
  const { begin, end } = stretch(null);
  const open = h("input", {
    type: "checkbox",
    "data-testid": "filter-open",
    onchange: (event) => change({ open: event.target.checked ? "true" : null }),
  });
  open.checked = params.get("open") === "true";
  const ranges = [
    ...(zoomed ? [["", `${tell(begin, zone())} \u2013 ${tell(end, zone())}`]] : []),
    ...Object.entries(RANGE_WORDS).map(([it, words]) => [it, `last ${words}`]),
  ];
  const range = zoomed ? "" : (params.get("range") ?? DEFAULT_RANGE);
  return h(
    "form.filters",
    {
      key: "filters",
      role: "search",
      "aria-label": "Filter what is shown",
      onsubmit: (event) => event.preventDefault(),
    },
    choice("range", "Time", ranges, range, (it) => it && change({ range: it, begin: null, end: null })),
    choice(
      "severity",
      "Severity",
      [
        ["", "any"],
        ["major", "major or worse"],
        ["critical", "critical"],
      ],
      params.get("severity") ?? "",
    ),
    h("label.field", "Entity", search(params.get("entity") ?? "")),
    choice("kind", "Kind", [["", "any"], ...ASKED_KINDS.map((it) => [it, KINDS[it]])], params.get("kind") ?? ""),
    choice(
      "label",
      "Label",
      [
        ["", "any"],
        ["none", "not labelled"],
        ...["false_alarm", "confirmed", "known", "note"].map((it) => [it, LABELS[it]]),
      ],
      params.get("label") ?? "",
    ),
    h("label.check", { key: `open-${open.checked}` }, open, "open only"),
  );
}

function choice(name, words, options, chosen, choose = (it) => change({ [name]: it || null })) {
  return h(
    "label.field",
    { key: `filter-${name}` },
    words,
    h(
      "span.choice",
      h(
        "select",
        { "data-testid": `filter-${name}`, value: chosen, onchange: (event) => choose(event.target.value) },
        options.map(([it, shown]) => h("option", { value: it }, shown)),
      ),
    ),
  );
}

function search(text) {
  const take = (event) => {
    clearTimeout(waiting);
    change({ entity: event.target.value.trim() || null });
  };
  return h("input", {
    type: "search",
    maxlength: 200,
    placeholder: "part of a name",
    "data-testid": "filter-entity",
    value: text,
    autocomplete: "off",
    spellcheck: "false",
    oninput: (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(take, PAUSE, event);
    },
    onchange: take, // whoever goes on to another choice has typed it all
  });
}
