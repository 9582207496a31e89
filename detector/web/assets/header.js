/** What stands above every view: name, views, whether it is live, zone, theme; and the dialog that wants a token. */

import { address, change, here, zone } from "./address.js";
import { give } from "./api.js";
import { data, h } from "./dom.js";
import { browserZone, isZone, tell, zones } from "./time.js";

const THEME = "offnominal.theme";
const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };
const VIEWS = { now: "Now", models: "Models", health: "Health" };

/** @param {{overview: object|null, live: boolean, since: number|null}} state */
export function header(state, themeChanged) {
  const { name } = here();
  return [
    h(
      "div.brand",
      h("span.mark", { "aria-hidden": "true" }),
      h("a.name", { href: address("now") }, state.overview ? data(state.overview.detector, 24) : "offnominal"),
    ),
    h(
      "nav",
      { "aria-label": "Views" },
      Object.entries(VIEWS).map(([view, words]) =>
        h(
          "a",
          { href: address(view), "data-testid": `nav-${view}`, "aria-current": name === view ? "page" : null },
          words,
        ),
      ),
    ),
    indicator(state),
    zoneChooser(),
    themeChooser(themeChanged),
  ];
}

function indicator({ live, since }) {
  const words = live ? "live" : since === null ? "connecting" : `reconnecting since ${tell(since, zone(), "time")}`;
  return h(
    `span.live${since === null ? "" : ".off"}`,
    { "data-testid": "live", "data-state": live ? "live" : "reconnecting" },
    h("span.dot", { "aria-hidden": "true" }),
    words,
  );
}

function zoneChooser() {
  const chosen = zone();
  const named = [...new Set([browserZone(), "UTC", chosen])];
  const options = [
    h(
      "optgroup",
      { label: "Common" },
      named.map((it) => h("option", { value: it }, it === browserZone() ? `${it} (browser)` : it)),
    ),
    h(
      "optgroup",
      { label: "All" },
      zones()
        .filter((it) => !named.includes(it))
        .map((it) => h("option", { value: it }, it)),
    ),
  ];
  const choose = (event) => isZone(event.target.value) && change({ tz: event.target.value });
  return h(
    "label.choice.tz",
    { title: "Time zone of all times shown" },
    h("span.hidden", "Time zone"),
    h("select", { "data-testid": "tz", key: chosen, onchange: choose, value: chosen }, options),
  );
}

function themeChooser(themeChanged) {
  const choose = (event) => {
    localStorage.setItem(THEME, event.target.value);
    document.documentElement.dataset.theme = event.target.value;
    themeChanged();
  };
  const options = Object.entries(THEMES).map(([it, words]) => h("option", { value: it }, words));
  return h(
    "label.choice.theme",
    { title: "Theme" },
    h("span.hidden", "Theme"),
    h("select", { "data-testid": "theme", onchange: choose, value: localStorage.getItem(THEME) ?? "auto" }, options),
  );
}

/** Asks for the token that the daemon wants; settles when one is given. */
export function tokenDialog(refused) {
  const field = h("input", {
    type: "password",
    id: "token",
    autocomplete: "current-password",
    "data-testid": "token",
    required: true,
  });
  const enter = () => field.value.trim() && (give(field.value.trim()), dialog.close());
  field.onkeydown = (event) => event.key === "Enter" && enter();
  const dialog = h(
    "dialog",
    { "aria-labelledby": "token-title" },
    h("h2", { id: "token-title" }, "This detector wants a token"),
    h(
      "p",
      refused
        ? "The one that was sent is not right."
        : "It is what the settings call web.token. It is kept in this tab only.",
    ),
    h("label.field", { for: "token" }, "Token", field),
    h("div.buttons", h("button.primary", { type: "button", "data-testid": "token-enter", onclick: enter }, "Enter")),
  );
  dialog.oncancel = (event) => event.preventDefault(); // there is nothing to see without
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => (dialog.remove(), resolve())));
}
