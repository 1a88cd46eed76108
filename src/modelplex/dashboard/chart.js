// Requests per second, stacked by how they found their model, and the hit ratio over them, drawn on a canvas.

import { byId, setAttribute, setText } from "./dom.js";
import { clock, percent, rate } from "./format.js";
import { KINDS, SECONDS_MAX } from "./history.js";

const LEFT = 40;
const RIGHT = 44;
const TOP = 10;
const BOTTOM = 20;
const NAMES = { warm: "warm", joined: "joined", cold: "cold", none: "no model" };

/** A round number that is not below `value`. */
export function ceiling(value) {
  if (value <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].find((step) => step * power >= value) * power;
}

export class Chart {
  #colours = null;
  #hover = null; // x of the pointer
  #labelled = 0;

  constructor(history) {
    this.history = history;
    this.canvas = byId("chart");
    this.tip = byId("chart-tip");
    this.context = this.canvas.getContext("2d");
    new ResizeObserver(() => this.#resize()).observe(this.canvas.parentElement);
    document.documentElement.addEventListener("theme", () => {
      this.#colours = null;
      this.draw();
    });
    this.canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.#point(null));
  }

  #point(x) {
    this.#hover = x;
    this.draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    this.draw();
  }

  /** The colours of the style sheet, as the legend has them. */
  #look() {
    if (this.#colours) return this.#colours;
    const colours = {};
    for (const kind of [...KINDS, "ratio"]) {
      colours[kind] = getComputedStyle(document.querySelector(`#traffic-legend .swatch.${kind}`)).color;
    }
    const text = getComputedStyle(this.canvas);
    Object.assign(colours, { text: text.color, line: text.borderTopColor, font: `11px ${text.fontFamily}` });
    colours.hatch = this.#hatch(colours.cold);
    return (this.#colours = colours);
  }

  /** Stripes for cold starts: they are told apart without colours, too. */
  #hatch(colour) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const pen = tile.getContext("2d");
    pen.globalAlpha = 0.45;
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 6, 6);
    pen.globalAlpha = 1;
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    for (const shift of [-6, 0, 6]) {
      pen.moveTo(shift, 6);
      pen.lineTo(shift + 6, 0);
    }
    pen.stroke();
    return this.context.createPattern(tile, "repeat");
  }

  draw() {
    if (!this.width) return;
    const pen = this.context;
    const { points, now } = this.history;
    const look = this.#look();
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const area = { left: LEFT, right: this.width - RIGHT, top: TOP, bottom: this.height - BOTTOM };
    const most = ceiling(points.reduce((max, point) => Math.max(max, KINDS.reduce((sum, kind) => sum + point[kind], 0)), 0));
    const x = (at) => area.right - ((now - at) / SECONDS_MAX) * (area.right - area.left);
    const y = (value) => area.bottom - (value / most) * (area.bottom - area.top);
    this.#axes(pen, area, most, y, look);
    pen.save();
    pen.beginPath();
    pen.rect(area.left, 0, area.right - area.left, this.height);
    pen.clip();
    for (const run of runsOf(points)) this.#stack(pen, run, x, y, look);
    this.#ratio(pen, points, x, (ratio) => y(ratio * most), look);
    pen.restore();
    this.#readout(pen, area, x, look);
    this.#describe();
  }

  #axes(pen, area, most, y, look) {
    pen.font = look.font;
    pen.fillStyle = look.text;
    pen.strokeStyle = look.line;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      const line = Math.round(y(most * part)) + 0.5;
      pen.beginPath();
      pen.moveTo(area.left, line);
      pen.lineTo(area.right, line);
      pen.stroke();
      pen.textAlign = "right";
      pen.fillText(rate(most * part), area.left - 6, line);
      pen.textAlign = "left";
      pen.fillText(`${part * 100} %`, area.right + 6, line);
    }
    pen.textBaseline = "alphabetic";
    const step = this.width < 480 ? 5 : 2;
    for (let minutes = 10; minutes >= 0; minutes -= step) {
      pen.textAlign = minutes === 0 ? "right" : minutes === 10 ? "left" : "center";
      const at = area.right - (minutes / 10) * (area.right - area.left);
      pen.fillText(minutes === 0 ? "now" : `−${minutes} min`, at, this.height - 4);
    }
  }

  #stack(pen, run, x, y, look) {
    const base = run.map(() => 0);
    for (const kind of KINDS) {
      if (!run.some((point) => point[kind] > 0)) continue;
      const top = run.map((point, n) => base[n] + point[kind]);
      pen.beginPath();
      run.forEach((point, n) => (n ? pen.lineTo(x(point.at), y(top[n])) : pen.moveTo(x(point.at), y(top[n]))));
      for (let n = run.length - 1; n >= 0; n -= 1) pen.lineTo(x(run[n].at), y(base[n]));
      pen.closePath();
      pen.fillStyle = kind === "cold" ? look.hatch : look[kind];
      pen.fill();
      top.forEach((value, n) => (base[n] = value));
    }
  }

  #ratio(pen, points, x, y, look) {
    pen.beginPath();
    let drawing = false;
    for (const point of points) {
      if (point.ratio === null || point.gap) {
        drawing = false;
        continue;
      }
      if (drawing) pen.lineTo(x(point.at), y(point.ratio));
      else pen.moveTo(x(point.at), y(point.ratio));
      drawing = true;
    }
    pen.strokeStyle = look.ratio;
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    pen.stroke();
  }

  #readout(pen, area, x, look) {
    const { points } = this.history;
    const near = this.#hover === null ? null : points.reduce((best, point) => (!best || Math.abs(x(point.at) - this.#hover) < Math.abs(x(best.at) - this.#hover) ? point : best), null);
    this.tip.hidden = !near;
    if (!near) return;
    pen.strokeStyle = look.text;
    pen.lineWidth = 1;
    pen.beginPath();
    const at = Math.round(x(near.at)) + 0.5;
    pen.moveTo(at, area.top);
    pen.lineTo(at, area.bottom);
    pen.stroke();
    const parts = near.gap ? ["not connected"] : KINDS.map((kind) => `${NAMES[kind]} ${rate(near[kind])}`).concat(`hit ratio ${percent(near.ratio)}`);
    setText(this.tip, [clock(near.at), ...parts].join(" · "));
    this.tip.classList.toggle("at-left", at > this.width / 2);
  }

  /** The picture in words, seldom: a reader that is told each second says nothing else. */
  #describe() {
    const { history } = this;
    if (history.now === null || history.now - this.#labelled < 10) return;
    this.#labelled = history.now;
    setAttribute(this.canvas, "aria-label", `Requests per second over the last 10 minutes; over the last 10 seconds ${rate(history.rate(10))}, hit ratio ${percent(history.ratio(10))}.`);
  }
}

/** Points between gaps. */
function runsOf(points) {
  const runs = [];
  for (const point of points) {
    if (point.gap || !runs.length) runs.push([]);
    if (!point.gap) runs.at(-1).push(point);
  }
  return runs.filter((run) => run.length);
}
