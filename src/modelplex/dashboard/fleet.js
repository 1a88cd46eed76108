// What there is: replicas, their loaders, their models, each in a slot that it keeps; and which of it a filter shows.

import { bytes, duration } from "./format.js";

// More cells than this are not shown for one loader: those that match come first, and the rest is counted.
export const CELLS_MAX = 240;

const LEVELS = 5;

class Loader {
  models = new Map();
  slots = []; // models by place; null where one was
  slotsMost = 0; // a card never becomes smaller under the reader's eyes

  constructor(name) {
    this.name = name;
  }

  apply(change) {
    if (change.head) Object.assign(this, change.head);
    for (const id of change.gone) {
      this.slots[this.slots.indexOf(this.models.get(id))] = null;
      this.models.delete(id);
    }
    for (const model of change.models) {
      const old = this.models.get(model.id);
      model.search = [model.id, ...model.aliases, model.tenant, model.state].join("\n").toLowerCase();
      this.models.set(model.id, model);
      const free = this.slots.indexOf(old ?? null);
      if (free < 0) this.slots.push(model);
      else this.slots[free] = model;
    }
    while (this.slots.length && this.slots.at(-1) === null) this.slots.pop();
    const wanted = this.modelsMax > 0 && this.modelsMax <= CELLS_MAX ? this.modelsMax : 0;
    this.slotsMost = Math.min(CELLS_MAX, Math.max(this.slotsMost, this.slots.length, wanted));
  }

  /** The models in the order of their cells, at most CELLS_MAX of them; null is an empty place. */
  cells(isMatch) {
    if (this.slots.length <= CELLS_MAX) return this.slots;
    const models = [...this.models.values()];
    return [...models.filter(isMatch), ...models.filter((model) => !isMatch(model))].slice(0, CELLS_MAX);
  }
}

class Replica {
  loaders = new Map();
  matches = null; // how many of its models the filter shows

  apply(change) {
    Object.assign(this, change.head);
    this.id = change.head.replica;
    this.search = [this.id, this.application, this.deployment, this.machine, this.retiring ? "draining" : ""]
      .join("\n")
      .toLowerCase();
    for (const name of change.lost) this.loaders.delete(name);
    for (const loader of change.loaders) {
      if (!this.loaders.has(loader.name)) this.loaders.set(loader.name, new Loader(loader.name));
      this.loaders.get(loader.name).apply(loader);
    }
  }

  sum(value) {
    let sum = 0;
    for (const loader of this.loaders.values()) sum += value(loader);
    return sum;
  }
}

export const ORDERS = {
  name: (a, b) => a.application.localeCompare(b.application) || a.deployment.localeCompare(b.deployment) || a.id.localeCompare(b.id),
  busy: (a, b) => b.ongoing / Math.max(1, b.maxOngoing) - a.ongoing / Math.max(1, a.maxOngoing) || ORDERS.name(a, b),
  models: (a, b) => b.sum((l) => l.total) - a.sum((l) => l.total) || ORDERS.name(a, b),
  bytes: (a, b) => b.sum((l) => l.sizeBytes) - a.sum((l) => l.sizeBytes) || ORDERS.name(a, b),
  hits: (a, b) => hits(b) - hits(a) || ORDERS.name(a, b),
};

function hits(replica) {
  return replica.sum((loader) => {
    let uses = 0;
    for (const model of loader.models.values()) uses += model.uses;
    return uses;
  });
}

const STATE_TESTS = {
  used: (model) => model.leases > 0,
  pinned: (model) => model.pinned,
};

export class Fleet {
  replicas = new Map();
  totals = null;
  filter = { words: [], state: "" };

  /** Take changes over. Answers the replicas that are other than before, and whether some came or went. */
  apply(update) {
    let moved = update.gone.length > 0;
    for (const id of update.gone) this.replicas.delete(id);
    const changed = [];
    for (const change of update.changed) {
      let replica = this.replicas.get(change.head.replica);
      if (!replica) {
        replica = new Replica();
        this.replicas.set(change.head.replica, replica);
        moved = true;
      }
      replica.apply(change);
      changed.push(replica);
    }
    this.totals = update.totals;
    return { changed, moved };
  }

  get isFiltered() {
    return this.filter.words.length > 0 || this.filter.state !== "";
  }

  /** Whether the filter shows a model of a replica. */
  shows(replica, model) {
    const { words, state } = this.filter;
    if (state && !(STATE_TESTS[state] ? STATE_TESTS[state](model) : model.state === state)) return false;
    return words.every((word) => model.search.includes(word) || replica.search.includes(word));
  }

  /** The replicas that the filter shows, in order. Each knows how many of its models match. */
  shown(order) {
    const all = [...this.replicas.values()];
    if (!this.isFiltered) {
      for (const replica of all) replica.matches = null;
      return all.sort(ORDERS[order]);
    }
    for (const replica of all) {
      replica.matches = 0;
      for (const loader of replica.loaders.values()) {
        for (const model of loader.models.values()) if (this.shows(replica, model)) replica.matches += 1;
      }
    }
    const itself = (replica) => !this.filter.state && this.filter.words.every((word) => replica.search.includes(word));
    return all.filter((replica) => replica.matches > 0 || itself(replica)).sort(ORDERS[order]);
  }

  find(replicaId, loaderName, modelId) {
    const replica = this.replicas.get(replicaId);
    const loader = replica?.loaders.get(loaderName);
    return { replica, loader, model: loader?.models.get(modelId) };
  }

  /** All places of a model: [replica, loader, model]. */
  holders(application, deployment, modelId) {
    const found = [];
    for (const replica of this.replicas.values()) {
      if (application && (replica.application !== application || replica.deployment !== deployment)) continue;
      for (const loader of replica.loaders.values()) {
        const model = loader.models.get(modelId);
        if (model) found.push([replica, loader, model]);
      }
    }
    return found;
  }

  /** [application, deployment] of all that has replicas. */
  deployments() {
    const found = new Map();
    for (const { application, deployment } of this.replicas.values()) {
      found.set(`${application}\n${deployment}`, [application, deployment]);
    }
    return [...found.values()];
  }
}

/** How dark a cell is, from 1 to 5. */
export const SHADES = {
  hits(model, totals) {
    return model.uses < 1 ? 1 : 1 + Math.min(LEVELS - 1, Math.ceil((LEVELS - 1) * (Math.log(model.uses + 1) / Math.log(totals.usesMax + 2))));
  },
  idle(model, totals, now) {
    const idle = model.usedAt === null ? 0 : now - model.usedAt;
    return [3600, 600, 60, 10].findIndex((limit) => idle >= limit) + 1 || LEVELS;
  },
  age(model, totals, now) {
    return [86400, 3600, 600, 60].findIndex((limit) => now - model.loadedAt >= limit) + 1 || LEVELS;
  },
  size(model, totals) {
    return model.sizeBytes < 1 ? 1 : Math.max(1, Math.ceil(LEVELS * (model.sizeBytes / Math.max(1, totals.sizeMax))));
  },
};

/** What a mark on a cell says, so that colour is not alone in it. */
export const MARKS = { waiting: "⋯", loading: "↓", settling: "≈", unloading: "×" };

export function markOf(model) {
  if (MARKS[model.state]) return MARKS[model.state];
  if (model.leases > 0) return model.leases > 9 ? "9+" : String(model.leases);
  return model.state === "resident" ? "" : "?";
}

export function labelOf(model) {
  const used = model.leases > 0 ? ", in use" : "";
  return `${model.id}, ${model.state}${used}${model.pinned ? ", pinned" : ""}`;
}

/** What is known of a model on one replica: [name, value]. */
export function detailsOf(model, now) {
  const isLoaded = model.state === "resident";
  const idle = model.leases > 0 ? "in use" : model.usedAt === null ? "–" : duration(Math.max(0, now - model.usedAt));
  return [
    ["State", model.pinned ? `${model.state}, pinned` : model.state],
    ["Size", bytes(model.sizeBytes)],
    ["Age", duration(Math.max(0, now - model.loadedAt))],
    ["Idle", idle],
    ["Hits", String(model.uses)],
    [isLoaded ? "Load time" : "Load, expected", duration(model.loadS)],
    ["Leases", String(model.leases)],
    ["Waiting", String(model.waiters)],
    ["Tenant", model.tenant || "–"],
    ["Aliases", model.aliases.join(", ") || "–"],
  ];
}
