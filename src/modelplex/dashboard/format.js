// Numbers as short text. Nothing here knows the page.

const THOUSANDS = ["", "k", "M", "G", "T"];
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function scaled(value, base, units) {
  let step = 0;
  while (value >= base * 0.9995 && step < units.length - 1) {
    value /= base;
    step += 1;
  }
  return [step === 0 || value >= 99.95 ? String(Math.round(value)) : value.toFixed(1).replace(/\.0$/, ""), units[step]];
}

/** 12345 -> "12.3k". */
export function count(value) {
  return scaled(Math.max(0, value || 0), 1000, THOUSANDS).join("");
}

/** A rate: small ones keep a digit. */
export function rate(value) {
  return value > 0 && value < 9.95 ? value.toFixed(1) : count(value);
}

export function bytes(value) {
  return scaled(Math.max(0, value || 0), 1024, BYTES).join(" ");
}

/** Seconds: "12 ms", "3.4 s", "5 min", "2.5 h", "3 d". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1).replace(/\.0$/, "")} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** The same, for what is counted on a clock: whole seconds. */
export function age(seconds) {
  return seconds !== null && seconds < 10 ? `${Math.max(0, Math.floor(seconds))} s` : duration(seconds);
}

export function percent(fraction) {
  if (fraction === null) return "–";
  const value = fraction * 100;
  return `${value >= 99.95 || value === 0 ? Math.round(value) : value.toFixed(1)} %`;
}

/** Unix seconds as the time of the day. */
export function clock(unix) {
  const at = new Date(unix * 1000);
  return [at.getHours(), at.getMinutes(), at.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}

export function plural(n, one, many = `${one}s`) {
  return `${n} ${n === 1 ? one : many}`;
}

/** A budget that may be unlimited (-1). */
export function budget(taken, max, text = String) {
  return max < 0 ? `${text(taken)} of any` : `${text(taken)} / ${text(max)}`;
}
