// The page: what the worker hears goes to its parts, and what people do goes to the admin interface.

import { loadDialog, toast } from "./actions.js";
import { Chart } from "./chart.js";
import { byId, make, reconcile, setAttribute, setText } from "./dom.js";
import { Fleet, SHADES } from "./fleet.js";
import { age, bytes, count, percent, plural, rate } from "./format.js";
import { Grid } from "./grid.js";
import { History, KINDS } from "./history.js";
import { Inspector, Tip } from "./inspector.js";
import { bindKeys } from "./keys.js";
import { Decisions, showLoads } from "./lists.js";

const STALE_S = 4; // an event comes each second
const RESORT_MS = 3000; // cards do not change places more often

const fleet = new Fleet();
const history = new History();
const chart = new Chart(history);

let latest = null;
let heardAt = 0; // by this page's clock
let connection = "connecting";
let sorted = 0;
let drawing = 0; // a frame that is asked for

/** The system's time: its clock may be other than this machine's. */
const now = () => (latest ? latest.time + (performance.now() - heardAt) / 1000 : Date.now() / 1000);

const inspector = new Inspector(fleet, now, () => grid.changedAll(), (modelId) => {
  decisions.filter("model_id", modelId);
  byId("decisions-title").scrollIntoView({ block: "nearest" });
});
const tip = new Tip(now);
const decisions = new Decisions(chooseModel);
const openLoad = loadDialog(fleet);

const view = {
  level: (model) => SHADES[byId("shade").value](model, fleet.totals, latest.time),
  shows: (replica, model) => fleet.shows(replica, model),
  isSelected: (replica, loader, model) => inspector.isSelected(replica, loader, model),
};
const grid = new Grid(byId("replicas"), view, {
  onSelect: (subject) => {
    tip.show(null);
    inspector.choose(subject);
  },
  onPoint: (subject) => tip.show(subject),
  onKey: (event, subject) => keys.inGrid(event, subject),
});
const keys = bindKeys({ grid, inspector, openLoad });

/** A model that is named elsewhere on the page: where it is, if it is anywhere. */
function chooseModel(modelId) {
  const [first] = fleet.holders("", "", modelId);
  if (first) {
    const [replica, loader, model] = first;
    inspector.choose({ replica, loader: loader.name, model });
    return;
  }
  const all = fleet.deployments();
  if (all.length === 1) inspector.choose({ application: all[0][0], deployment: all[0][1], modelId });
  else openLoad(modelId); // where it would be loaded is to be said
}

// What is heard

const worker = new Worker("worker.js", { type: "module" });
worker.addEventListener("message", ({ data }) => {
  if (data.kind === "state") hear(data);
  else {
    connection = data.state;
    showConnection();
  }
});
worker.addEventListener("error", () => {
  connection = "failed";
  showConnection();
});

function hear(state) {
  latest = state;
  heardAt = performance.now();
  const { changed, moved } = fleet.apply(state);
  history.add(state.time, state.traffic);
  if (moved || (wantsResort() && performance.now() - sorted > RESORT_MS)) order();
  grid.changed(changed);
  showSummary();
  showConnection();
  drawing ||= requestAnimationFrame(showPictures);
}

/** The rest, in the frames that follow, each of which does a part. Pages that nobody sees have no frames. */
function showPictures() {
  chart.draw();
  showLegend();
  showLoads(latest.slowestLoads, latest.time, chooseModel);
  requestAnimationFrame(() => {
    drawing = 0;
    decisions.hear(latest.decisions);
    inspector.refresh();
    tip.refresh();
    if (["idle", "age"].includes(byId("shade").value)) grid.changedAll(); // time alone changes them
  });
}

/** Whether the order may be other by now. Cards stay where they are under a pointer or a focus. */
function wantsResort() {
  const isHeld = byId("replicas").matches(":hover, :focus-within");
  return !isHeld && (byId("sort").value !== "name" || fleet.isFiltered);
}

function order() {
  sorted = performance.now();
  const shown = fleet.shown(byId("sort").value);
  const same = shown.length === grid.replicas.length && shown.every((replica, n) => replica === grid.replicas[n]);
  if (!same) grid.setReplicas(shown, fleet.replicas.size);
  const matching = shown.reduce((sum, replica) => sum + (replica.matches ?? 0), 0);
  const of = shown.length === fleet.replicas.size ? `${shown.length}` : `${shown.length} of ${fleet.replicas.size}`;
  setText(byId("shown"), fleet.isFiltered ? `${of} shown, ${plural(matching, "model matches", "models match")}` : of);
  const empty = byId("replicas-empty");
  empty.hidden = shown.length > 0;
  setText(empty, fleet.replicas.size ? "Nothing matches the filter." : "No replica runs.");
}

// The summary

const MARKS = { RUNNING: "●", DEPLOYING: "◔", DELETING: "◌", NOT_STARTED: "○" };

function showSummary() {
  const { status, traffic } = latest;
  const { totals } = fleet;
  setText(byId("address"), status.address || location.host);
  const applications = Object.entries(status.applications ?? {});
  reconcile(
    byId("applications"),
    applications.length ? applications : [["no application", { status: "" }]],
    ([name]) => name,
    ([name]) => make("li", {}, make("i", { class: "mark", "aria-hidden": "true" }), make("b", { text: name, title: name }), make("span", { class: "state" })),
    (element, [, { status: state, message }]) => {
      setAttribute(element, "class", `app ${String(state).toLowerCase()}`);
      setText(element.children[0], MARKS[state] ?? (state ? "▲" : ""));
      setText(element.children[2], String(state).toLowerCase().replaceAll("_", " "));
      setAttribute(element, "title", message || null);
    },
  );
  setText(byId("rate"), rate(history.rate(3)));
  setText(byId("ratio"), percent(history.ratio(60)));
  setText(byId("queued"), count(traffic.queued ?? 0));
  setText(byId("queued-note"), `waiting, ${totals.ongoing} running`);
  setText(byId("models"), count(totals.models));
  setText(byId("models-note"), [totals.loading ? `resident, ${totals.loading} loading` : "resident", totals.pinned ? `${totals.pinned} pinned` : ""].filter(Boolean).join(", "));
  setText(byId("memory"), totals.bytes || totals.bytesMax > 0 ? bytes(totals.bytes) : "–");
  setText(byId("memory-note"), totals.bytesMax < 0 ? "no budget in bytes" : `of ${bytes(totals.bytesMax)}`);
}

function showLegend() {
  for (const kind of KINDS) setText(byId(`legend-${kind}`), rate(history.rate(3, [kind])));
  setText(byId("legend-ratio"), percent(history.ratio(10)));
}

// The connection

const TEXTS = { connecting: "Connecting", live: "Live", lost: "Reconnecting", refused: "Token refused", failed: "Failed" };

function showConnection() {
  const silence = latest ? (performance.now() - heardAt) / 1000 : 0;
  const isOld = latest !== null && silence > STALE_S;
  const state = connection === "live" && isOld ? "stale" : connection;
  setAttribute(document.body, "data-connection", state);
  document.body.classList.toggle("old", isOld || state === "refused");
  setText(byId("connection-text"), state === "stale" ? "No news" : TEXTS[state]);
  const since = latest ? ` What is shown is ${age(silence)} old.` : "";
  const notices = {
    refused: "The admin interface does not know this browser: open the page with its token once, as /?token=…",
    failed: "This browser cannot run the page's worker.",
    stale: `Nothing has been heard.${since}`,
    lost: `The connection to the admin interface is lost; it is tried again.${since}`,
    connecting: latest ? `Reconnecting.${since}` : "",
  };
  const notice = isOld || state === "refused" || state === "failed" || (state === "lost" && !latest) ? (notices[state] ?? "") : "";
  byId("notice").hidden = !notice;
  setText(byId("notice-text"), notice);
}
setInterval(showConnection, 1000);
byId("retry").addEventListener("click", () => worker.postMessage({ kind: "retry" }));

// Filters and choices

let typing = 0;
function applyFilter() {
  fleet.filter = {
    words: byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean),
    state: byId("filter-state").value,
  };
  order();
  grid.changedAll();
}
byId("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(applyFilter, 80);
});
byId("filter-state").addEventListener("change", applyFilter);
byId("sort").addEventListener("change", () => order());
const SHADE_TEXTS = { hits: "fewer to more hits", idle: "used long ago to just now", age: "loaded long ago to just now", size: "small to large" };
byId("shade").addEventListener("change", ({ target }) => {
  setText(byId("shade-text"), SHADE_TEXTS[target.value]);
  grid.changedAll();
});
byId("load-open").addEventListener("click", () => openLoad());

const themeButton = byId("theme");
const showTheme = () => setAttribute(themeButton, "aria-pressed", String(document.documentElement.dataset.theme === "dark"));
themeButton.addEventListener("click", () => globalThis.modelplexTheme.toggle());
document.documentElement.addEventListener("theme", showTheme);
showTheme();

addEventListener("unhandledrejection", ({ reason }) => toast(`The page has a fault: ${reason?.message ?? reason}`, true));

worker.postMessage({ kind: "follow", url: new URL("v1/events", location.href).href });
