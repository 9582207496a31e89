/** The address of a view: `#/incident/9c1a?tz=UTC`. What a view shows stands in it, so that it can be shared. */

import { browserZone, isZone } from "./time.js";

/** @returns {{name: string, id: string|null, params: URLSearchParams}} */
export function here(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, id] = path.split("/");
  return { name: name || "now", id: id ? decode(id) : null, params: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The address of a view; the chosen zone goes along. */
export function address(name, params = {}, id = null) {
  const query = params instanceof URLSearchParams ? params : new URLSearchParams(params);
  const zone = here().params.get("tz");
  if (zone && !query.has("tz")) query.set("tz", zone);
  const asked = query.toString();
  return `#/${name}${id === null ? "" : `/${encodeURIComponent(id)}`}${asked ? `?${asked}` : ""}`;
}

/** Changes what is asked for and stays in the view: null removes, an array stands several times. */
export function change(changes) {
  const { name, id, params } = here();
  for (const [key, value] of Object.entries(changes)) {
    params.delete(key);
    for (const it of [value].flat()) if (it !== null && it !== "") params.append(key, it);
  }
  location.hash = address(name, params, id);
}

/** The zone in which times are shown. */
export function zone() {
  const asked = here().params.get("tz");
  return isZone(asked) ? asked : browserZone();
}
