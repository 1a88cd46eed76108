// Runs before the page is drawn, so that it never flashes in the other scheme. The choice is kept; without one, the system's.
(() => {
  const KEY = "modelplex-theme";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a browser that keeps nothing
    }
  };
  const show = () => {
    const choice = kept();
    root.dataset.theme = choice === "dark" || choice === "light" ? choice : dark.matches ? "dark" : "light";
    root.dispatchEvent(new Event("theme"));
  };
  globalThis.modelplexTheme = {
    toggle() {
      const next = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // it holds for this visit
      }
      show();
      if (root.dataset.theme !== next) {
        root.dataset.theme = next;
        root.dispatchEvent(new Event("theme"));
      }
    },
  };
  dark.addEventListener("change", show);
  show();
})();
