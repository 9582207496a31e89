/** What happened over a while: surprise and lanes on one axis, what was promised, how many records. */

import { address, change, here } from "../address.js";
import { chart } from "../charts.js";
import { h } from "../dom.js";
import { lanes } from "../lanes.js";
import { content, empty, panel, severity } from "../parts.js";
import { count, SEVERITIES } from "../words.js";

/** An entity is asked for by so many characters of its name at most. */
const LONGEST_ASKED = 200;

/** The places of charts and lanes, which keep their content; what is missing is said beside them. */
export function timeline(source, series) {
  const found = source.data;
  const kept = (key, kind) => h(`div.${kind}`, { key: `kept-${key}`, "data-keep": true });
  const zoomOut = () => change({ begin: null, end: null });
  const aside = [
    here().params.has("begin") &&
      h("button.plain", { type: "button", "data-testid": "zoom-out", onclick: zoomOut }, "Zoom out"),
    h("span.muted.hint", "Draw over a chart to zoom"),
    h(
      "span.key",
      SEVERITIES.map((it) => severity(it)),
    ),
  ];
  return [
    panel(
      "timeline",
      "What happened",
      aside,
      series.error && content(series, () => null),
      kept("surprise", "chart.aligned"),
      found === null
        ? content(source, () => null, "12rem")
        : found.lanes.length === 0 &&
            empty("Nothing happened here.", "No incident in this time that the filters let through."),
      kept("lanes", "lanes"),
      found?.total > found?.lanes.length &&
        h(
          "p.muted.note",
          `The ${count(found.lanes.length)} entities in most trouble of ${count(found.total)}: look for a name above.`,
        ),
    ),
    h("div.pair", { key: "pair" }, kept("promise", "panel.chart"), kept("records", "panel.chart")),
  ];
}

/** The charts and lanes in their places below `root`, which stay. */
export function pictures(root, inZone) {
  const place = (key) => root.querySelector(`[data-key="kept-${key}"]`);
  const select = (begin, end) => change({ begin, end });
  const common = { zone: inZone, sync: "now", select, zero: true };
  const swim = lanes(place("lanes"), {
    zone: inZone,
    href: (incident) => address("incident", {}, incident),
    named: (entity) => {
      const { params } = here();
      params.set(
        "entity",
        Array.from(entity.slice(0, 2 * LONGEST_ASKED))
          .slice(0, LONGEST_ASKED)
          .join(""),
      );
      return address("now", params);
    },
  });
  const surprise = chart(place("surprise"), {
    ...common,
    title: "Surprise",
    height: 130,
    gutter: swim.gutter(),
    right: swim.right(),
    series: [
      { label: "peak (nats)", colour: "accent", fill: true },
      { label: "alarm beyond", colour: "critical", dash: true },
    ],
  });
  const promise = chart(place("promise"), {
    ...common,
    title: "Alarms over this time",
    height: 150,
    series: [
      { label: "told", colour: "accent", steps: true },
      { label: "allowed", colour: "muted", dash: true },
    ],
  });
  const records = chart(place("records"), {
    ...common,
    title: "Records",
    height: 150,
    series: [{ label: "in each bin", colour: "accent", bars: true }],
  });
  let lanesShown = null,
    seriesShown = null;
  return {
    showLanes(found) {
      if (found !== lanesShown) swim.show((lanesShown = found));
    },
    showSeries(found) {
      if (found === seriesShown) return;
      seriesShown = found;
      const { range, start, peak, level, alarms: told, promised, records: counted } = found;
      surprise.show([start, peak, level], range);
      promise.show([start, running(told), running(promised)], range);
      records.show([start, counted], range);
    },
    close: () => [surprise, promise, records, swim].forEach((it) => it.close()),
  };
}

/** Sums up to each place. */
function running(values) {
  let sum = 0;
  return values.map((it) => (sum += it));
}
