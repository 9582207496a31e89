/** Swim lanes: what happened to which entity when. Only the lanes in sight are in the page. */

import { cut, data, h, renew } from "./dom.js";
import { span, tell } from "./time.js";
import { KINDS, LABELS, SEVERITIES, count } from "./words.js";

const ROW = 26;
/** Lanes kept in the page above and below those in sight, so that scrolling shows no gaps. */
const SPARE = 8;
/** Narrower ones cannot be hit with a finger or seen (px). */
const NARROWEST = 6;
/** Of a name that is read out. */
const LONGEST_READ = 80;
/** Right of the lanes, for the last label of the time axis above them (px). */
const MARGIN = 16;

/**
 * The spans of a lane as they are drawn: those that would lie on one another are one, as bad as the worst of them.
 * @param {Array<{incident: string, severity: string, begin: number, end: number|null}>} spans
 * @param {{begin: number, end: number}} stretch that is shown (ms)
 * @param {number} width in pixels
 */
export function drawn(spans, stretch, width) {
  const place = (at) =>
    ((Math.min(Math.max(at, stretch.begin), stretch.end) - stretch.begin) / (stretch.end - stretch.begin)) * width;
  const found = [];
  for (const it of [...spans].sort((a, b) => a.begin - b.begin)) {
    const left = Math.min(place(it.begin), width - NARROWEST);
    const right = Math.max(place(it.end ?? stretch.end), left + NARROWEST);
    const last = found.at(-1);
    if (last && left < last.right) {
      last.right = Math.max(last.right, right);
      last.all.push(it);
      if (SEVERITIES.indexOf(it.severity) > SEVERITIES.indexOf(last.worst.severity)) last.worst = it;
    } else found.push({ left, right, worst: it, all: [it] });
  }
  return found;
}

/**
 * @param {HTMLElement} holder is filled
 * @param {{zone: string, href: (incident: string) => string, named: (entity: string) => string}} options addresses of
 *   an incident, and of one entity's own view
 * @returns {{show: (lanes: object) => void, gutter: () => number, right: () => number, close: () => void}} what is
 *   left and right of the time axis, for a chart above the lanes (px)
 */
export function lanes(holder, options) {
  const grid = h("div.grid", {
    role: "grid",
    "aria-label": "Incidents of each entity over time; arrow keys move between them",
  });
  const scroller = h("div.scroller", grid);
  holder.replaceChildren(scroller);
  let shown = { lanes: [], begin: 0, end: 1, total: 0 };
  let current = { row: 0, incident: null };
  let waiting = 0;

  const gutter = () => parseFloat(getComputedStyle(holder).getPropertyValue("--gutter"));
  const width = () => Math.max(50, scroller.clientWidth - gutter() - MARGIN);
  const marks = (row) => drawn(shown.lanes[row].spans, shown, width());

  function paint() {
    waiting = 0;
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(shown.lanes.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + SPARE);
    const rows = [];
    for (let row = first; row < last; row++) rows.push(lane(row, shown.lanes[row], marks(row), options, shown));
    renew(grid, rows);
    const stops = [...grid.querySelectorAll(".span")];
    const stop = stops.find((it) => it.dataset.key === current.incident) ?? stops[0];
    if (stop) stop.tabIndex = 0; // one stop for the tabulator, arrows do the rest
  }
  const soon = () => (waiting ||= requestAnimationFrame(paint));

  function go(row, pick) {
    if (!shown.lanes[row]) return;
    const found = pick(marks(row));
    if (!found) return;
    current = { row, incident: found.worst.incident };
    if (row * ROW < scroller.scrollTop) scroller.scrollTop = row * ROW;
    if ((row + 1) * ROW > scroller.scrollTop + scroller.clientHeight)
      scroller.scrollTop = (row + 1) * ROW - scroller.clientHeight;
    paint();
    grid.querySelector('.span[tabindex="0"]')?.focus({ preventScroll: true });
  }

  grid.onkeydown = (event) => {
    const mark = event.target.closest(".span");
    const row = Number(event.target.closest(".lane")?.dataset.row);
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!mark || !step) return;
    event.preventDefault();
    const at = marks(row).findIndex((it) => it.worst.incident === mark.dataset.key),
      here = marks(row)[at];
    if (step[1]) go(row, (found) => found[at + step[1]]);
    else
      go(
        row + step[0],
        (found) => found.toSorted((a, b) => Math.abs(a.left - here.left) - Math.abs(b.left - here.left))[0],
      );
  };
  scroller.onscroll = soon;
  const observer = new ResizeObserver(soon);
  observer.observe(scroller);
  return {
    show(fresh) {
      shown = fresh;
      grid.style.height = `${shown.lanes.length * ROW}px`;
      grid.setAttribute("aria-rowcount", shown.lanes.length);
      paint();
    },
    gutter,
    right: () => scroller.offsetWidth - scroller.clientWidth + MARGIN,
    close: () => observer.disconnect(),
  };
}

function lane(row, it, marks, options, stretch) {
  const name = it.entity || "the whole stream";
  const link = it.entity ? h("a", { href: options.named(it.entity), tabindex: -1 }, data(name, 40)) : name;
  return h(
    "div.lane",
    {
      key: `lane-${row}-${it.entity}`,
      role: "row",
      "aria-rowindex": row + 1,
      "data-row": row,
      "data-testid": "lane",
      style: { transform: `translateY(${row * ROW}px)` },
    },
    h("span.lane-name", { role: "rowheader" }, h(`span.pip.${it.severity}`, { "aria-hidden": "true" }), link),
    h(
      "span.track",
      { role: "gridcell" },
      marks.map((mark) => bar(mark, name, options, stretch)),
    ),
  );
}

function bar({ left, right, worst, all }, name, options, stretch) {
  const words = described(worst, options.zone, stretch);
  const more = all.length > 1 ? `${count(all.length)} incidents close together, the worst: ` : "";
  const state = `${worst.end === null ? ".open" : ""}${worst.label === "false_alarm" || worst.label === "known" ? ".judged" : ""}`;
  return h(`a.span.${worst.severity}${state}`, {
    key: worst.incident,
    href: options.href(worst.incident),
    tabindex: -1,
    "data-testid": "span",
    title: more + words,
    "aria-label": `${cut(name, LONGEST_READ)}: ${more}${words}`,
    style: { left: `${left.toFixed(1)}px`, width: `${(right - left - 1).toFixed(1)}px` },
  });
}

function described(it, zone, stretch) {
  const long =
    it.end === null ? `open for ${span(stretch.end - it.begin)}` : it.end > it.begin ? span(it.end - it.begin) : "";
  return [it.severity, KINDS[it.kind], tell(it.begin, zone), long, it.label ? LABELS[it.label] : ""]
    .filter(Boolean)
    .join(", ");
}
