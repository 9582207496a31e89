/** Charts over time on uPlot, in the colours of the page. */

import { h } from "./dom.js";
import { tell, ticks } from "./time.js";
import { compact, figure } from "./words.js";

const FONT = "11px system-ui, sans-serif";

/** A colour of the stylesheet as the canvas wants it, in the theme that is shown. */
export function colour(name) {
  const probe = h("span", { style: { color: `var(--${name})` } });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/**
 * A chart with its legend, which tells the values under the cursor, or else the last ones.
 * @param {HTMLElement} holder is filled
 * @param {{title: string|Array, name?: string, series: Array<{label: string, colour: string, dash?: boolean, bars?: boolean, fill?: boolean,
 *   steps?: boolean, quiet?: boolean, points?: boolean}>, zone: string, height?: number, gutter?: number, right?: number, zero?: boolean, band?: [number, number],
 *   sync?: string, select?: (begin: number, end: number) => void, shade?: () => [number, number]|null}} options
 *   `zero` begins the axis there whatever the values; `quiet` series are drawn, but not in the legend; `band` shades between two series
 * @returns {{show: (data: Array, range?: [number, number]) => void, close: () => void}} data as uPlot wants it: times
 *   (ms), then the values of each series
 */
export function chart(holder, options) {
  const values = options.series.map(() => h("output", "\u2013"));
  const legend = h(
    "div.legend",
    h("h3", options.title),
    options.series.map((it, row) =>
      it.quiet
        ? null
        : h(
            "span.entry",
            h(`span.swatch${it.dash ? ".dash" : ""}`, { style: { "--ink": `var(--${it.colour})` } }),
            it.label,
            values[row],
          ),
    ),
    h("span.entry.at"),
  );
  const place = h("div.plot", { role: "img", "aria-label": options.name ?? options.title });
  holder.replaceChildren(legend, place);
  let plot = null,
    range = null;
  const tellValues = () => legendValues(plot, values, legend.lastChild, options.zone);
  const observer = new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height: options.height ?? 140 }));
  observer.observe(place);
  return {
    show(data, wanted = null) {
      range = wanted;
      if (plot) plot.setData(data);
      else
        plot = new uPlot(
          settings(options, place, () => range, tellValues),
          data,
          place,
        );
      tellValues();
    },
    close() {
      observer.disconnect();
      plot?.destroy();
    },
  };
}

function legendValues(plot, values, at, zone) {
  if (!plot) return;
  const under = plot.cursor.idx,
    row = under ?? plot.data[0].length - 1;
  values.forEach((output, it) => (output.textContent = row < 0 ? "\u2013" : figure(plot.data[it + 1][row])));
  at.textContent = under === null || under === undefined ? "" : tell(plot.data[0][under], zone);
}

function settings(options, place, range, tellValues) {
  const [grid, text] = [colour("grid"), colour("muted")];
  const axis = { stroke: text, font: FONT, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
  return {
    width: place.clientWidth || 300,
    height: options.height ?? 140,
    ms: 1,
    padding: [8, options.right ?? 16, 0, 0],
    legend: { show: false },
    tzDate: (instant) => uPlot.tzDate(new Date(instant), options.zone),
    scales: {
      x: { range: (_, low, high) => range() ?? padded(low, high) },
      y: { range: (_, low, high) => roomy(low, high, options.zero) },
    },
    axes: [
      {
        ...axis,
        space: 80,
        size: (_, shown) => (shown?.some((it) => it?.includes("\n")) ? 34 : 22),
        gap: 4,
        values: (_, times, __, ___, step) => ticks(times, options.zone, step),
      },
      { ...axis, space: 34, size: options.gutter || 52, gap: 6, values: (_, found) => found.map((it) => compact(it)) },
    ],
    series: [{}, ...options.series.map(line)],
    bands: options.band ? [{ series: options.band, fill: faded(colour("band"), 0.22) }] : [],
    cursor: {
      y: false,
      points: { size: 6 },
      drag: { x: Boolean(options.select), y: false, setScale: false },
      ...(options.sync ? { sync: { key: options.sync } } : {}),
    },
    hooks: {
      setCursor: [tellValues],
      setSelect: options.select ? [(plot) => brushed(plot, options.select)] : [],
      drawClear: options.shade ? [(plot) => shaded(plot, options.shade())] : [],
    },
  };
}

function line(it) {
  const ink = colour(it.colour);
  return {
    label: it.label,
    stroke: it.quiet ? undefined : ink,
    width: it.quiet ? 0 : it.bars ? 0 : 1.5,
    dash: it.dash ? [5, 4] : undefined,
    fill: it.bars ? faded(ink, 0.55) : it.fill ? faded(ink, 0.14) : undefined,
    paths: it.bars
      ? uPlot.paths.bars({ size: [0.9, 40], align: 1 })
      : it.steps
        ? uPlot.paths.stepped({ align: 1 })
        : undefined,
    points: { show: it.points ?? false, size: 4 },
    spanGaps: false,
  };
}

const faded = (ink, alpha) => ink.replace(/^rgba?\(([^,]+,[^,]+,[^,)]+).*\)$/, `rgba($1, ${alpha})`);

/** A lone point has room on either side (ms). */
const padded = (low, high) =>
  low === null ? [Date.now() - 6e4, Date.now()] : high > low ? [low, high] : [low - 3e4, high + 3e4];

/** From zero where zero is near; something to see where all is one value. */
function roomy(low, high, zero) {
  if (low === null || low === undefined) return [0, 1];
  const size = high - low || Math.abs(high) || 1;
  const bottom = low >= 0 && (zero || low <= size) ? 0 : low - 0.1 * size;
  const top = high <= 0 && -high < size && low < 0 ? 0 : high + 0.1 * size;
  return [bottom, top];
}

/** The stretch that was drawn over with the pointer; less than a few pixels was a click. */
function brushed(plot, select) {
  const { left, width } = plot.select;
  if (width > 4) select(Math.round(plot.posToVal(left, "x")), Math.round(plot.posToVal(left + width, "x")));
  plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
}

/** The interval that a chart is about, at least two pixels of it. */
function shaded(plot, interval) {
  if (!interval) return;
  const { ctx, bbox } = plot;
  const [begin, end] = interval.map((it) =>
    Math.min(Math.max(plot.valToPos(it, "x", true), bbox.left), bbox.left + bbox.width),
  );
  ctx.save();
  ctx.fillStyle = faded(colour("critical"), 0.13);
  ctx.fillRect(begin, bbox.top, Math.max(2, end - begin), bbox.height);
  ctx.restore();
}

/** The course of a figure as one small line, from zero. */
export function sparkline(values, words) {
  const most = Math.max(...values, 1e-9),
    step = 120 / Math.max(1, values.length - 1);
  const points = values.map((it, row) => `${(row * step).toFixed(1)} ${(29 - (27 * it) / most).toFixed(1)}`);
  return h(
    "svg.spark",
    { viewBox: "0 0 120 30", preserveAspectRatio: "none", role: "img", "aria-label": words },
    values.length > 1 && h("path.area", { d: `M0 30L${points.join("L")}L120 30Z` }),
    values.length > 1 && h("path.line", { d: `M${points.join("L")}` }),
  );
}
