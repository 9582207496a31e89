/** Which view is shown, and when it is asked for anew. */

import { here, zone } from "./address.js";
import { follow, get, onTokenWanted, takeToken } from "./api.js";
import { h, renew } from "./dom.js";
import { header, tokenDialog } from "./header.js";
import { health } from "./views/health.js";
import { incident } from "./views/incident.js";
import { models } from "./views/models.js";
import { now } from "./views/now.js";

const VIEWS = { now, incident, models, health };
/** Alerts come in bursts: what they change is asked for once they pause for so long (ms). */
const SETTLED = 500;

const main = document.getElementById("main");
/** What all views know. */
const state = { overview: null, now: null, live: false, since: null };
let view = null;
let shown = "";
let settling = null;

function showHeader() {
  renew(document.getElementById("top"), ...header(state, open));
  document.title = `${state.overview ? `${state.overview.detector} \u00b7 ` : ""}offnominal`;
}

/** The view anew, from nothing. */
function open() {
  view?.close();
  const { name, id } = here();
  const root = h("div.view", { "data-view": name });
  main.replaceChildren(root);
  view = (Object.hasOwn(VIEWS, name) ? VIEWS[name] : now)(root, state, id);
  view.update();
}

/** Follows the address: another view, or another zone, is built anew; other filters change what is there. */
function route() {
  const { name, id } = here();
  const wanted = `${name} ${id} ${zone()}`;
  showHeader();
  if (wanted === shown) return view.update();
  const moved = shown && shown.split(" ")[0] !== name;
  shown = wanted;
  open();
  if (moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function refresh() {
  clearTimeout(settling);
  settling = setTimeout(() => view.update(), SETTLED);
}

/** What is told each second. */
function told(fresh) {
  const before = state.now;
  state.now = fresh;
  const same = (name) => before?.[name] === fresh[name];
  if (!same("revision") || !same("version") || (before.clock === null && fresh.clock !== null)) refresh();
  view.live?.();
}

function turned(live) {
  if (live === state.live) return;
  const again = live && state.since !== null;
  Object.assign(state, { live, since: live ? null : Date.now() });
  if (again) meet().then(refresh); // it may be another one after a restart
  showHeader();
}

async function meet() {
  state.overview = await get("overview").catch(() => state.overview);
  state.now ??= state.overview?.now ?? null;
  showHeader();
}

/** The skip link is no address of a view. */
document.querySelector(".skip").onclick = (event) => {
  event.preventDefault();
  main.focus();
};
takeToken();
onTokenWanted(tokenDialog);
document.body.append(h("div.toasts", { id: "toasts", role: "status" }));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", open);
showHeader();
await meet();
addEventListener("hashchange", route);
route();
follow(told, turned);
