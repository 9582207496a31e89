/** Figures, kinds and findings in words; nothing here touches the page. */

import { ms, span } from "./time.js";

export const SEVERITIES = ["minor", "major", "critical"];

export const KINDS = {
  opened: "unlikely records",
  escalated: "unlikely records",
  reminded: "unlikely records",
  amended: "unlikely records",
  resolved: "unlikely records",
  drift: "a new normal",
  creep: "a slow change",
  silence: "fell silent",
  unseen_category: "a value never seen",
  field_missing: "a field is gone",
  field_type: "a field changed its type",
};

/** What can be asked for by kind, as the first alert of an incident tells it. */
export const ASKED_KINDS = ["opened", "drift", "creep", "silence", "unseen_category", "field_missing", "field_type"];

export const LABELS = {
  false_alarm: "False alarm",
  confirmed: "Confirmed",
  known: "Known",
  note: "Note",
  retracted: "Retracted",
};

/** What a label does (docs/feedback.md). */
export const LABEL_MEANS = {
  false_alarm:
    "Nothing was wrong. Its like is not told again, the level here rises at once, and the next training counts it as normal.",
  confirmed: "Something was wrong. Nothing changes now; every later version has to find it.",
  known: "Its like is not told again; the level stays as it is.",
};

/** What an alert of that kind says in the course of an incident. */
export const STEPS = {
  opened: "opened",
  escalated: "severity rose",
  reminded: "still going on",
  amended: "amended by a late record",
  resolved: "resolved",
  drift: "became the new normal",
  creep: "slow change",
  silence: "fell silent",
  unseen_category: "value never seen",
  field_missing: "field gone",
  field_type: "type changed",
};

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-GB", { notation: "compact", maximumSignificantDigits: 3 });
const four = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 4 });
const one = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });

export const count = (n) => whole.format(n);
export const compact = (n) => short.format(n);
export const percent = (share) => `${one.format(100 * share)}\u202f%`;

/** A figure with as many digits as say something. */
export function figure(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "\u2013";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return x.toExponential(2);
  return size >= 1e4 ? count(x) : four.format(x);
}

/** So many alarms: promises are fractions. */
export const alarms = (n) => (n < 10 ? one.format(n) : count(n));

/** What a record held, or would have held. */
export function value(it) {
  if (it === null || it === undefined) return "missing";
  return typeof it === "number" ? figure(it) : String(it);
}

/** How rare: of so many normal records one. */
export function odds(p) {
  if (p === null || p === undefined) return null;
  if (p <= 1e-12) return "less than 1 in a trillion";
  const n = 1 / p;
  if (n < 10) return `1 in ${one.format(n)}`;
  const unit = [
    [1e9, " billion"],
    [1e6, " million"],
  ].find(([size]) => n >= size);
  if (unit)
    return `1 in ${new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 2 }).format(n / unit[0])}${unit[1]}`;
  return `1 in ${count(Number(n.toPrecision(2)))}`;
}

/** Whom an incident is about. */
export function who(row) {
  if (row.members) return `${count(row.members)} entities at once`;
  return row.entity || "the whole stream";
}

/** How long an incident has lasted, in milliseconds; an open one up to the newest record. */
export function lasted(row, clock) {
  const end = ms(row.resolved) ?? (isPoint(row) ? ms(row.latest) : Math.max(clock ?? 0, ms(row.latest)));
  return Math.max(0, end - ms(row.opened));
}

/** Told once, and over with that. */
export const isPoint = (row) => ["creep", "unseen_category", "field_missing", "field_type"].includes(row.kind);

/** What happened, after the name of whom it happened to. */
export function happened(row, clock) {
  const long = span(lasted(row, clock));
  const ongoing = row.resolved === null && !isPoint(row);
  if (row.kind === "silence") return ongoing ? `has been silent for ${long}` : `was silent for ${long}`;
  if (row.kind === "drift") return `changed for good after ${long}`;
  if (row.kind === "creep") return "has changed slowly";
  if (row.kind === "unseen_category") return "sent a value never seen before";
  if (row.kind === "field_missing") return "no longer sends a field";
  if (row.kind === "field_type") return "sends a field as another type";
  return ongoing ? `has been unlike its normal for ${long}` : `was unlike its normal for ${long}`;
}

/** Beyond this times the promise, or this many alarms, chance does not explain it: as a version is judged in a trial. */
const TOLERATED_RATIO = 2;
const WITHIN_CHANCE = 2;

/** Whether more was told than was promised. */
export const breaksPromise = (now) => now.alarms > Math.max(WITHIN_CHANCE, TOLERATED_RATIO * now.promised_alarms);

/** How the detector itself is, in a sentence: first what hinders it, then the promise. `tone`: good, doubt or bad. */
export function wellbeing(now) {
  if (!now.ready)
    return { tone: "bad", head: `Not scoring (${now.phase}):`, rest: now.detail || "it has not said why" };
  const kept = `${plural(now.alarms, "alarm")} where ${alarms(now.promised_alarms)} were allowed`;
  if (now.degraded) return { tone: "doubt", head: "Scoring, but not well:", rest: `${now.detail}. ${kept}` };
  if (breaksPromise(now)) return { tone: "doubt", head: "More alarms than promised:", rest: kept };
  const head = now.alarms > now.promised_alarms ? "Near its promise:" : "Keeping its promise:";
  return { tone: "good", head, rest: kept };
}

/** A count with its noun. */
export const plural = (n, noun, many = `${noun}s`) => `${count(n)} ${n === 1 ? noun : many}`;
