/** How things stand at this moment: in a sentence, the open incidents, and the figures. */

import { address, here, zone } from "../address.js";
import { sparkline } from "../charts.js";
import { data, h } from "../dom.js";
import { bar, icon, reason, severity, time } from "../parts.js";
import { alarms, breaksPromise, compact, count, happened, plural, SEVERITIES, wellbeing, who } from "../words.js";

/** Open incidents shown above everything else. */
const FOREMOST = 3;

/** Whether the detector keeps its promise, or what hinders it. */
export function statusLine(now, open) {
  if (!now) return h("div.status.skeleton", { key: "status" });
  const { tone, head, rest } = wellbeing(now);
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
    h("p", h("strong", head), " ", data(rest, 300), ".", words),
  );
}

/** What is wrong at this moment, the worst first. */
export function foremost(open, clock) {
  const rows = [...(open?.incidents ?? [])].sort(
    (a, b) => SEVERITIES.indexOf(b.severity) - SEVERITIES.indexOf(a.severity),
  );
  const more = (open?.total ?? 0) - FOREMOST;
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
              h("span.alarm-head", severity(row.severity), h("span.muted", "since ", time(row.opened), ` ${zone()}`)),
              h("strong.alarm-what", data(who(row), 40), ` ${happened(row, clock)}`),
              h("span.whys", row.reasons.slice(0, 2).map(reason)),
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

const tile = (name, title, figure, ...more) =>
  h("div.tile", { key: name, "data-testid": `tile-${name}` }, h("h2", title), h("div.figure", figure), more);

/** The figures that tell how it fares. */
export function tiles({ now, overview }, pulse) {
  if (!now) return h("div.tiles", { key: "tiles" });
  const past = (name, words) => (pulse?.[name].length > 1 ? sparkline(pulse[name], words) : h("span.spark"));
  return h(
    "div.tiles",
    { key: "tiles" },
    tile(
      "records",
      "Records a second",
      compact(now.records_per_s),
      past("records_per_s", "records a second over 15 minutes"),
    ),
    tile("lag", "Lag", [compact(now.lag), h("small", " records")], past("lag", "lag over 15 minutes")),
    tile(
      "open",
      "Open incidents",
      count(now.open_incidents),
      h("p", h("a", { href: address("now", withOpen()) }, "Show them")),
    ),
    tile(
      "promise",
      "Alarms told, of those allowed",
      [count(now.alarms), h("small", ` of ${alarms(now.promised_alarms)}`)],
      promise(now),
      h(
        "p",
        overview?.budget ? ["budget ", data(overview.budget.text)] : "no budget yet",
        overview && [", since ", time(overview.since, "minute")],
      ),
    ),
    tile(
      "version",
      "Version in service",
      h("span.version", now.version ? data(now.version) : "none yet"),
      h(
        "p",
        h(
          "a",
          { href: address("models") },
          now.training ? `a training is at: ${now.training}` : "versions and trainings",
        ),
      ),
    ),
  );
}

/** Twice what was allowed is the whole bar, so that there is room to exceed it. */
const promise = (now) =>
  bar(
    now.alarms / Math.max(2 * now.promised_alarms, now.alarms, 1e-9),
    breaksPromise(now) ? "doubt" : "good",
    now.promised_alarms / Math.max(2 * now.promised_alarms, now.alarms, 1e-9),
  );
