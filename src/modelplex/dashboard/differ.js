// What of a state is other than in the one before. It runs in the worker, so that the page hears of changes only.

// Ages are told anew each second; the moment that they count from is a change only if it has moved by more than this.
const CLOCK_SLACK_S = 1.5;

const number = (value, otherwise = 0) => (typeof value === "number" && Number.isFinite(value) ? value : otherwise);
const text = (value) => (typeof value === "string" ? value : value === undefined || value === null ? "" : String(value));

function headOf(replica) {
  return {
    replica: text(replica.replica),
    application: text(replica.application),
    deployment: text(replica.deployment),
    machine: text(replica.machine),
    maxOngoing: number(replica.max_ongoing, -1),
    ongoing: number(replica.ongoing),
    retiring: Boolean(replica.retiring),
  };
}

function loaderHead(loader) {
  return {
    name: text(loader.name),
    modelsMax: number(loader.models_max, -1),
    bytesMax: number(loader.bytes_max, -1),
    loadsMax: number(loader.loads_max, -1),
    sizeBytes: number(loader.size_bytes),
    total: number(loader.total, (loader.models || []).length), // of many models, only some are told
  };
}

function modelOf(model, now) {
  return {
    id: text(model.id),
    state: text(model.state),
    sizeBytes: number(model.size_bytes),
    loadedAt: now - number(model.age_s),
    usedAt: typeof model.idle_s === "number" ? now - model.idle_s : null, // null: in use
    loadS: number(model.load_s),
    uses: number(model.uses),
    leases: number(model.leases),
    waiters: number(model.waiters),
    pinned: Boolean(model.pinned),
    aliases: (model.aliases || []).map(text),
    tenant: text(model.tenant),
  };
}

const near = (a, b) => a === b || (a !== null && b !== null && Math.abs(a - b) < CLOCK_SLACK_S);

function sameModel(a, b) {
  return (
    a.uses === b.uses &&
    a.state === b.state &&
    a.leases === b.leases &&
    a.waiters === b.waiters &&
    a.pinned === b.pinned &&
    a.sizeBytes === b.sizeBytes &&
    a.loadS === b.loadS &&
    a.tenant === b.tenant &&
    near(a.usedAt, b.usedAt) &&
    near(a.loadedAt, b.loadedAt) &&
    a.aliases.length === b.aliases.length &&
    a.aliases.every((alias, n) => alias === b.aliases[n])
  );
}

function sameHead(a, b) {
  for (const name in a) if (a[name] !== b[name]) return false;
  return true;
}

/** Remembers the last state, and says what is other in the next one. */
export class Differ {
  #replicas = new Map(); // id -> {head, loaders: Map name -> {head, models: Map id -> model}}

  /** The changes, and totals over everything. */
  changes(state) {
    const now = number(state.time);
    const totals = { replicas: 0, ongoing: 0, maxOngoing: 0, models: 0, loading: 0, inUse: 0, pinned: 0, bytes: 0, usesMax: 0, sizeMax: 0 };
    totals.bytesMax = 0;
    const changed = [];
    const before = this.#replicas;
    this.#replicas = new Map();
    for (const replica of state.replicas || []) {
      const head = headOf(replica);
      const known = before.get(head.replica);
      const next = { head, loaders: new Map() };
      this.#replicas.set(head.replica, next);
      before.delete(head.replica);
      totals.replicas += 1;
      totals.ongoing += head.ongoing;
      totals.maxOngoing += Math.max(0, head.maxOngoing);
      let differs = !known || !sameHead(known.head, head);
      const loaders = [];
      for (const loader of replica.loaders || []) {
        const change = this.#loader(loader, known?.loaders, next.loaders, now, totals);
        loaders.push(change);
        differs ||= change.head !== null || change.models.length > 0 || change.gone.length > 0;
      }
      const lost = known ? [...known.loaders.keys()].filter((name) => !next.loaders.has(name)) : [];
      if (differs || lost.length) changed.push({ head, loaders, lost });
    }
    return { changed, gone: [...before.keys()], totals };
  }

  #loader(loader, knownLoaders, nextLoaders, now, totals) {
    const head = loaderHead(loader);
    const known = knownLoaders?.get(head.name);
    const models = new Map();
    nextLoaders.set(head.name, { head, models });
    totals.bytes += head.sizeBytes;
    if (head.bytesMax < 0) totals.bytesMax = -1;
    else if (totals.bytesMax >= 0) totals.bytesMax += head.bytesMax;
    const change = { name: head.name, head: known && sameHead(known.head, head) ? null : head, models: [], gone: [] };
    for (const told of loader.models || []) {
      const model = modelOf(told, now);
      const old = known?.models.get(model.id);
      if (old && sameModel(old, model)) models.set(model.id, old);
      else {
        models.set(model.id, model);
        change.models.push(model);
      }
      if (model.state === "resident") totals.models += 1;
      if (model.state === "loading" || model.state === "waiting") totals.loading += 1;
      if (model.leases > 0) totals.inUse += 1;
      if (model.pinned) totals.pinned += 1;
      totals.usesMax = Math.max(totals.usesMax, model.uses);
      totals.sizeMax = Math.max(totals.sizeMax, model.sizeBytes);
    }
    if (known) for (const id of known.models.keys()) if (!models.has(id)) change.gone.push(id);
    return change;
  }
}
