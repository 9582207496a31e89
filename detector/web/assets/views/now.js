/** What happens now, and what happened over a while: the view that opens first. */

import { here, zone } from "../address.js";
import { get, resource } from "../api.js";
import { h, morph, renew } from "../dom.js";
import { content, empty, incidents, panel } from "../parts.js";
import { count } from "../words.js";
import { filters, stretch } from "./filters.js";
import { foremost, statusLine, tiles } from "./standing.js";
import { pictures, timeline } from "./timeline.js";

/** Incidents asked for at a time. */
const PAGE = 25;
/** Open incidents among which the worst are looked for. */
const MOST_OPEN = 100;
/** Lanes shown at most: who has more entities in trouble looks for a name. */
const MOST_LANES = 1_000;
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
  let drawn = null;

  /** What moves each second. */
  function standing() {
    const { now } = state;
    return h(
      "div.stack",
      { key: "standing" },
      statusLine(now, of.open.data),
      foremost(of.open.data, now?.clock),
      tiles(state, of.pulse.data),
    );
  }

  function page() {
    return [
      h("h1.hidden", "Now"),
      standing(),
      filters(),
      timeline(of.lanes, of.series),
      list(of.list, state.now?.clock, () => ((rows += PAGE), load())),
    ];
  }

  /** Charts and lanes look after themselves, in places that stay. */
  function draw() {
    drawn ??= pictures(root, zone());
    if (of.lanes.data) drawn.showLanes(of.lanes.data);
    if (of.series.data) drawn.showSeries(of.series.data);
  }

  function load() {
    const { begin, end } = stretch(state.now?.clock),
      { params } = here();
    const given = (names) => names.filter((it) => params.has(it)).map((it) => [it, params.get(it)]);
    const asked = given(["entity", "severity"]),
      more = given(["kind", "label", "open"]);
    const where = [["begin", begin], ...asked],
      until = ["end", end];
    const time = given(["begin", "end", "range"]).join();
    of.open.load((signal) => get("incidents", { open: "true", limit: MOST_OPEN }, signal));
    of.lanes.load((signal) => get("lanes", [...where, until, ["limit", MOST_LANES]], signal), `${time} ${asked}`);
    // What lies ahead of the newest record, as where a record came without a time, is in no picture; it must be here.
    const listed = [...where, ...(params.has("end") ? [until] : []), ...more];
    of.list.load(
      (signal) => get("incidents", [...listed, ["limit", rows]], signal),
      `${time} ${asked} ${more}`,
    );
    course();
  }

  function course() {
    const { begin, end } = stretch(state.now?.clock);
    const asked = async (signal) => ({ ...(await get("series", { begin, end }, signal)), range: [begin, end] });
    of.series.load(asked, location.hash);
    of.pulse.load((signal) => get("pulse", { range: "15m" }, signal));
  }

  show();
  return {
    update: load,
    live() {
      if (++seconds % EVERY === 0) course();
      morph(root.querySelector('[data-key="standing"]'), standing());
    },
    close() {
      Object.values(of).forEach((it) => it.close());
      drawn?.close();
    },
  };
}

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
    source.data && h("span.muted", count(source.data.total)),
    content(source, shown, "16rem"),
  );
}
