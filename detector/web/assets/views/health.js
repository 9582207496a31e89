/** Whether the detector itself is well. */

import { change, here, zone } from "../address.js";
import { get, resource } from "../api.js";
import { data, h, quoted, renew } from "../dom.js";
import { bar, content, copying, empty, facts, icon, panel, table, time } from "../parts.js";
import { span } from "../time.js";
import { count, plural } from "../words.js";

/** Nothing of this is told by the revision: it is asked for so often (s). */
const EVERY = 5;
/** What can be sorted by, and whether the largest is wanted first. */
const COLUMNS = { topic: false, partition: false, lag: true, stalled_s: true };

const REASONS = {
  good: "Scoring, and nothing hinders it.",
  doubt: "Scoring, but something wants a look.",
  bad: "Not scoring as it should.",
};

export function health(root, state) {
  let seconds = 0;
  const source = resource(() => renew(root, page()));
  const load = () => source.load((signal) => get("health", {}, signal));
  const page = () => [
    h("h1", "Health"),
    content(
      source,
      (found) => [
        verdict(found),
        h(
          "div.pair",
          panel("checks", "Checks", null, checks(found.checks)),
          panel("parts", "Around it", null, around(found, state)),
        ),
        panel(
          "partitions",
          "Partitions of this replica",
          h("span.muted", plural(found.partitions.length, "partition")),
          partitions(found.partitions),
        ),
        panel(
          "dead",
          "Dead letters",
          found.dead_letter_topic && h("span.muted", "topic ", data(found.dead_letter_topic)),
          deadLetters(found),
        ),
      ],
      "24rem",
    ),
  ];
  renew(root, page());
  return {
    update: () => (source.data && renew(root, page()), load()),
    live: () => ++seconds % EVERY === 0 && load(),
    close: source.close,
  };
}

function verdict(found) {
  const tone = !found.ready ? "bad" : found.degraded ? "doubt" : "good";
  return h(
    `div.status.${tone}`,
    { role: "status", "data-testid": "status" },
    icon(tone === "good" ? "tick" : "bang"),
    h("p", h("strong", REASONS[tone]), ` It is ${found.phase}. `, tone !== "good" && data(found.detail, 300)),
  );
}

const checks = (found) =>
  h(
    "ul.checks",
    found.map((it) =>
      h(
        "li",
        { key: it.name, "data-testid": "check", "data-ok": String(it.ok) },
        icon(it.ok ? "tick" : "cross"),
        h("strong", it.name, h("span.hidden", it.ok ? " is well:" : " is not well:")),
        h("span", quoted(it.detail, 200)),
      ),
    ),
  );

function around(found, { overview, now }) {
  return facts([
    ["Store", data(found.store, 80)],
    ["Looks at the store that failed", count(found.store_errors)],
    ["Entities remembered", count(found.entities)],
    ["Age of the version", found.model_age_s === null ? "no version yet" : span(1000 * found.model_age_s)],
    ["Schedule", found.schedule ? h("code", `${found.schedule} (${found.timezone})`) : "none"],
    [
      "Next training",
      found.next_training ? [time(found.next_training), " ", h("span.muted", zone())] : "not scheduled",
    ],
    ["Reads", overview ? overview.topics.map((it) => h("div", data(it))) : null],
    ["Alerts go to", overview ? data(overview.alert_topic) : null],
    ["Software", overview ? data(overview.software) : null],
    ["Running since", overview ? [time(overview.since), " ", h("span.muted", zone())] : null],
    ["Newest record", now?.clock ? [time(now.clock), " ", h("span.muted", zone())] : null],
  ]);
}

function partitions(found) {
  if (!found.length)
    return empty("None.", "The group has more replicas than there are partitions, or it has not joined yet.");
  const sort = COLUMNS[here().params.get("sort")] === undefined ? "lag" : here().params.get("sort");
  const order = (a, b) => (COLUMNS[sort] ? b[sort] - a[sort] : a[sort] > b[sort] ? 1 : a[sort] < b[sort] ? -1 : 0);
  const most = Math.max(1, ...found.map((it) => it.lag));
  return h(
    "div.wide",
    h(
      "table.cards",
      h("caption.hidden", `Partitions, by ${sort}`),
      h(
        "thead",
        h(
          "tr",
          head("topic", "Topic", sort),
          head("partition", "Partition", sort),
          head("lag", "Lag (records)", sort),
          h("th", { scope: "col", "aria-label": "Lag as a bar" }),
          head("stalled_s", "Stands still", sort),
        ),
      ),
      h(
        "tbody",
        found
          .toSorted(order)
          .map((it) =>
            h(
              "tr",
              { key: `${it.topic}/${it.partition}` },
              h("th", { scope: "row" }, data(it.topic)),
              h("td", { "data-head": "partition" }, it.partition),
              h("td.number", { "data-head": "lag" }, count(it.lag)),
              h("td", { style: { width: "35%" } }, bar(it.lag / most, it.stalled_s >= 1 ? "doubt" : "")),
              h(
                "td.nowrap",
                { "data-head": "stands still" },
                it.stalled_s < 1 ? h("span.muted", "no") : span(1000 * it.stalled_s),
              ),
            ),
          ),
      ),
    ),
  );
}

const head = (name, words, sort) =>
  h(
    "th",
    { scope: "col", "aria-sort": name === sort ? (COLUMNS[name] ? "descending" : "ascending") : null },
    h(
      "button.plain",
      { type: "button", onclick: () => change({ sort: name }) },
      words,
      name === sort && (COLUMNS[name] ? " \u2193" : " \u2191"),
    ),
  );

function deadLetters(found) {
  const reasons = Object.entries(found.dead_letters)
    .filter(([, n]) => n > 0)
    .sort(([, a], [, b]) => b - a);
  if (!reasons.length && !found.latest_dead_letters.length)
    return empty("None since this replica started.", "Every record could be scored.");
  const most = Math.max(1, ...reasons.map(([, n]) => n));
  return h(
    "div.stack",
    h(
      "ol.reasons",
      reasons.map(([name, n]) =>
        h("li", { key: name }, h("div.line", h("span", data(name)), h("span", count(n))), bar(n / most, "major")),
      ),
    ),
    found.latest_dead_letters.length > 0 &&
      table(
        "Latest dead letters",
        ["Record", "Reason", "Error", ""],
        found.latest_dead_letters.map((it) => {
          const place = `${it.topic}/${it.partition}@${it.offset}`;
          return h(
            "tr",
            { key: place },
            h("th", { scope: "row" }, h("code", data(place, 60))),
            h("td", data(it.reason)),
            h("td", quoted(it.error, 160)),
            h("td", copying(place, "Copy")),
          );
        }),
      ),
  );
}
