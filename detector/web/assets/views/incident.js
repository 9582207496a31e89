/** One incident: what happened, why, what was around it, and what people say of it. */

import { change, here } from "../address.js";
import { get, resource } from "../api.js";
import { cut, data, h, quoted, renew } from "../dom.js";
import {
  bar,
  content,
  copying,
  duration,
  empty,
  facts,
  icon,
  incidents,
  label,
  panel,
  reason,
  severity,
  time,
  zoned,
} from "../parts.js";
import { figure, happened, isPoint, KINDS, odds, percent, plural, STEPS, value, who } from "../words.js";
import { act, judgement } from "./judgement.js";
import { tracks } from "./tracks.js";

/** Records whose places are listed. */
const MOST_SOURCES = 5;

export function incident(root, state, id) {
  const show = () => {
    renew(root, page());
    if (of.around.data) around.show(of.around.data, of.told.data?.row, state.now?.clock);
  };
  const of = { told: resource(show), around: resource(show) };
  const around = tracks(() => root.querySelector('[data-key="tracks"]'));
  let looked = "";
  const path = `incidents/${encodeURIComponent(id)}`;
  const load = () => of.told.load((signal) => get(path, {}, signal));
  const say = (name) => act(path, name, load);

  function page() {
    if (!of.told.data) return [h("h1.hidden", "Incident"), content(of.told, () => null, "20rem")];
    const { row, alerts, opinions, similar } = of.told.data,
      clock = state.now?.clock;
    return [
      lead(row, clock),
      h(
        "div.main-side",
        { key: "told" },
        h(
          "div.stack",
          why(row, alerts),
          panel("around", "Around it", chooser(of.around.data), surroundings(of.around)),
          panel("similar", "Earlier ones like it", null, likes(similar, clock)),
        ),
        h("div.stack", judgement(row, opinions, state.overview, say), course(alerts), sources(alerts)),
      ),
    ];
  }

  /** The surroundings are asked for again only where there is more to them: charts stay under the cursor. */
  async function update() {
    await load();
    if (!of.told.data) return;
    const { row, alerts } = of.told.data,
      asked = here().params.getAll("feature");
    const wanted = `${alerts.length} ${row.latest} ${asked}`;
    if (wanted === looked && of.around.data) return;
    looked = wanted;
    const names = asked.length ? new Set([...row.reasons.map((it) => it.feature), ...asked]) : []; // beside the reasons
    of.around.load(
      (signal) =>
        get(
          `${path}/around`,
          [...names].map((it) => ["feature", it]),
          signal,
        ),
      wanted,
    );
  }

  show();
  return {
    update,
    close() {
      Object.values(of).forEach((it) => it.close());
      around.close();
    },
  };
}

function lead(row, clock) {
  const rare = odds(row.p_value);
  return h(
    "header.lead",
    { key: "lead" },
    h("h1", data(who(row), 80), ` ${happened(row, clock)}`),
    h(
      "p.line",
      severity(row.severity),
      duration(row, clock),
      h("span", KINDS[row.kind]),
      h(
        "span",
        "began ",
        time(row.opened),
        !isPoint(row) && [row.resolved ? ", ended " : ", last told ", time(row.resolved ?? row.latest)],
        " ",
        zoned(""),
      ),
      rare && h("span", `as unlikely as ${rare} normal records`),
      label(row.label),
    ),
  );
}

function why(row, alerts) {
  const first = alerts.find((it) => it.makes_normal !== null && it.reasons.length) ?? alerts[0];
  const more = alerts.find((it) => it.common.length || it.entities.length);
  return panel(
    "why",
    "Why",
    row.model && h("span.muted", "most surprised: ", data(row.model)),
    row.reasons.length
      ? h("ol.reasons", row.reasons.map(share))
      : h("p.muted", `No reasons: ${KINDS[row.kind]} is told without likelihood.`),
    h("p.note", normal(first?.makes_normal)),
    more && shared(more),
  );
}

const share = (it) =>
  h(
    "li",
    { key: it.feature, "data-testid": "reason" },
    h(
      "div.line",
      h("strong", data(it.feature, 60)),
      h("span", quoted(value(it.observed)), " ", h("span.muted", "expected"), " ", quoted(value(it.expected))),
      h("span.muted", percent(it.share)),
    ),
    bar(it.share),
  );

function normal(makes) {
  if (makes === null || makes === undefined) return null;
  return makes
    ? "Had these been as expected, the record would have been normal."
    : "Even with these as expected, the record would have stayed beyond the level: more than these is unusual.";
}

function shared(alert) {
  const named = alert.entities.map((it) => data(it, 40)).flatMap((it, row) => (row ? [", ", it] : [it]));
  return h(
    "div.note",
    alert.common.map((it) =>
      h(
        "p",
        "They share ",
        h("strong", it.field ? data(it.field) : "a name that begins with", " ", data(it.value)),
        h("span.muted", ` (${percent(it.share)} of them, ${percent(it.elsewhere)} of the others)`),
      ),
    ),
    named.length > 0 && h("p", h("span.muted", "Among them: "), named),
  );
}

function chooser(found) {
  if (!found?.others.length) return null;
  const asked = here().params.getAll("feature");
  const choose = (event) => change({ feature: [...asked, event.target.value] });
  return [
    asked.map((it) =>
      h(
        "button.plain",
        { type: "button", title: "Take it out", onclick: () => change({ feature: asked.filter((one) => one !== it) }) },
        data(it, 24),
        icon("cross"),
      ),
    ),
    h(
      "label.choice",
      h("span.hidden", "Show another feature"),
      h(
        "select",
        { "data-testid": "add-feature", value: "", onchange: choose },
        h("option", { value: "" }, "Add a feature"),
        found.others.map((it) => h("option", { value: it }, cut(it, 80))),
      ),
    ),
  ];
}

function surroundings(source) {
  return [
    source.data === null ? content(source, () => null, "18rem") : null,
    h("div.tracks", { key: "tracks", "data-keep": true }),
    source.data?.detail && h("p.note.muted", data(source.data.detail, 400)),
    source.data?.version &&
      h(
        "p.note.muted",
        "Judged by version ",
        data(source.data.version),
        ". The band holds 99 in 100 of the records around that were no alarm.",
      ),
  ];
}

function course(alerts) {
  const figures = (it) => [
    it.score !== null && `${figure(it.score)} nats, alarm beyond ${figure(it.threshold)}`,
    it.records > 0 && plural(it.records, "record"),
  ];
  const steps = alerts.map((it) =>
    h(
      `li.${it.severity}.${it.kind}`,
      { key: it.id },
      h("div.line", h("strong", STEPS[it.kind]), severity(it.severity), h("span.muted", time(it.time))),
      h("div.muted", figures(it).filter(Boolean).join("; ")),
      it.reasons.slice(0, 2).map((one) => h("div", reason(one))),
    ),
  );
  const frame = { tabindex: 0, role: "group", "aria-label": "Alerts of this incident, in their order" };
  return panel(
    "course",
    "Course",
    h("span.muted", plural(alerts.length, "alert")),
    h("div.long-list", frame, h("ol.steps", steps)),
  );
}

/** Where the records are that were told of. */
function sources(alerts) {
  const places = [...new Map(alerts.map(({ source: it }) => [`${it.topic}/${it.partition}@${it.offset}`, it]))];
  const first = alerts[0];
  return panel(
    "sources",
    "Records",
    null,
    h(
      "ul.plainlist",
      places
        .slice(0, MOST_SOURCES)
        .map(([place, it]) =>
          h(
            "li",
            { key: place },
            h("code", data(place, 60)),
            h("div.buttons", copying(place, "Offset", "copy-offset"), copying(consume(it), "Command", "copy-command")),
          ),
        ),
    ),
    places.length > MOST_SOURCES && h("p.note.muted", `and ${plural(places.length - MOST_SOURCES, "more", "more")}`),
    first &&
      h(
        "div.note",
        facts([
          ["Version", data(first.version)],
          ["Level of", first.segment ? data(first.segment) : "everybody"],
          ["Incident", h("code", data(first.incident))],
        ]),
      ),
  );
}

const quote = (text) => (/^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const consume = ({ topic, partition, offset }) =>
  `kafka-console-consumer --bootstrap-server "$BOOTSTRAP" --topic ${quote(topic)} --partition ${partition} --offset ${offset} --max-messages 1`;

function likes(similar, clock) {
  if (!similar.length) return empty("None that had the same reasons.");
  const shares = similar.map((it) => percent(it.likeness));
  return incidents(
    similar.map((it) => it.incident),
    clock,
    "Earlier incidents with the same reasons, the likest first",
    shares,
  );
}
