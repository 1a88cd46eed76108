// Shortcuts of the whole page.

import { byId } from "./dom.js";

const KEPT = "modelplex-shortcuts";

function areOn() {
  try {
    return localStorage.getItem(KEPT) !== "off";
  } catch {
    return true;
  }
}

const isTyping = (element) => Boolean(element?.closest?.("input, select, textarea, dialog"));

export function bindKeys({ grid, inspector, openLoad }) {
  const box = byId("shortcuts");
  box.checked = areOn();
  box.addEventListener("change", () => {
    try {
      localStorage.setItem(KEPT, box.checked ? "on" : "off");
    } catch {
      // it holds for this visit
    }
  });

  const help = () => byId("help").showModal();
  const shortcuts = {
    "?": help,
    "/": () => byId("filter").focus(),
    g: () => grid.roving.enter(),
    l: () => openLoad(),
    d: () => byId("decisions-filter").focus(),
    t: () => globalThis.modelplexTheme.toggle(),
  };
  byId("help-open").addEventListener("click", help);

  // The link that skips to the grid puts the focus on it.
  byId("replicas").addEventListener("focus", () => grid.roving.enter());

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") escape(event);
    else if (box.checked && shortcuts[event.key] && !isTyping(event.target)) {
      event.preventDefault();
      shortcuts[event.key]();
    }
  });

  function escape(event) {
    if (event.target.closest?.("dialog")) return; // it closes by itself
    if (event.target.matches?.("input[type=search]") && event.target.value) return; // the browser empties it
    if (event.target.matches?.("input, select")) event.target.blur();
    else if (inspector.target) {
      const wasInside = byId("inspector").contains(event.target);
      inspector.choose(null);
      if (wasInside) grid.roving.enter();
    }
  }

  return {
    /** A key on a model in the grid that moves nothing. */
    inGrid(event, subject) {
      if (!box.checked || !subject.model) return;
      if (event.key === "p" || event.key === "u") {
        event.preventDefault();
        inspector.choose(subject);
        if (event.key === "p") inspector.togglePin();
        else inspector.unload();
      }
    },
  };
}
