// The replicas: only the cards near the window exist, and changes are drawn over several frames.

import { Card, cellsPerRow, heightOf } from "./card.js";
import { setAttribute } from "./dom.js";
import { Roving } from "./roving.js";

const GAP = 12;
const CARD_WIDTH_MIN = 296;
const MARGIN_PX = 320; // cards so far outside of the window exist already
const ALL_MAX = 24; // so few cards exist always
const FRAME_BUDGET_MS = 8; // what drawing may take of one frame; the rest of the cards follow in the next
const AHEAD_MAX = 1; // cards that begin to exist in one frame before they are in the window: the browser lays them out, too
const SPARE_CARDS_MAX = 40;

/** Rows of cards: where each begins, and how high it is. No more columns than there are replicas, shown or not. */
export function layOut(replicas, width, total) {
  const columns = Math.max(1, Math.min(total, Math.floor((width + GAP) / (CARD_WIDTH_MIN + GAP))));
  const cardWidth = Math.floor((width - (columns - 1) * GAP) / columns);
  const perRow = cellsPerRow(cardWidth);
  const rows = [];
  let top = 0;
  for (let first = 0; first < replicas.length; first += columns) {
    const some = replicas.slice(first, first + columns);
    const height = Math.max(...some.map((replica) => heightOf(replica, perRow)));
    rows.push({ first, top, height });
    top += height + GAP;
  }
  return { columns, cardWidth, perRow, rows, height: Math.max(0, top - GAP) };
}

function rowAt(rows, y) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].top + rows[middle].height < y) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class Grid {
  #cards = new Map(); // replica id -> Card, those that exist
  #spare = [];
  #dirty = new Set(); // ids of replicas whose cards are not as they should be
  #layout = layOut([], 0, 0);
  #total = 0;
  #frame = 0;
  #placesStale = false;
  replicas = [];
  places = new Map(); // replica id -> its index

  /** `view`: how cells look; `onSelect(replica, loader, model)`, `onPoint(element, …)`, `onKey(event, …)`. */
  constructor(element, view, handlers) {
    this.element = element;
    this.view = view;
    this.handlers = handlers;
    this.roving = new Roving(this, element, handlers);
    addEventListener("scroll", () => this.#ask(true), { passive: true });
    new ResizeObserver(() => this.relayout()).observe(element);
  }

  /** Show these replicas, in this order, of so many. */
  setReplicas(replicas, total) {
    this.#total = total;
    this.replicas = replicas;
    this.places = new Map(replicas.map((replica, n) => [replica.id, n]));
    setAttribute(this.element, "aria-rowcount", replicas.length);
    this.relayout();
  }

  relayout() {
    this.#layout = layOut(this.replicas, this.element.clientWidth, this.#total);
    this.element.style.height = `${this.#layout.height}px`;
    this.#ask(true);
  }

  get columns() {
    return this.#layout.columns;
  }

  get perRow() {
    return this.#layout.perRow;
  }

  /** These replicas are other than before. Those without a card cost nothing. */
  changed(replicas) {
    let grown = false;
    for (const replica of replicas) {
      if (this.#cards.has(replica.id)) this.#dirty.add(replica.id);
      const height = heightOf(replica, this.#layout.perRow);
      grown ||= replica.height !== height;
      replica.height = height;
    }
    if (grown) this.relayout();
    else this.#ask(false);
  }

  /** Each card may look other: time has passed, or what is selected. */
  changedAll() {
    for (const id of this.#cards.keys()) this.#dirty.add(id);
    this.#ask(false);
  }

  #ask(places) {
    this.#placesStale ||= places;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const until = performance.now() + FRAME_BUDGET_MS;
    if (this.#placesStale) this.#place(until);
    for (const id of this.#dirty) {
      this.#dirty.delete(id);
      const card = this.#cards.get(id);
      if (card) card.update(card.replica, this.view);
      if (performance.now() > until) break;
    }
    this.roving.settle();
    if (this.#dirty.size) this.#ask(false);
  }

  /** Have the cards exist that are near the window, and no others, besides the one that has the focus. */
  #place(until = Infinity) {
    this.#placesStale = false;
    const { rows, columns, cardWidth } = this.#layout;
    const top = -this.element.getBoundingClientRect().top;
    const wanted = [];
    const margin = this.replicas.length <= ALL_MAX ? this.#layout.height + innerHeight : MARGIN_PX;
    const later = []; // outside of the window: these can wait for a frame
    for (let n = rowAt(rows, top - margin); n < rows.length && rows[n].top < top + innerHeight + margin; n += 1) {
      const isSeen = rows[n].top + rows[n].height > top && rows[n].top < top + innerHeight;
      const { first } = rows[n];
      for (let k = first; k < Math.min(first + columns, this.replicas.length); k += 1) (isSeen ? wanted : later).push(k);
    }
    const focused = this.places.get(this.roving.focusedReplica);
    if (focused !== undefined) wanted.push(focused);
    const kept = new Set([...wanted, ...later].map((n) => this.replicas[n].id));
    for (const [id, card] of this.#cards) if (!kept.has(id)) this.#retire(id, card);
    this.element.style.setProperty("--card-width", `${cardWidth}px`);
    for (const n of new Set(wanted)) this.#put(n);
    let ahead = 0;
    for (const n of later) {
      const exists = this.#cards.has(this.replicas[n].id);
      if (exists || (ahead < AHEAD_MAX && performance.now() < until)) this.#put(n);
      else this.#ask(true);
      ahead += exists ? 0 : 1;
    }
    this.#arrange();
  }

  /** Who reads the page by its elements reads them in order. */
  #arrange() {
    const cards = [...this.#cards.values()].sort((a, b) => this.places.get(b.replica.id) - this.places.get(a.replica.id));
    let next = null;
    for (const { element } of cards) {
      const isHeld = element.isConnected && element.contains(document.activeElement); // a move would lose the focus
      if (!isHeld && (!element.isConnected || element.nextElementSibling !== next)) this.element.insertBefore(element, next);
      next = element;
    }
  }

  #retire(id, card) {
    this.#cards.delete(id);
    this.#dirty.delete(id);
    card.element.remove();
    if (this.#spare.length < SPARE_CARDS_MAX) this.#spare.push(card);
  }

  #put(n) {
    const replica = this.replicas[n];
    const row = this.#layout.rows[Math.floor(n / this.#layout.columns)];
    let card = this.#cards.get(replica.id);
    if (!card) {
      card = this.#spare.pop() ?? new Card();
      this.#cards.set(replica.id, card);
      card.update(replica, this.view);
    } else if (card.replica !== replica) {
      card.replica = replica; // it went and came again
      this.#dirty.add(replica.id);
    }
    const x = (n % this.#layout.columns) * (this.#layout.cardWidth + GAP);
    const at = `translate(${x}px, ${row.top}px)`;
    if (card.transform !== at) card.element.style.transform = card.transform = at;
    if (card.height !== row.height) card.element.style.height = `${(card.height = row.height)}px`;
    setAttribute(card.element, "aria-rowindex", n + 1);
    return card;
  }

  cardOf(replicaId) {
    return this.#cards.get(replicaId) ?? null;
  }

  /** The card of the replica at an index: it is scrolled to, and exists when this returns. */
  reveal(n) {
    const row = this.#layout.rows[Math.floor(n / this.#layout.columns)];
    const box = this.element.getBoundingClientRect();
    const above = box.top + row.top - 120;
    const below = box.top + row.top + row.height - innerHeight + 24;
    if (above < 0) scrollBy(0, above);
    else if (below > 0) scrollBy(0, Math.min(below, above));
    this.#place();
    return this.cardOf(this.replicas[n].id);
  }

  /** The first card that is in the window. */
  firstVisible() {
    const { rows } = this.#layout;
    if (!rows.length) return null;
    const n = Math.min(rowAt(rows, -this.element.getBoundingClientRect().top + 80), rows.length - 1);
    return this.cardOf(this.replicas[rows[n].first].id);
  }
}
