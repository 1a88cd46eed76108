// One replica on the page: its head, and a cell for each place of its loaders. Cells are kept and changed, not rebuilt.

import { budget, bytes, plural } from "./format.js";
import { labelOf, markOf } from "./fleet.js";
import { make, setAttribute, setText } from "./dom.js";

// The sizes of style.css, in pixels, from which the heights of cards are computed before they exist.
export const PITCH = 24;
const HEAD = 49;
const SHELF = 28;
const PADDING = 12;
const BORDER = 1;

export function cellsPerRow(cardWidth) {
  return Math.max(1, Math.floor((cardWidth - 2 * (PADDING + BORDER) + 4) / PITCH));
}

export function heightOf(replica, perRow) {
  let height = HEAD + PADDING + 2 * BORDER;
  for (const loader of replica.loaders.values()) height += SHELF + Math.max(1, Math.ceil(loader.slotsMost / perRow)) * PITCH;
  return height;
}

function bar(kind) {
  const fill = make("i", {});
  const text = make("span", { class: "bar-text" });
  return { element: make("span", { class: `bar ${kind}` }, make("span", { class: "track" }, fill), text), fill, text };
}

function setBar(parts, taken, max, text) {
  const share = max > 0 ? Math.min(1, taken / max) : 0;
  const width = `${Math.round(share * 100)}%`;
  if (parts.width !== width) parts.fill.style.width = parts.width = width;
  parts.element.classList.toggle("unbounded", max < 0);
  setText(parts.text, text);
}

class Shelf {
  #cells = [];

  constructor() {
    this.name = make("span", { class: "loader-name" });
    this.models = bar("models");
    this.bytes = bar("bytes");
    this.more = make("span", { class: "more" });
    this.budgets = make("div", { class: "budgets", "aria-hidden": "true" }, this.name, this.models.element, this.bytes.element, this.more);
    this.places = make("div", { class: "cells", role: "presentation" });
    this.element = make("div", { class: "shelf", role: "presentation" }, this.budgets, this.places);
  }

  /** Show a loader; answers how many cells were touched. */
  update(loader, hasName, view) {
    this.loader = loader;
    setText(this.name, hasName ? loader.name : "");
    this.name.hidden = !hasName;
    setBar(this.models, loader.total, loader.modelsMax, budget(loader.total, loader.modelsMax));
    setBar(this.bytes, loader.sizeBytes, loader.bytesMax, loader.bytesMax < 0 ? (loader.sizeBytes ? bytes(loader.sizeBytes) : "") : budget(loader.sizeBytes, loader.bytesMax, bytes));
    const hidden = Math.max(0, loader.total - loader.slotsMost);
    setText(this.more, hidden ? `+${hidden}` : "");
    return this.#show(loader.cells(view.isMatch), loader.slotsMost, view);
  }

  #show(models, places, view) {
    let touched = 0;
    while (this.#cells.length < places) {
      const element = make("div", { class: "cell", role: "gridcell", tabindex: "-1", "aria-hidden": "true" });
      this.#cells.push({ element, look: "", mark: "", label: "", model: null });
      this.places.append(element);
    }
    for (let n = 0; n < this.#cells.length; n += 1) {
      const cell = this.#cells[n];
      cell.model = models[n] ?? null;
      if (change(cell, n < places ? lookOf(cell.model, view) : "cell absent", view)) touched += 1;
    }
    return touched;
  }

  *cells() {
    for (const cell of this.#cells) if (cell.model) yield cell;
  }
}

function lookOf(model, view) {
  if (!model) return "cell empty";
  let look = `cell ${model.state}`;
  if (model.state === "resident") look += ` level-${view.level(model)}`;
  if (model.leases > 0) look += " used";
  if (model.pinned) look += " pinned";
  if (!view.isMatch(model)) look += " other";
  if (view.isSelected(model)) look += " selected";
  return look;
}

/** Write what is other. A cell costs nothing while it stays as it is. */
function change(cell, look, view) {
  const { element, model } = cell;
  const mark = model ? markOf(model) : "";
  const label = model ? labelOf(model) : "";
  if (look === cell.look && mark === cell.mark && label === cell.label) return false;
  if (look !== cell.look) {
    element.className = cell.look = look;
    setAttribute(element, "aria-selected", model ? String(view.isSelected(model)) : null);
  }
  if (mark !== cell.mark) element.textContent = cell.mark = mark;
  if (label !== cell.label) {
    cell.label = label;
    setAttribute(element, "aria-label", label || null);
    setAttribute(element, "aria-hidden", label ? null : "true");
  }
  return true;
}

export class Card {
  #shelves = [];
  replica = null;

  constructor() {
    this.name = make("span", { class: "card-name" });
    this.place = make("span", { class: "card-place" });
    this.ongoing = make("span", { class: "card-ongoing" });
    this.ongoingFill = make("i", {});
    const meter = make("span", { class: "meter" }, this.ongoingFill);
    this.head = make(
      "div",
      { class: "card-head", role: "rowheader", tabindex: "-1" },
      make("span", { class: "card-line" }, this.name, make("span", { class: "card-load" }, meter, this.ongoing)),
      this.place,
    );
    this.element = make("div", { class: "card", role: "row" }, this.head);
    this.element.card = this;
  }

  /** Show a replica as it is now. Answers how many cells were touched. */
  update(replica, view) {
    this.replica = replica;
    this.#head(replica, view);
    const several = replica.loaders.size > 1;
    let touched = 0;
    let n = 0;
    for (const loader of replica.loaders.values()) {
      if (n === this.#shelves.length) {
        this.#shelves.push(new Shelf());
        this.element.append(this.#shelves[n].element);
      }
      const shelf = this.#shelves[n];
      shelf.element.hidden = false;
      touched += shelf.update(loader, several, { ...view, isMatch: (model) => view.shows(replica, model), isSelected: (model) => view.isSelected(replica, loader, model) });
      n += 1;
    }
    for (; n < this.#shelves.length; n += 1) this.#shelves[n].element.hidden = true;
    return touched;
  }

  #head(replica, view) {
    const { id, application, deployment, machine, ongoing, maxOngoing, retiring } = replica;
    setText(this.name, id);
    this.name.title = id;
    setText(this.place, [retiring ? "draining" : "", application, deployment, machine].filter(Boolean).join(" · "));
    const max = maxOngoing < 0 ? "∞" : maxOngoing;
    setText(this.ongoing, `${ongoing} / ${max}`);
    const width = `${maxOngoing > 0 ? Math.min(100, Math.round((100 * ongoing) / maxOngoing)) : 0}%`;
    if (this.ongoingWidth !== width) this.ongoingFill.style.width = this.ongoingWidth = width;
    const look = `card${retiring ? " retiring" : ""}${ongoing >= maxOngoing && maxOngoing > 0 ? " full" : ""}`;
    const selected = view.isSelected(replica, null, null);
    this.element.className = selected ? `${look} selected` : look;
    const models = replica.sum((loader) => loader.total);
    setAttribute(
      this.head,
      "aria-label",
      `Replica ${id}${retiring ? ", draining" : ""}: ${plural(models, "model")}, ${ongoing} of ${max} requests ongoing`,
    );
    setAttribute(this.head, "aria-selected", String(selected));
  }

  /** What the keyboard can be on, in order: the head, then the models. */
  stops() {
    const stops = [{ element: this.head, loader: "", model: null }];
    for (const shelf of this.#shelves) {
      if (shelf.element.hidden) continue;
      for (const cell of shelf.cells()) stops.push({ element: cell.element, loader: shelf.loader.name, model: cell.model });
    }
    return stops;
  }

  /** The place of an element of this card: {loader, model}; the model is null for the head. */
  at(element) {
    return this.stops().find((stop) => stop.element === element) ?? null;
  }
}
