/** Times, zones and lengths of time as text; nothing here touches the page. */

export const RANGES = { "15m": 9e5, "6h": 216e5, "2d": 1728e5, "1w": 6048e5, "4w": 24192e5 };
export const RANGE_WORDS = { "15m": "15 minutes", "6h": "6 hours", "2d": "2 days", "1w": "1 week", "4w": "4 weeks" };

const DAY = 864e5;
const FORMS = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  minute: { hour: "2-digit", minute: "2-digit" },
  day: { day: "numeric", month: "short" },
  moment: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" },
  full: { dateStyle: "full", timeStyle: "long" },
  year: { year: "numeric" },
};
const made = new Map();

/** The zone of this browser. */
export const browserZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";

/** Whether the name is one of the IANA's. */
export function isZone(name) {
  try {
    return Boolean(name && new Intl.DateTimeFormat("en-GB", { timeZone: name }));
  } catch {
    return false;
  }
}

/** All zones that this browser knows. */
export const zones = () => ["UTC", ...Intl.supportedValuesOf("timeZone").filter((it) => it !== "UTC")];

/**
 * A time as text, with its year where that is not this one: streams are replayed.
 * @param {number} ms since the epoch
 * @param {string} zone
 * @param {"time"|"minute"|"day"|"moment"|"full"} form
 */
export function tell(ms, zone, form = "moment") {
  const told = format(form, zone).format(ms).replace(",", "");
  const year = form === "moment" || form === "day" ? format("year", zone).format(ms) : null;
  return year === null || year === format("year", zone).format(Date.now())
    ? told
    : told.replace(/^\d+ \w+/, `$& ${year}`);
}

function format(form, zone) {
  const key = `${form} ${zone}`;
  if (!made.has(key)) {
    made.set(key, new Intl.DateTimeFormat("en-GB", { ...FORMS[form], timeZone: zone, hourCycle: "h23" }));
  }
  return made.get(key);
}

/** Labels of a time axis: as fine as its ticks (`step`, ms) are apart; the day where it begins. */
export function ticks(times, zone, step) {
  let before = null;
  return times.map((ms) => {
    const day = tell(ms, zone, "day");
    const begins = day !== before;
    before = day;
    if (step >= DAY) return day;
    const clock = tell(ms, zone, step < 6e4 ? "time" : "minute");
    return begins ? `${clock}\n${day}` : clock;
  });
}

/** A length of time in its two largest units. */
export function span(ms) {
  const units = [
    ["d", DAY],
    ["h", 36e5],
    ["min", 6e4],
    ["s", 1e3],
  ];
  const first = units.findIndex(([, size]) => ms >= size);
  if (first < 0) return "less than 1 s";
  const [[unit, size], [smaller, part] = []] = units.slice(first);
  const whole = Math.floor(ms / size);
  const rest = part && whole < 10 ? Math.floor((ms % size) / part) : 0;
  return `${whole} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
}

/** A date of the API as epoch milliseconds; null stays null. */
export const ms = (date) => (date === null || date === undefined ? null : Date.parse(date));
