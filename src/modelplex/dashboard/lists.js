// The slowest loads, and the last decisions with their reasons.

import { ask } from "./actions.js";
import { byId, make, reconcile, setText } from "./dom.js";
import { age, clock, duration } from "./format.js";

const LIMIT = 50;

function modelButton(modelId, onModel) {
  return make("button", { type: "button", class: "link mono", text: modelId, title: modelId, click: () => onModel(modelId) });
}

export function showLoads(loads, now, onModel) {
  const slowest = Math.max(0, ...loads.map((load) => load.load_s || 0));
  byId("loads-empty").hidden = loads.length > 0;
  reconcile(
    byId("loads"),
    loads,
    (load) => `${load.model_id}\n${load.replica}\n${load.load_s}`,
    (load) =>
      make(
        "li",
        {},
        modelButton(load.model_id, onModel),
        make("span", { class: "quiet ago" }),
        make("span", { class: "load-time", text: duration(load.load_s) }),
        make("span", { class: "load-bar", "aria-hidden": "true" }, make("i", {})),
        make("span", { class: "quiet load-where", text: load.replica, title: load.replica }),
      ),
    (element, load) => {
      setText(element.children[1], `${age(Math.max(0, now - load.at))} ago`);
      const width = `${slowest > 0 ? Math.round((100 * load.load_s) / slowest) : 0}%`;
      const fill = element.children[3].firstElementChild;
      if (fill.style.width !== width) fill.style.width = width;
    },
  );
}

const keyOf = (decision) => [decision.at, decision.process, decision.kind, decision.request_id, decision.model_id, decision.why].join("\n");

const TONES = { reject: "bad", refuse: "bad", load_failed: "bad", evict: "warn", wait: "warn", load: "busy", loaded: "good", route: "plain" };

/** The last decisions: live, or those that were asked for. They stand still while they are read. */
export class Decisions {
  #asked = null; // {by, id} of the filter
  #live = [];
  #held = false;
  #answers = 0;

  constructor(onModel) {
    this.onModel = onModel;
    this.list = byId("decisions");
    byId("decisions-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.filter(byId("decisions-by").value, byId("decisions-filter").value.trim());
    });
    byId("decisions-filter").addEventListener("input", ({ target }) => {
      if (!target.value && this.#asked) this.filter("model_id", "");
    });
    const hold = (held) => () => {
      this.#held = held;
      if (!held) requestAnimationFrame(() => this.#held || this.#show()); // not amid a change that takes the focus away
    };
    this.list.addEventListener("pointerenter", hold(true));
    this.list.addEventListener("pointerleave", hold(false));
    this.list.addEventListener("focusin", hold(true));
    this.list.addEventListener("focusout", hold(false));
  }

  hear(decisions) {
    this.#live = decisions;
    if (!this.#held) this.#show();
  }

  /** Those about one model or request; an empty id is all again. */
  async filter(by, id) {
    byId("decisions-by").value = by;
    byId("decisions-filter").value = id;
    const number = (this.#answers += 1);
    if (this.list.contains(document.activeElement)) this.list.focus(); // what has the focus may go
    this.#asked = id ? { by, id, decisions: null } : null;
    this.#show();
    if (!id) return;
    try {
      const query = new URLSearchParams({ [by]: id, limit: String(LIMIT) });
      const told = await ask("GET", `v1/decisions?${query}`);
      if (number !== this.#answers) return; // another one has been asked for since
      this.#asked.decisions = told.decisions ?? [];
    } catch (error) {
      if (number !== this.#answers) return;
      this.#asked.error = error.message;
    }
    this.#show();
  }

  #show() {
    const asked = this.#asked;
    const decisions = asked ? (asked.decisions ?? []) : this.#live;
    setText(byId("decisions-note"), asked ? `about ${asked.id}` : "");
    const note = asked?.error ?? (asked && !asked.decisions ? "Asking …" : asked ? "No decision about it is remembered." : "No decision yet.");
    byId("decisions-empty").hidden = decisions.length > 0;
    setText(byId("decisions-empty"), note);
    const seen = new Map(); // two that are alike in all that a key has
    reconcile(
      this.list,
      decisions.slice(0, LIMIT),
      (decision) => {
        const key = keyOf(decision);
        seen.set(key, (seen.get(key) ?? 0) + 1);
        return `${key}\n${seen.get(key)}`;
      },
      (decision) => this.#item(decision),
    );
  }

  #item(decision) {
    const numbers = Object.entries(decision.numbers ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
    const meta = make("div", { class: "decision-meta" });
    meta.append(
      make("time", { text: clock(decision.at) }),
      make("span", { class: `badge ${TONES[decision.kind] ?? "plain"}`, text: String(decision.kind).replaceAll("_", " ") }),
    );
    if (decision.model_id) meta.append(modelButton(decision.model_id, this.onModel));
    if (decision.request_id) {
      meta.append(
        make("button", {
          type: "button",
          class: "link quiet mono request",
          text: decision.request_id,
          title: `Decisions about request ${decision.request_id}`,
          click: () => this.filter("request_id", decision.request_id),
        }),
      );
    }
    return make("li", {}, meta, make("p", { text: decision.text, title: [decision.why, numbers, decision.process].filter(Boolean).join(" · ") }));
  }
}
