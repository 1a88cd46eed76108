// Requests per second and hit ratio, from counters that only grow. Pure.

export const KINDS = ["warm", "joined", "cold", "none"];
export const SECONDS_MAX = 600;

// Two states that are further apart have a gap between them: nobody knows what was in it.
const GAP_S = 3.5;
const RATIO_OVER_S = 10;

export class History {
  points = []; // {at, warm, joined, cold, none, errors: per second; queued; ratio: 0…1 or null; gap: nothing known before it}
  #last = null;
  #began = null;

  add(time, traffic) {
    const last = this.#last;
    const told = { at: time, queued: traffic.queued || 0 };
    for (const kind of [...KINDS, "errors"]) told[kind] = traffic[kind] || 0;
    this.#last = told;
    this.#began ??= time;
    if (!last || time <= last.at) return;
    const elapsed = time - last.at;
    const point = { at: time, queued: told.queued, gap: elapsed > GAP_S, elapsed };
    // Counters of a process that has gone leave the sum: what is less than before was not less than nothing.
    for (const kind of [...KINDS, "errors"]) point[kind] = Math.max(0, told[kind] - last[kind]) / elapsed;
    if (point.gap) for (const kind of [...KINDS, "errors"]) point[kind] = 0;
    this.points.push(point);
    point.ratio = this.ratio(RATIO_OVER_S);
    while (this.points.length && this.points[0].at < time - SECONDS_MAX) this.points.shift();
  }

  get now() {
    return this.#last?.at ?? null;
  }

  /** Of the requests for a model in the last seconds, those that found it; null without any. */
  ratio(seconds) {
    let warm = 0;
    let all = 0;
    this.#recent(seconds, (point) => {
      warm += point.warm * point.elapsed;
      all += (point.warm + point.cold + point.joined) * point.elapsed;
    });
    return all > 0 ? warm / all : null;
  }

  /** Requests per second over the last seconds, of one kind or of all. */
  rate(seconds, kinds = KINDS) {
    let requests = 0;
    let elapsed = 0;
    this.#recent(seconds, (point) => {
      for (const kind of kinds) requests += point[kind] * point.elapsed;
      elapsed += point.elapsed;
    });
    return elapsed > 0 ? requests / elapsed : 0;
  }

  #recent(seconds, visit) {
    for (let n = this.points.length - 1; n >= 0; n -= 1) {
      const point = this.points[n];
      if (point.gap || point.at <= this.now - seconds) return;
      visit(point);
    }
  }
}
