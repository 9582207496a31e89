/** Versions: what serves, what each had to show, and what may be done with them. */

import { address, here, zone } from "../address.js";
import { get, post, resource } from "../api.js";
import { data, h, quoted, renew } from "../dom.js";
import {
  announce,
  confirm,
  content,
  empty,
  facts,
  figures,
  icon,
  incidents,
  panel,
  table,
  time,
  zoned,
} from "../parts.js";
import { ms, span } from "../time.js";
import { count, figure, plural } from "../words.js";

const TONES = { serves: "good", "serves, pinned": "good", refused: "bad", unreadable: "bad", "on trial": "doubt" };
const OUTCOMES = { promoted: "good", refused: "doubt", failed: "bad", timeout: "bad", "rolled back": "bad" };
const STAGES = {
  gate: "Gate, on held-back records",
  shadow: "Shadow, on live records",
  watch: "Watch, while it served",
};
/** Progress of a training is not told by the revision; the table is asked for so often (s). */
const EVERY = 15;

export function models(root, state) {
  let seconds = 0;
  const source = resource(() => renew(root, page()));
  const load = () => source.load((signal) => get("models", {}, signal));

  function page() {
    const may = state.overview?.may_act ?? false;
    const doing = {
      may,
      why: may ? null : state.overview?.acting_wants || "You may look, not act.",
      act: (...it) => act(load, ...it),
    };
    return [
      h("h1", "Models"),
      content(
        source,
        (found) => [
          schedule(found),
          panel("versions", "Versions", actions(found, doing), refused(doing), versions(found)),
          detail(found, doing),
          panel(
            "drift",
            "Drift told",
            null,
            found.drift.length
              ? incidents(found.drift, state.now?.clock, "Drift and creep, the newest first")
              : empty("None told lately."),
          ),
          panel("reports", "Trainings", null, found.reports.length ? reports(found.reports) : empty("None yet.")),
        ],
        "24rem",
      ),
    ];
  }

  renew(root, page());
  return {
    update: () => (source.data && renew(root, page()), load()),
    live: () => ++seconds % EVERY === 0 && load(),
    close: source.close,
  };
}

async function act(load, path, title, consequences, yes) {
  if (!(await confirm(title, consequences, yes))) return;
  try {
    announce((await post(path)).detail);
  } catch (error) {
    announce(error.message, "bad");
  }
  await load();
}

const refused = ({ may, why }) => !may && h("p.notice", { key: "refused" }, icon("bang"), h("span", data(why, 300)));

function button(words, testid, { may, why, act }, path, title, consequences, primary = false) {
  return h(
    `button${primary ? ".primary" : ""}`,
    {
      type: "button",
      disabled: !may,
      title: why,
      "data-testid": testid,
      onclick: () => act(path, title, consequences, words),
    },
    words,
  );
}

function actions({ champion, pinned }, doing) {
  return h(
    "div.buttons",
    champion &&
      button("Roll back", "rollback", doing, "models/rollback", "Roll back?", [
        `The version that served before ${champion} goes into service again, in every replica, between two batches.`,
        `${champion} is kept and can be promoted again. Open incidents stay open.`,
        ...(pinned ? ["What is pinned now is pinned no longer."] : []),
      ]),
    pinned &&
      button("Unpin", "unpin", doing, "models/unpin", `Unpin ${pinned}?`, [
        "It serves on. From then on a training may put another version in its place, or the watch take it back.",
      ]),
    button("Retrain now", "retrain", doing, "trainings", "Retrain now?", [
      "A training is asked for. It reads the topic in a process of its own, at low priority; scoring goes on.",
      `What comes of it goes into service only after it has proved itself against ${champion ?? "nothing: it is the first"}.`,
    ]),
  );
}

function schedule(found) {
  const { under_way: going, waiting, phase, next_training: next } = found;
  const at = phase ? `at: ${phase}` : "under way on another replica";
  return panel(
    "schedule",
    "Training",
    null,
    facts([
      ["In service", found.champion ? data(found.champion) : "none yet"],
      ["Pinned", found.pinned ? "yes: no training replaces it" : "no"],
      ["Under way", going ? `for ${going.reason}, ${at}` : "nothing"],
      ["Waiting", waiting ? [`for ${waiting.reason}, asked `, time(waiting.asked)] : "nothing"],
      ["Schedule", found.schedule ? h("code", `${found.schedule} (${found.timezone})`) : "none"],
      ["Next", next ? [time(next), " ", h("span.zone.muted", zone())] : "not scheduled"],
    ]),
  );
}

function chosen(found) {
  const asked = here().params.get("version") ?? found.champion;
  return found.versions.find((it) => it.version === asked) ?? found.versions[0];
}

function versions(found) {
  if (!found.versions.length)
    return empty("No version yet.", "The first one is trained once the topics hold enough records.");
  const picked = chosen(found);
  const heads = ["Version", "State", zoned("Created"), "Models", "Trained on", "Held-back alarms", "Trials"];
  return table(
    "Versions, the newest first",
    heads,
    found.versions.map((it) =>
      h(
        "tr",
        { key: it.version, "aria-current": it === picked ? "true" : null },
        h(
          "th",
          { scope: "row" },
          h("a", { href: address("models", { version: it.version }), "data-testid": "version-row" }, data(it.version)),
        ),
        h("td", chip(it.state, TONES)),
        h("td", { "data-head": "Created" }, time(it.created)),
        h("td", it.models.map((model) => model.kind).join(", ") || "\u2013"),
        h(
          "td",
          { "data-head": "Trained on" },
          it.data ? `${count(it.data.records)} records over ${span(it.data.last_ms - it.data.first_ms)}` : "\u2013",
        ),
        h("td", { "data-head": "Held-back alarms" }, it.verdict ? kept(it.verdict) : "\u2013"),
        h("td", it.trials.length ? it.trials.map(passed) : "\u2013"),
      ),
    ),
  );
}

const chip = (words, tones) => h(`span.chip.${tones[words] ?? "plain"}`, words);
const kept = (it) => `${figure(it.realised_rate / it.promised_rate)} times the promise`;
const passed = (it) =>
  h(`span.trial`, h(`span.chip.${it.passed ? "good" : "bad"}`, `${it.stage} ${it.passed ? "passed" : "failed"}`), " ");

function detail(found, doing) {
  const it = chosen(found);
  if (!it) return null;
  const serves = it.version === found.champion;
  const instead = found.champion ? `${found.champion} steps back; rolling back returns to it.` : "";
  const loosens = found.pinned && found.pinned !== it.version ? [`${found.pinned} is pinned no longer.`] : [];
  const does = h(
    "div.buttons",
    !serves &&
      button(
        "Promote",
        "promote",
        doing,
        `models/${encodeURIComponent(it.version)}/promote`,
        `Promote ${it.version}?`,
        [
          `It goes into service in every replica, between two batches, without a trial. ${instead}`,
          "Open incidents stay open; no record is judged twice or left out.",
          ...loosens,
        ],
        true,
      ),
    it.version !== found.pinned &&
      button("Pin", "pin", doing, `models/${encodeURIComponent(it.version)}/pin`, `Pin ${it.version}?`, [
        `It ${serves ? "stays in" : "goes into"} service until it is unpinned: no training replaces it, and no watch takes it back.`,
        ...loosens,
      ]),
  );
  return panel(
    "detail",
    h("span", data(it.version)),
    does,
    h(
      "div.stack",
      { "data-testid": "version-detail" },
      it.created === null ? h("p.notice.bad", icon("bang"), "This version cannot be read.") : about(it),
      it.choice && h("p", h("span.muted", "Chosen because: "), quoted(it.choice, 300)),
      it.against.length > 0 && listed("Against it", it.against),
      it.verdict?.reasons.length > 0 && listed("Verdict: not sound", it.verdict.reasons),
      it.verdict?.warnings.length > 0 && listed("To know all the same", it.verdict.warnings),
      it.trials.map(trial),
    ),
  );
}

function about(it) {
  const range = (from) => [time(from.first_ms), " to ", time(from.last_ms), " ", h("span.muted", zone())];
  return facts([
    ["State", chip(it.state, TONES)],
    ["Verdict", it.verdict ? (it.verdict.sound ? "sound" : "not sound") : null],
    ["Rate promised", it.verdict ? figure(it.verdict.promised_rate) : null],
    [
      "Rate on held-back records",
      it.verdict ? `${figure(it.verdict.realised_rate)}, of ${plural(it.verdict.held_back_rows, "record")}` : null,
    ],
    ["Trained on", it.data ? range(it.data) : null],
    ["Went on from", it.trained_from ? data(it.trained_from) : "nothing: fitted anew"],
    ["Models", it.models.map((one) => `${one.kind}: window ${one.window}, loss ${figure(one.valid_score)}`).join("; ")],
    ["Left out of training", cleaned(it.cleaned)],
  ]);
}

const cleaned = (of) =>
  Object.entries(of)
    .map(([why, n]) => `${count(n)} ${why}`)
    .join(", ") || "nothing";

const listed = (title, lines) =>
  h(
    "div",
    h("h3", title),
    h(
      "ul",
      { style: { "padding-left": "1.2rem" } },
      lines.map((it) => h("li", data(it, 500))),
    ),
  );

function trial(it) {
  return h(
    "details",
    { key: `${it.stage}-${it.at}`, open: !it.passed },
    h(
      "summary",
      h(`span.chip.${it.passed ? "good" : "bad"}`, it.passed ? "passed" : "failed"),
      ` ${STAGES[it.stage]} `,
      h("span.muted", time(it.at), it.against && [", against ", data(it.against)]),
    ),
    it.reasons.length > 0 &&
      h(
        "ul",
        it.reasons.map((one) => h("li", data(one, 500))),
      ),
    Object.keys(it.figures).length > 0 && figures(it.figures),
  );
}

function reports(found) {
  return table(
    "Trainings, the newest first",
    [zoned("Began"), "For", "Took", "Outcome", "Version", "Why"],
    found.map((it) =>
      h(
        "tr",
        { key: it.id },
        h("td", time(it.started)),
        h("td", it.reason),
        h("td", { "data-head": "Took" }, span(ms(it.ended) - ms(it.started))),
        h("td", chip(it.outcome, OUTCOMES)),
        h("td", it.version && h("a", { href: address("models", { version: it.version }) }, data(it.version))),
        h(
          "td",
          it.reasons.map((one) => h("div", quoted(one, 160))),
        ),
      ),
    ),
  );
}
