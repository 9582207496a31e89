/** What happens now, and what happened over a while: the view that opens first. */

import { address, change, here, zone } from "../address.js";
import { get, resource } from "../api.js";
import { chart, sparkline } from "../charts.js";
import { data, h, renew } from "../dom.js";
import { gutter, lanes } from "../lanes.js";
import {
  bar,
  content,
  duration,
  empty,
  icon,
  incidents,
  panel,
  reason,
  severity,
  toIncident,
  zoned,
} from "../parts.js";
import { RANGES, tell } from "../time.js";
import { alarms, breaksPromise, compact, count, happened, plural, SEVERITIES, wellbeing, who } from "../words.js";
import { filters, stretch } from "./filters.js";

/** Incidents asked for at a time. */
const PAGE = 50;
/** Lanes shown at most: who has more entities in trouble looks for a name. */
const MOST_LANES = 1_000;
/** Open incidents shown above everything else. */
const FOREMOST = 3;
/** Charts move on with the stream so often (s). */
const EVERY = 15;

export function now(root, state) {
  let rows = PAGE,
    seconds = 0;
  const show = () => {
    renew(root, page());
    draw();
  };
  const of = {
    open: resource(show),
    lanes: resource(show),
    list: resource(show),
    series: resource(show),
    pulse: resource(show),
  };
  let pictures = null;

  function page() {
    return [
      h("h1.hidden", {}, "Now"),
      statusLine(state, of.open.data),
      foremost(of.open, state.now?.clock),
      tiles(state, of.pulse.data),
      filters(),
      timeline(of.lanes),
      h(
        "div.pair",
        { key: "pair" },
        h("div.panel.chart", { key: "promise", "data-keep": true }),
        h("div.panel.chart", { key: "records", "data-keep": true }),
      ),
      list(of.list, state.now?.clock, () => ((rows += PAGE), load())),
    ];
  }

  /** Charts and lanes look after themselves, in places that stay. */
  function draw() {
    pictures ??= made(root, zone());
    if (of.lanes.data) pictures.lanes.show(of.lanes.data);
    if (of.series.data) pictures.showSeries(of.series.data, stretch(state.now?.clock));
  }

  function load() {
    const { begin, end } = stretch(state.now?.clock),
      { params } = here();
    const asked = ["entity", "severity"].filter((it) => params.has(it)).map((it) => [it, params.get(it)]);
    const more = ["kind", "label", "open"].filter((it) => params.has(it)).map((it) => [it, params.get(it)]);
    const where = [["begin", begin], ["end", end], ...asked];
    const key = `${params.get("begin")}-${params.get("end")}-${params.get("range")}-${asked}`;
    of.open.load((signal) => get("incidents", { open: "true", limit: PAGE }, signal));
    of.lanes.load((signal) => allLanes(where, signal), key);
    of.list.load((signal) => get("incidents", [...where, ...more, ["limit", rows]], signal), `${key}-${more}`);
    course();
  }

  function course() {
    const reach = (state.now?.clock ?? Date.now()) - stretch(state.now?.clock).begin;
    const range = Object.keys(RANGES).find((it) => RANGES[it] >= reach) ?? "4w";
    of.series.load((signal) => get("series", { range }, signal), range);
    of.pulse.load((signal) => get("pulse", { range: "15m" }, signal));
  }

  show();
  return {
    update: load,
    live() {
      if (++seconds % EVERY === 0) course();
      show();
    },
    close() {
      Object.values(of).forEach((it) => it.close());
      pictures?.close();
    },
  };
}

async function allLanes(where, signal) {
  const first = await get("lanes", [...where, ["limit", MOST_LANES], ["offset", 0]], signal);
  const wanted = Math.min(first.total, MOST_LANES);
  while (first.lanes.length < wanted) {
    const next = await get("lanes", [...where, ["limit", MOST_LANES], ["offset", first.lanes.length]], signal);
    if (!next.lanes.length) break;
    first.lanes.push(...next.lanes);
  }
  return first;
}

function statusLine(state, open) {
  if (!state.now) return h("div.status.skeleton", { key: "status" });
  const { tone, head, rest } = wellbeing(state.now);
  const words =
    open === null
      ? ""
      : open.total
        ? ` ${plural(open.total, "incident is", "incidents are")} open.`
        : " No incident is open.";
  return h(
    `div.status.${tone}`,
    { key: "status", role: "status", "data-testid": "status" },
    icon(tone === "good" ? "tick" : "bang"),
    h("p", {}, h("strong", {}, head), " ", data(rest, 300), ".", words),
  );
}

/** What is wrong at this moment, the worst first. */
function foremost(source, clock) {
  const rows = [...(source.data?.incidents ?? [])].sort(
    (a, b) => SEVERITIES.indexOf(b.severity) - SEVERITIES.indexOf(a.severity),
  );
  const more = (source.data?.total ?? 0) - FOREMOST;
  return rows.length === 0
    ? null
    : h(
        "section.foremost",
        { key: "foremost", "aria-label": "Open incidents, the worst first" },
        rows
          .slice(0, FOREMOST)
          .map((row) =>
            h(
              `a.alarm.${row.severity}`,
              { key: row.incident, href: address("incident", {}, row.incident) },
              h(
                "span.alarm-head",
                {},
                severity(row.severity),
                h("span.muted", {}, "since ", tell(Date.parse(row.opened), zone()), ` ${zone()}`),
              ),
              h("strong.alarm-what", {}, data(who(row), 40), ` ${happened(row, clock)}`),
              h("span.whys", {}, row.reasons.slice(0, 2).map(reason)),
            ),
          ),
        more > 0 &&
          h(
            "a.more",
            { href: address("now", withOpen()) },
            `and ${plural(more, "more that is", "more that are")} open`,
          ),
      );
}

function withOpen() {
  const { params } = here();
  params.set("open", "true");
  return params;
}

function tile(name, title, figure, ...more) {
  return h(
    "div.tile",
    { key: name, "data-testid": `tile-${name}` },
    h("h2", {}, title),
    h("div.figure", {}, figure),
    more,
  );
}

function tiles({ now: told, overview }, pulse) {
  if (!told) return h("div.tiles", { key: "tiles" });
  const past = (name, words) => (pulse && pulse[name].length > 1 ? sparkline(pulse[name], words) : h("span.spark", {}));
  const budget = overview?.budget;
  return h(
    "div.tiles",
    { key: "tiles" },
    tile(
      "records",
      "Records a second",
      compact(told.records_per_s),
      past("records_per_s", "records a second over 15 minutes"),
    ),
    tile("lag", "Lag", [compact(told.lag), h("small", {}, " records")], past("lag", "lag over 15 minutes")),
    tile(
      "open",
      "Open incidents",
      count(told.open_incidents),
      h("p", {}, h("a", { href: address("now", withOpen()) }, "Show them")),
    ),
    tile(
      "promise",
      "Alarms of those promised",
      [count(told.alarms), h("small", {}, ` of ${alarms(told.promised_alarms)}`)],
      bar(told.promised_alarms ? told.alarms / (2 * told.promised_alarms) : 0, breaksPromise(told) ? "doubt" : "good"),
      h(
        "p",
        {},
        budget ? `budget ${budget.text}` : "no budget yet",
        overview && [", since ", tell(Date.parse(overview.since), zone())],
      ),
    ),
    tile(
      "version",
      "Version in service",
      h("span.version", {}, told.version ? data(told.version) : "none yet"),
      h(
        "p",
        {},
        h(
          "a",
          { href: address("models") },
          told.training ? `a training is at: ${told.training}` : "Versions and trainings",
        ),
      ),
    ),
  );
}

/** The surprise and the lanes on one axis. */
function timeline(source) {
  const zoomed = here().params.has("begin");
  const aside = [
    zoomed &&
      h(
        "button.plain",
        { type: "button", "data-testid": "zoom-out", onclick: () => change({ begin: null, end: null }) },
        "Zoom out",
      ),
    h("span.muted.hint", {}, "Draw over a chart to zoom"),
    severityKey(),
  ];
  const { data: found, error } = source;
  const none = found && !found.lanes.length;
  const words =
    found && found.total > found.lanes.length
      ? `The ${count(found.lanes.length)} entities in most trouble of ${count(found.total)}: look for a name above.`
      : "";
  return panel(
    "timeline",
    "What happened",
    aside,
    h("div.chart.aligned", { key: "surprise", "data-keep": true }),
    found === null && (error ? content(source) : h("div.skeleton.lanes-wait", {})),
    none && empty("Nothing happened here.", "No incident in this time that the filters let through."),
    h("div.lanes", { key: "lanes", "data-keep": true }),
    words && h("p.muted.note", {}, words),
  );
}

const severityKey = () =>
  h(
    "span.key",
    {},
    SEVERITIES.map((it) => severity(it)),
  );

function list(source, clock, more) {
  const shown = (found) =>
    found.incidents.length === 0
      ? empty("No incidents.", "None in this time that the filters let through.")
      : [
          incidents(found.incidents, clock, "Incidents, the newest first"),
          found.total > found.incidents.length &&
            h("button", { type: "button", onclick: more }, `Show more of ${count(found.total)}`),
        ];
  return panel(
    "list",
    "Incidents",
    source.data && h("span.muted", {}, count(source.data.total)),
    content(source, shown, "16rem"),
  );
}

function made(root, inZone) {
  const place = (key) => root.querySelector(`[data-key="${key}"]`);
  const select = (begin, end) => change({ begin, end });
  const common = { zone: inZone, sync: "now", select };
  const surprise = chart(place("surprise"), {
    ...common,
    title: "Surprise",
    height: 130,
    gutter: gutter(place("lanes")),
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
  const swim = lanes(place("lanes"), {
    zone: inZone,
    href: (incident) => address("incident", {}, incident),
    named: (entity) => {
      const { params } = here();
      params.set("entity", entity);
      return address("now", params);
    },
  });
  return {
    lanes: swim,
    showSeries(series, { begin, end }) {
      const at = series.start.flatMap((start, row) => (start + series.width_ms > begin && start <= end ? [row] : []));
      const take = (name) => at.map((row) => series[name][row]);
      const range = [begin, end];
      surprise.show([take("start"), take("peak"), take("level")], range);
      promise.show([take("start"), running(take("alarms")), running(take("promised"))], range);
      records.show([take("start"), take("records")], range);
    },
    close: () => [surprise, promise, records, swim].forEach((it) => it.close()),
  };
}

const running = (values) =>
  values.map(
    (
      (sum) => (it) =>
        (sum += it)
    )(0),
  );
