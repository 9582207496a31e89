/** The records around an incident: how unlikely each was, and its features beside what was expected. */

import { zone } from "../address.js";
import { chart } from "../charts.js";
import { cut, data, h } from "../dom.js";
import { table, time, zoned } from "../parts.js";
import { ms } from "../time.js";
import { count, percent, value } from "../words.js";

/** Runs of equal values that are listed: those around the incident. */
const MOST_RUNS = 12;

/**
 * @param {() => HTMLElement|null} place where the tracks stand
 * @returns {{show: (around: object, row: object|undefined, clock: number|undefined) => void, close: () => void}}
 */
export function tracks(place) {
  let charts = [],
    shown = null;
  const close = () => charts.forEach((it) => it.close());
  return {
    close,
    show(around, row, clock) {
      if (!place() || !row || shown === around) return;
      shown = around;
      close();
      const interval = [ms(row.opened), ms(row.resolved) ?? Math.max(ms(row.latest), clock ?? 0)];
      charts = [];
      const numeric = (it, wide, options, values) => {
        charts.push(chart(it, { zone: zone(), sync: "around", shade: () => interval, ...options }));
        charts.at(-1).show(values);
        return it;
      };
      const holders =
        around.time.length === 0
          ? []
          : [
              {
                wide: true,
                draw: (it) =>
                  numeric(it, true, surprise(), [around.time, around.nats, around.time.map(() => around.threshold)]),
              },
              ...around.features.map((it) => ({
                wide: false,
                draw: (holder) =>
                  it.numeric
                    ? numeric(holder, false, feature(it), values(around, it))
                    : holder.append(runs(around, it, interval)),
              })),
            ];
      const elements = holders.map(({ wide }) => h(`div.chart${wide ? ".whole" : ""}`, { "data-testid": "track" }));
      place().replaceChildren(...elements);
      holders.forEach((it, row) => it.draw(elements[row]));
    },
  };
}

const surprise = () => ({
  title: "Surprise of each record",
  height: 130,
  series: [
    { label: "\u2212ln p (nats)", colour: "accent", fill: true },
    { label: "alarm beyond", colour: "critical", dash: true },
  ],
});

const feature = (it) => ({
  title: heading(it),
  name: cut(it.name, 80),
  height: 130,
  band: it.high ? [3, 4] : undefined,
  series: [
    { label: "seen", colour: "accent" },
    { label: "expected", colour: "muted", dash: true },
    ...(it.high
      ? [
          { label: "high", colour: "band", quiet: true },
          { label: "low", colour: "band", quiet: true },
        ]
      : []),
  ],
});

const heading = (it) => [data(it.name, 48), it.share !== null && h("small", ` ${percent(it.share)} of the reason`)];

const values = (around, it) => [around.time, it.observed, it.expected, ...(it.high ? [it.high, it.low] : [])];

/** What is no number: stretches of records with one value. */
function runs(around, it, [begin, end]) {
  const found = [];
  around.time.forEach((at, row) => {
    const last = found.at(-1);
    if (last && last.seen === it.observed[row] && last.expected === it.expected[row])
      Object.assign(last, { to: at, records: last.records + 1 });
    else found.push({ from: at, to: at, seen: it.observed[row], expected: it.expected[row], records: 1 });
  });
  const inside = found.findIndex((one) => one.to >= begin),
    first = Math.max(0, Math.min(inside - 3, found.length - MOST_RUNS));
  const rows = found
    .slice(first, first + MOST_RUNS)
    .map((one) =>
      h(
        "tr",
        { "aria-current": one.to >= begin && one.from <= end ? "true" : null },
        h("td", time(one.from)),
        h("th", { scope: "row" }, data(value(one.seen), 32)),
        h("td.muted", { "data-head": "expected" }, data(value(one.expected), 32)),
        h("td.number", { "data-head": "records" }, count(one.records)),
      ),
    );
  return h(
    "div",
    h("h3", heading(it)),
    table(`Values of ${cut(it.name, 80)}`, [zoned("From"), "Seen", "Expected", "Records"], rows),
  );
}
