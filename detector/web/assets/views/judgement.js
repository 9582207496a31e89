/** Saying what an incident was, with one click, and taking it back. */

import { post } from "../api.js";
import { data, h, quoted } from "../dom.js";
import { announce, icon, panel, time } from "../parts.js";
import { LABEL_MEANS, LABELS } from "../words.js";

const AUTHOR = "offnominal.author";

/** Says it; `path` is that of the incident, `load` asks for it anew. */
export async function act(path, name, load) {
  const text = document.getElementById("note").value.trim(),
    author = document.getElementById("author").value.trim() || "dashboard";
  localStorage.setItem(AUTHOR, author);
  try {
    await post(`${path}/feedback`, { label: name, text, author });
    document.getElementById("note").value = "";
    announce(name === "retracted" ? "What was said no longer counts." : `Said: ${LABELS[name].toLowerCase()}.`);
    await load();
  } catch (error) {
    announce(error.message, "bad");
  }
}

/** What was said last, and what can be said. */
export function judgement(row, opinions, overview, say) {
  const may = overview?.may_act ?? false,
    last = opinions.at(-1),
    counts = last && last.label !== "retracted";
  const button = (name) =>
    h(
      "div.one",
      h(
        "button",
        {
          type: "button",
          disabled: !may,
          "aria-pressed": String(row.label === name),
          "data-testid": `label-${name}`,
          onclick: () => say(name),
        },
        LABELS[name],
      ),
      h("p.means", LABEL_MEANS[name]),
    );
  return panel(
    "judge",
    "What was it?",
    null,
    counts && opinion(last, may, say),
    !may &&
      overview &&
      h("p.notice", icon("bang"), h("span", data(overview.acting_wants || "You may look, not act.", 300))),
    h(
      "div.labels",
      ["false_alarm", "confirmed", "known"].map(button),
      h(
        "label.field",
        "Note",
        h("textarea", {
          id: "note",
          rows: 2,
          maxlength: 2000,
          "data-keep": true,
          disabled: !may,
          placeholder: "optional",
        }),
      ),
      h(
        "label.field",
        "Your name",
        h("input", {
          id: "author",
          maxlength: 200,
          "data-keep": true,
          disabled: !may,
          autocomplete: "name",
          value: localStorage.getItem(AUTHOR) ?? "",
        }),
      ),
    ),
    opinions.length > 1 &&
      h(
        "details.note",
        h("summary", `All that was said (${opinions.length})`),
        h(
          "ul.plainlist",
          opinions.map((it) =>
            h(
              "li",
              h("strong", LABELS[it.label]),
              " ",
              data(it.author, 40),
              " ",
              time(it.time),
              it.text && [": ", quoted(it.text)],
            ),
          ),
        ),
      ),
  );
}

function opinion(it, may, say) {
  return h(
    "div.opinion",
    { key: "opinion", "data-testid": "opinion" },
    h("div", h("strong", LABELS[it.label]), " ", h("span.muted", "by ", data(it.author, 40), ", ", time(it.time))),
    it.text && h("div", quoted(it.text, 200)),
    h(
      "div",
      h(
        "button",
        { type: "button", disabled: !may, "data-testid": "label-undo", onclick: () => say("retracted") },
        "Undo",
      ),
    ),
  );
}
