// What the buttons ask of the admin interface, what people confirm before, and what came of it.

import { byId, make } from "./dom.js";
import { plural } from "./format.js";

const QUICK_MS = 30_000;
const LOAD_MS = 600_000;
const TOAST_MS = 7000;
const TOASTS_MAX = 4;

/** Ask the admin interface. Answers its JSON; raises Error with its message. */
export async function ask(method, path, body = null, timeoutMs = QUICK_MS) {
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-modelplex-admin"] = "1"; // what no form of another site can send
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(timeoutMs), cache: "no-store" });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? `No answer in ${timeoutMs / 1000} s.` : "The admin interface cannot be reached.");
  }
  const told = await answer.json().catch(() => null);
  if (answer.status === 401 || answer.status === 403) throw new Error(told?.error || "The token was refused.");
  if (!answer.ok) throw new Error(told?.error || `HTTP ${answer.status}`);
  return told ?? {};
}

/** Tell a result: read aloud when nothing else is said. Failures stay until they are dismissed. */
export function toast(text, isError = false) {
  const box = byId("toasts");
  const close = make("button", { type: "button", class: "icon", "aria-label": "Dismiss", click: () => item.remove() }, make("span", { "aria-hidden": "true", text: "✕" }));
  const item = make("div", { class: isError ? "toast error" : "toast" }, make("span", { class: "toast-mark", "aria-hidden": "true", text: isError ? "!" : "✓" }), make("span", { text }), close);
  box.append(item);
  while (box.children.length > TOASTS_MAX) box.firstElementChild.remove();
  if (!isError) setTimeout(() => item.remove(), TOAST_MS);
}

/** Whether the reader wants it. */
export function confirmed(title, text, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "cancel";
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const DONE = { load: "Loaded", prefetch: "Asked for", unload: "Unloading", pin: "Pinned", unpin: "Unpinned" };

/** A verb on a model of a deployment: load, prefetch, unload, pin, unpin. */
export async function steer(verb, { application, deployment, loader, modelId }) {
  if (verb === "load") toast(`Loading ${modelId} …`);
  const body = { application, deployment };
  if (loader) body.loader = loader;
  try {
    const timeoutMs = ["load", "pin"].includes(verb) ? LOAD_MS : QUICK_MS; // to pin is to load where nobody has it
    const { replicas } = await ask("POST", `v1/models/${encodeURIComponent(modelId)}/${verb}`, body, timeoutMs);
    const where = typeof replicas === "number" ? ` on ${plural(replicas, "replica")}` : "";
    toast(`${DONE[verb]} ${modelId}${where}.`);
  } catch (error) {
    toast(`Could not ${verb} ${modelId}: ${error.message}`, true);
  }
}

export async function unload(target, holders) {
  const where = holders.length ? `${plural(holders.length, "replica")} ${holders.length === 1 ? "holds" : "hold"} it.` : "No replica holds it now.";
  const used = holders.some(([, , model]) => model.leases > 0) ? " Requests that use it end first." : "";
  const text = `${where}${used} The next request for it loads it again.`;
  if (await confirmed(`Unload ${target.modelId}?`, text, "Unload")) await steer("unload", target);
}

export async function drain(replica) {
  const models = replica.sum((loader) => loader.total);
  const text =
    "Another replica is started in its place. As soon as that runs, this one gets no new requests: " +
    `its ${plural(replica.ongoing, "ongoing request")} may end, its ${plural(models, "model")} are unloaded, and its process ends.`;
  if (!(await confirmed(`Drain ${replica.id}?`, text, "Drain"))) return;
  try {
    await ask("POST", `v1/replicas/${encodeURIComponent(replica.id)}/drain`);
    toast(`Draining ${replica.id}.`);
  } catch (error) {
    toast(`Could not drain ${replica.id}: ${error.message}`, true);
  }
}

/** The dialog that loads any model by its id. */
export function loadDialog(fleet) {
  const dialog = byId("load");
  byId("load-form").addEventListener("submit", ({ submitter }) => {
    const verb = submitter?.value;
    if (verb !== "load" && verb !== "prefetch") return;
    const [application, deployment] = JSON.parse(byId("load-where").value || '["",""]');
    steer(verb, { application, deployment, modelId: byId("load-id").value.trim() });
  });
  return (modelId = "") => {
    byId("load-where").replaceChildren(
      ...fleet.deployments().map((names) => make("option", { value: JSON.stringify(names), text: names.filter(Boolean).join(" · ") })),
    );
    byId("load-id").value = modelId;
    dialog.showModal();
    byId("load-id").focus();
  };
}
