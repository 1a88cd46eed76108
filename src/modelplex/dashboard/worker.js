// Hears the events of the admin interface in a thread of its own: reading two megabytes each second holds no frame up.
import { Differ } from "./differ.js";
import { eventsOf } from "./event_stream.js";

const SILENCE_MAX_MS = 10_000; // an event comes each second
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

const tell = (message) => self.postMessage(message);

function hear(event, differ) {
  if (event.type !== "state") return;
  const state = JSON.parse(event.data);
  tell({
    kind: "state",
    time: state.time || 0,
    status: state.status || {},
    traffic: state.traffic || {},
    slowestLoads: state.slowest_loads || [],
    decisions: state.decisions || [],
    ...differ.changes(state),
  });
}

/** One connection, from its request to its end. Answers whether it ever told something. */
async function follow(url, differ) {
  const abort = new AbortController();
  let timer = setTimeout(() => abort.abort(), SILENCE_MAX_MS);
  let heard = false;
  try {
    const answer = await fetch(url, { headers: { accept: "text/event-stream" }, signal: abort.signal, cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) {
      tell({ kind: "connection", state: "refused" });
      return null;
    }
    if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error || `HTTP ${answer.status}`);
    for await (const event of eventsOf(answer.body)) {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENCE_MAX_MS);
      if (!heard) tell({ kind: "connection", state: "live" });
      heard = true;
      hear(event, differ);
    }
  } catch (error) {
    console.warn("The stream of events ended:", error); // it is asked for again
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
  return heard;
}

let wake = () => {};

async function run(url) {
  const differ = new Differ();
  for (let tries = 0; ; ) {
    const heard = await follow(url, differ);
    tries = heard ? 0 : Math.min(tries + 1, RETRY_MS.length - 1);
    const waitMs = RETRY_MS[tries];
    if (heard !== null) tell({ kind: "connection", state: "lost", waitMs });
    await new Promise((resolve) => {
      wake = resolve;
      if (heard !== null) setTimeout(resolve, waitMs); // who is refused asks again when told to
    });
    tell({ kind: "connection", state: "connecting" });
  }
}

self.addEventListener("message", ({ data }) => {
  if (data.kind === "follow") run(data.url);
  if (data.kind === "retry") wake();
});
