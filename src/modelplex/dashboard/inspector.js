// What is known of one model or replica: in short beside the pointer or the focus, and in full, with its actions, when chosen.

import { budget, bytes, plural } from "./format.js";
import { byId, make, reconcile, setAttribute, setText } from "./dom.js";
import { detailsOf } from "./fleet.js";
import { drain, steer, unload } from "./actions.js";

function showRows(list, rows) {
  reconcile(
    list,
    rows,
    ([name]) => name,
    ([name]) => make("div", {}, make("dt", { text: name }), make("dd", {})),
    (element, [, value]) => setText(element.lastElementChild, value),
  );
}

function replicaRows(replica) {
  const rows = [
    ["State", replica.retiring ? "draining" : "running"],
    ["Ongoing", `${replica.ongoing} of ${replica.maxOngoing < 0 ? "any" : replica.maxOngoing}`],
  ];
  for (const loader of replica.loaders.values()) {
    const name = replica.loaders.size > 1 ? `${loader.name}: ` : "";
    rows.push([`${name}Models`, budget(loader.total, loader.modelsMax)]);
    rows.push([`${name}Bytes`, budget(loader.sizeBytes, loader.bytesMax, bytes)]);
    rows.push([`${name}Loads`, `at most ${loader.loadsMax < 0 ? "any" : loader.loadsMax} at a time`]);
  }
  return rows;
}

/** The short form. It takes no part in what the pointer hits, and is placed where it fits. */
export class Tip {
  #subject = null;

  constructor(now) {
    this.now = now;
    this.element = byId("tip");
    this.title = make("strong", { class: "tip-title" });
    this.where = make("span", { class: "quiet" });
    this.rows = make("dl", { class: "rows" });
    this.element.append(this.title, this.where, this.rows);
  }

  show(subject) {
    if (this.#subject && this.#subject.element !== subject?.element) this.#subject.element.removeAttribute("aria-describedby");
    this.#subject = subject;
    this.element.hidden = !subject;
    if (!subject) return;
    this.refresh();
    subject.element.setAttribute("aria-describedby", "tip");
    const at = subject.element.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - width / 2, document.documentElement.clientWidth - width - 8));
    const below = at.bottom + 8 + height < innerHeight;
    this.element.style.transform = `translate(${Math.round(left)}px, ${Math.round(below ? at.bottom + 8 : Math.max(8, at.top - 8 - height))}px)`;
  }

  /** Its numbers as they are now; gone with what it is about. */
  refresh() {
    if (!this.#subject) return;
    const { element, replica } = this.#subject;
    const stop = element.closest(".card")?.card?.at(element);
    if (!stop || !element.isConnected) {
      this.show(null);
      return;
    }
    setText(this.title, stop.model ? stop.model.id : replica.id);
    setText(this.where, stop.model ? replica.id : [replica.application, replica.deployment, replica.machine].filter(Boolean).join(" · "));
    showRows(this.rows, stop.model ? detailsOf(stop.model, this.now()) : replicaRows(replica));
  }
}

/** The chosen model or replica. */
export class Inspector {
  target = null; // {kind, replicaId, application, deployment, loader, modelId}

  constructor(fleet, now, onChange, onDecisions) {
    this.fleet = fleet;
    this.now = now;
    this.onChange = onChange;
    this.onDecisions = onDecisions;
    this.buttons = {};
    const button = (name, text, act, look = "") => {
      this.buttons[name] = make("button", { type: "button", class: look, text, click: act });
      byId("inspector-actions").append(this.buttons[name]);
    };
    button("pin", "Pin", () => this.togglePin());
    button("load", "Load", () => steer("load", this.target));
    button("prefetch", "Prefetch", () => steer("prefetch", this.target));
    button("unload", "Unload…", () => this.unload());
    button("drain", "Drain…", () => this.drain(), "danger");
    button("decisions", "Decisions", () => this.onDecisions(this.target.modelId));
    byId("inspector-close").addEventListener("click", () => this.choose(null));
  }

  choose(subject) {
    const { replica, loader = "", model = null } = subject ?? {};
    this.target = subject && {
      kind: model || subject.modelId ? "model" : "replica",
      replicaId: replica?.id ?? "",
      application: subject.application ?? replica?.application ?? "",
      deployment: subject.deployment ?? replica?.deployment ?? "",
      loader,
      modelId: model?.id ?? subject.modelId ?? "",
    };
    this.refresh();
    this.onChange();
  }

  isSelected(replica, loader, model) {
    const target = this.target;
    if (!target || target.replicaId !== replica.id) return false;
    return model ? target.modelId === model.id && target.loader === loader.name : !loader && target.kind === "replica";
  }

  get #holders() {
    return this.fleet.holders(this.target.application, this.target.deployment, this.target.modelId);
  }

  togglePin() {
    const isPinned = this.#holders.some(([, , model]) => model.pinned);
    return steer(isPinned ? "unpin" : "pin", this.target);
  }

  unload() {
    return unload(this.target, this.#holders);
  }

  drain() {
    const replica = this.fleet.replicas.get(this.target.replicaId);
    return replica && drain(replica);
  }

  refresh() {
    const { target } = this;
    byId("inspector").classList.toggle("open", Boolean(target));
    byId("inspector-close").hidden = !target;
    byId("inspector-empty").hidden = Boolean(target);
    byId("inspector-body").hidden = !target;
    if (target?.kind === "model") this.#model(target);
    else if (target) this.#replica(target);
    else setText(byId("inspector-title"), "Details");
  }

  #title(text, where) {
    setText(byId("inspector-title"), text);
    byId("inspector-title").title = text;
    setText(byId("inspector-where"), where);
  }

  #offer(names) {
    for (const [name, button] of Object.entries(this.buttons)) button.hidden = !names.includes(name);
  }

  #model(target) {
    const { model } = this.fleet.find(target.replicaId, target.loader, target.modelId);
    const holders = this.#holders;
    const place = [target.application, target.deployment].filter(Boolean).join(" · ");
    this.#title(target.modelId, [place, target.replicaId].filter(Boolean).join(" · "));
    const rows = model ? detailsOf(model, this.now()) : [["State", target.replicaId ? "not on this replica" : "–"]];
    rows.push(["Held by", plural(holders.length, "replica")]);
    showRows(byId("inspector-rows"), rows);
    const isHeld = holders.some(([, , held]) => held.state === "resident");
    setText(this.buttons.pin, holders.some(([, , held]) => held.pinned) ? "Unpin" : "Pin");
    setAttribute(this.buttons.load, "disabled", isHeld ? "" : null);
    setAttribute(this.buttons.prefetch, "disabled", isHeld ? "" : null);
    setAttribute(this.buttons.unload, "disabled", holders.length ? null : "");
    this.#offer(["pin", "load", "prefetch", "unload", "decisions"]);
  }

  #replica(target) {
    const replica = this.fleet.replicas.get(target.replicaId);
    this.#title(target.replicaId, [target.application, target.deployment, replica?.machine].filter(Boolean).join(" · "));
    showRows(byId("inspector-rows"), replica ? replicaRows(replica) : [["State", "gone"]]);
    setAttribute(this.buttons.drain, "disabled", !replica || replica.retiring ? "" : null);
    this.#offer(["drain"]);
  }
}
