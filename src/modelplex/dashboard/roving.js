// The keyboard and the pointer in the grid of replicas: one stop for Tab, and arrows from there.

export class Roving {
  #tabbable = null; // the one element with tabindex 0
  #current = null; // where the keyboard was last: {replica, loader, modelId}

  constructor(grid, element, handlers) {
    this.grid = grid;
    this.element = element;
    this.handlers = handlers;
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("focusin", ({ target }) => this.#focused(target));
    element.addEventListener("focusout", () => handlers.onPoint(null));
    element.addEventListener("click", ({ target }) => this.#act(target, handlers.onSelect));
    element.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "touch") this.#act(event.target, handlers.onPoint, () => handlers.onPoint(null));
    });
    element.addEventListener("pointerleave", () => handlers.onPoint(null));
  }

  /** The replica whose card has the focus. */
  get focusedReplica() {
    return document.activeElement?.closest?.(".card")?.card?.replica?.id ?? null;
  }

  #stopOf(target) {
    const element = target.closest?.(".cell, .card-head");
    const card = element?.closest(".card")?.card;
    const stop = card?.at(element);
    return stop ? { card, stop } : null;
  }

  #act(target, handler, otherwise = () => {}) {
    const found = this.#stopOf(target);
    if (found) handler({ element: found.stop.element, replica: found.card.replica, loader: found.stop.loader, model: found.stop.model });
    else otherwise();
  }

  #focused(target) {
    const found = this.#stopOf(target);
    if (!found) return;
    this.#current = { replica: found.card.replica.id, loader: found.stop.loader, modelId: found.stop.model?.id ?? null };
    this.#make(found.stop.element);
    if (found.stop.element.matches(":focus-visible")) this.#act(target, this.handlers.onPoint);
  }

  #make(element) {
    if (this.#tabbable === element) return;
    this.#tabbable?.setAttribute("tabindex", "-1");
    element?.setAttribute("tabindex", "0");
    this.#tabbable = element;
  }

  /** After cards have changed: keep one stop for Tab, where the keyboard was last if that is there. */
  settle() {
    const held = document.activeElement;
    if (held && held === this.#tabbable) {
      if (!this.#stopOf(held)) this.#fallBack(held); // its model has gone: the head of its card has the focus now
      return;
    }
    const card = this.#current && this.grid.cardOf(this.#current.replica);
    const stops = card?.stops();
    const same = stops?.find((stop) => (stop.model?.id ?? null) === this.#current.modelId && stop.loader === this.#current.loader);
    const stop = same ?? stops?.[0] ?? this.grid.firstVisible()?.stops()[0];
    this.#make(stop?.element ?? null);
  }

  #fallBack(held) {
    const head = held.closest(".card")?.card?.head;
    if (head) head.focus({ preventScroll: true });
  }

  /** Have the focus in the grid. */
  enter() {
    this.settle();
    this.#tabbable?.focus();
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const found = this.#stopOf(event.target);
    if (!found) return;
    const { card, stop } = found;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#act(event.target, this.handlers.onSelect);
      return;
    }
    if (this.#move(event.key, card, stop)) event.preventDefault();
    else this.handlers.onKey(event, { replica: card.replica, loader: stop.loader, model: stop.model });
  }

  #move(key, card, stop) {
    const stops = card.stops();
    const at = stops.findIndex((other) => other.element === stop.element);
    const { perRow, columns, places } = this.grid;
    const n = places.get(card.replica.id);
    const last = this.grid.replicas.length - 1;
    switch (key) {
      case "ArrowRight":
        return at < stops.length - 1 ? this.#focus(stops[at + 1]) : this.#card(n + 1, 0);
      case "ArrowLeft":
        return at > 0 ? this.#focus(stops[at - 1]) : this.#card(n - 1, -1);
      case "ArrowDown":
        if (at === 0 && stops.length > 1) return this.#focus(stops[1]);
        return at > 0 && at + perRow < stops.length ? this.#focus(stops[at + perRow]) : this.#card(n + columns, 0);
      case "ArrowUp":
        if (at === 0) return this.#card(n - columns, -1);
        return this.#focus(stops[Math.max(0, at - perRow)]);
      case "PageDown":
        return this.#card(Math.min(n + columns, last), 0);
      case "PageUp":
        return this.#card(Math.max(n - columns, 0), 0);
      case "Home":
        return this.#card(0, 0);
      case "End":
        return this.#card(last, 0);
    }
    return false;
  }

  #focus(stop) {
    stop.element.focus();
    return true;
  }

  #card(n, at) {
    if (n < 0 || n >= this.grid.replicas.length) return true;
    const stop = this.grid.reveal(n)?.stops().at(at);
    return stop ? this.#focus(stop) : true;
  }
}
