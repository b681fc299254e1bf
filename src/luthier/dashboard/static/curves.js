// Thousands of learning curves on a canvas: zoom, hover, log scales, keyboard.
import { css, h, number, said, t } from "./dom.js";

const ORDER = ["ended", "failed", "plain", "default", "winner", "running"];
const PAD = { left: 50, right: 14, top: 10, bottom: 26 };

function ticks(low, high, log, many) {
  if (log) {
    const [a, b] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const wide = Math.log10(high / low);
    const steps = wide < 1.3 ? [1, 2, 3, 5, 7] : wide < 2.4 ? [1, 2, 5] : [1];
    const out = [];
    for (let e = a; e <= b; e += Math.max(1, Math.ceil((b - a) / many))) for (const m of steps) out.push(m * 10 ** e);
    return out.filter((v) => v >= low && v <= high);
  }
  const rough = (high - low) / many, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * scale >= rough) * scale;
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}

const short = (v) => (Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(0) : String(Number(v.toPrecision(4))));

/** One panel: all trials' curves of one metric. */
export class Panel {
  /** `group` is shared by the panels that are zoomed together: { view, logx, logy, hide, rows, open, redraw }. */
  constructor(group) {
    this.group = group;
    this.curves = new Map();
    this.hover = null;
    this.canvas = h("canvas", { tabindex: 0, role: "img" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.name = h("h3", {});
    this.el = h("div", { class: "panel" }, this.name, h("div", { class: "stage" }, this.canvas, this.tip));
    this.listen();
    this.sizes = new ResizeObserver(() => this.later());
    this.sizes.observe(this.canvas);
  }

  /** All curves anew. */
  set({ metric, low, high, log, curves }) {
    Object.assign(this, { metric, low, high, log });
    this.curves = new Map(curves.map(([id, xs, ys]) => [id, { xs, ys }]));
    this.name.textContent = metric;
    this.later();
  }

  /** A new point of a trial that reports. */
  add(trial, epoch, value) {
    if (value === undefined) return;
    let curve = this.curves.get(trial);
    if (!curve) this.curves.set(trial, (curve = { xs: [], ys: [] }));
    if (curve.xs.length && curve.xs.at(-1) >= epoch) return;
    curve.xs.push(epoch);
    curve.ys.push(value);
    if (value !== null && this.role(trial) !== "failed" && this.curves.size < 3) {
      this.low = Math.min(this.low, value);
      this.high = Math.max(this.high, value);
    }
    this.later();
  }

  role(id) {
    const row = this.group.rows.get(id);
    if (!row) return "plain";
    if (row.status === "running" && row.role === "plain") return "running";
    return row.role;
  }

  /** What its curves are, by the words of the key. */
  roles() {
    return [...this.curves.keys()].map((id) => this.role(id)).map((role) => (role === "ended" ? "failed" : role));
  }

  /** The part that is shown: what was zoomed to, else everything worth showing. */
  bounds() {
    const { view, logx, logy } = this.group;
    const log = logy ?? this.log;
    let [x0, x1] = view?.x ?? this.span();
    let low = this.low, high = this.high;
    if (log && !(low > 0)) low = Math.max(1e-9, high / 1e4);
    if (log && !(high > low)) high = low * 10;
    const pad = log ? 0 : (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
    let [y0, y1] = view?.y?.get(this.metric) ?? (log ? [low * (low / high) ** 0.06, high * (high / low) ** 0.06] : [low - pad, high + pad]);
    if (log) [y0, y1] = [Math.max(y0, 1e-12), Math.max(y1, 1e-11)];
    if (logx) x0 = Math.max(x0, 0.8);
    return { x0, x1: Math.max(x1, x0 + 1e-9), y0, y1, logx, logy: log };
  }

  span() {
    let low = Infinity, high = -Infinity;
    for (const { xs } of this.curves.values()) if (xs.length) { low = Math.min(low, xs[0]); high = Math.max(high, xs.at(-1)); }
    return low < high ? [low, high] : [Math.max(0, low - 1) || 0, isFinite(high) ? high + 1 : 1];
  }

  scales() {
    const b = this.bounds();
    const [w, hgt] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const f = (log) => (log ? Math.log10 : (v) => v);
    const [fx, fy] = [f(b.logx), f(b.logy)];
    const [ax, bx, ay, by] = [fx(b.x0), fx(b.x1), fy(b.y0), fy(b.y1)];
    const width = w - PAD.left - PAD.right, height = hgt - PAD.top - PAD.bottom;
    return {
      ...b, width, height,
      x: (v) => PAD.left + ((fx(v) - ax) / (bx - ax)) * width,
      y: (v) => PAD.top + height - ((fy(Math.max(v, b.logy ? 1e-300 : -Infinity)) - ay) / (by - ay)) * height,
      fromX: (p) => { const v = ax + ((p - PAD.left) / width) * (bx - ax); return b.logx ? 10 ** v : v; },
      fromY: (p) => { const v = ay + ((PAD.top + height - p) / height) * (by - ay); return b.logy ? 10 ** v : v; },
    };
  }

  later() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
  }

  paint() {
    const { canvas } = this, dpr = devicePixelRatio || 1;
    const [w, hgt] = [canvas.clientWidth, canvas.clientHeight];
    if (!w || !this.metric) return;
    if (canvas.width !== Math.round(w * dpr)) canvas.width = Math.round(w * dpr);
    if (canvas.height !== Math.round(hgt * dpr)) canvas.height = Math.round(hgt * dpr);
    canvas.setAttribute("aria-label", `${this.metric}. ${t("curves.keys")}`);
    const c = canvas.getContext("2d"), s = this.scales();
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    c.clearRect(0, 0, w, hgt);
    this.axes(c, s);
    c.save();
    c.beginPath();
    c.rect(PAD.left - 1, PAD.top - 1, s.width + 2, s.height + 2);
    c.clip();
    const groups = new Map(ORDER.map((r) => [r, []]));
    for (const [id, curve] of this.curves) groups.get(this.role(id))?.push(curve);
    const veil = this.curves.size < 25 ? 0.65 : this.curves.size < 120 ? 0.42 : this.curves.size < 600 ? 0.26 : 0.16;
    for (const role of ORDER) {
      if ((role === "failed" || role === "ended") && this.group.hide) continue;
      const bright = role === "winner" || role === "default";
      c.strokeStyle = css(bright ? `--${role}` : role === "running" ? "--ink" : "--curve");
      c.globalAlpha = bright ? 0.9 : role === "running" ? 0.85 : veil;
      c.lineWidth = bright ? 2.2 : role === "running" ? 1.5 : 1;
      c.setLineDash(role === "failed" || role === "ended" ? [2, 3] : []);
      c.beginPath();
      for (const curve of groups.get(role)) this.trace(c, s, curve);
      c.stroke();
      if (role === "running" || groups.get(role).some((k) => k.xs.length === 1)) {
        c.fillStyle = c.strokeStyle;
        for (const { xs, ys } of groups.get(role)) {
          if (!xs.length || ys.at(-1) === null || (role !== "running" && xs.length > 1)) continue;
          c.beginPath();
          c.arc(s.x(xs.at(-1)), s.y(ys.at(-1)), 2.5, 0, 7);
          c.fill();
        }
      }
    }
    this.mark(c, s);
    c.restore();
    canvas.dataset.curves = this.curves.size;
    canvas.dataset.points = [...this.curves.values()].reduce((n, k) => n + k.xs.length, 0);
    if (!this.painted) { this.painted = true; performance.mark("luthier-curves"); }
  }

  trace(c, s, { xs, ys }) {
    let down = false;
    for (let i = 0; i < xs.length; i++) {
      if (ys[i] === null || (s.logy && ys[i] <= 0) || (s.logx && xs[i] <= 0)) { down = false; continue; }
      if (down) c.lineTo(s.x(xs[i]), s.y(ys[i]));
      else c.moveTo(s.x(xs[i]), s.y(ys[i]));
      down = true;
    }
  }

  axes(c, s) {
    c.font = "11.5px system-ui, sans-serif";
    c.fillStyle = css("--soft");
    c.strokeStyle = css("--grid");
    c.globalAlpha = 1;
    c.lineWidth = 1;
    c.setLineDash([]);
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const v of ticks(s.y0, s.y1, s.logy, 5)) {
      const y = Math.round(s.y(v)) + 0.5;
      c.beginPath(); c.moveTo(PAD.left, y); c.lineTo(PAD.left + s.width, y); c.stroke();
      c.fillText(short(v), PAD.left - 7, y);
    }
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const v of ticks(s.x0, s.x1, s.logx, Math.max(3, s.width / 80))) {
      if (v !== Math.round(v) && s.x1 - s.x0 > 2) continue;
      c.fillText(short(v), s.x(v), PAD.top + s.height + 7);
    }
    c.textAlign = "right";
    c.fillText(t("epoch"), PAD.left + s.width, PAD.top + s.height - 15);
    c.strokeStyle = css("--line-strong");
    c.beginPath(); c.moveTo(PAD.left, PAD.top + s.height + 0.5); c.lineTo(PAD.left + s.width, PAD.top + s.height + 0.5); c.stroke();
  }

  mark(c, s) {
    if (this.drag) {
      const { x, y, toX, toY } = this.drag;
      c.globalAlpha = 1;
      c.setLineDash([]);
      c.fillStyle = css("--veil");
      c.fillRect(Math.min(x, toX), Math.min(y, toY), Math.abs(toX - x), Math.abs(toY - y));
    }
    const id = this.hover?.id ?? this.group.marked;
    const curve = this.curves.get(id);
    if (!curve) return;
    c.globalAlpha = 1;
    c.setLineDash([]);
    c.strokeStyle = css("--ink");
    c.lineWidth = 2;
    c.beginPath();
    this.trace(c, s, curve);
    c.stroke();
    if (this.hover) {
      c.fillStyle = css("--ink");
      c.beginPath();
      c.arc(s.x(curve.xs[this.hover.at]), s.y(curve.ys[this.hover.at]), 4, 0, 7);
      c.fill();
    }
  }

  nearest(px, py) {
    const s = this.scales();
    let best = null, least = 26 ** 2;
    for (const [id, { xs, ys }] of this.curves) {
      const role = this.role(id);
      if (this.group.hide && (role === "failed" || role === "ended")) continue;
      const weight = role === "winner" || role === "default" ? 0.5 : 1; // what is on top is what is meant
      for (let at = 0; at < xs.length; at++) {
        if (ys[at] === null || xs[at] < s.x0 || xs[at] > s.x1) continue;
        const d = ((s.x(xs[at]) - px) ** 2 + (s.y(ys[at]) - py) ** 2) * weight;
        if (d < least) [least, best] = [d, { id, at }];
      }
    }
    return best;
  }

  point(hit) {
    this.hover = hit;
    const row = hit && this.group.rows.get(hit.id);
    this.tip.hidden = !row;
    if (row) {
      const { xs, ys } = this.curves.get(hit.id), s = this.scales();
      const stage = row.stage ? ` · ${said(row.stage)}` : "";
      this.tip.replaceChildren(
        h("b", {}, `${t("trial")} ${hit.id}`), stage, h("br"), `${t("epoch")} ${xs[hit.at]} · ${this.metric} `,
        h("b", {}, number(ys[hit.at])), h("br"), h("span", { class: "mono" }, row.config),
      );
      const [x, y] = [s.x(xs[hit.at]), s.y(ys[hit.at])];
      const left = x > this.canvas.clientWidth / 2;
      Object.assign(this.tip.style, { left: left ? "" : `${x + 12}px`, right: left ? `${this.canvas.clientWidth - x + 12}px` : "", top: `${Math.max(0, y - 20)}px` });
    }
    this.later();
  }

  listen() {
    const at = (event) => { const box = this.canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    this.canvas.addEventListener("pointerdown", (event) => {
      const [x, y] = at(event);
      this.drag = { x, y, toX: x, toY: y };
      if (event.pointerType === "mouse") this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (this.drag && event.pointerType === "mouse") {
        Object.assign(this.drag, { toX: x, toY: y });
        this.point(null);
      } else this.point(this.nearest(x, y));
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const drag = this.drag;
      this.drag = null;
      if (!drag) return;
      if (Math.abs(drag.toX - drag.x) > 8 && Math.abs(drag.toY - drag.y) > 8) this.zoom(drag);
      else {
        const hit = this.nearest(...at(event));
        if (hit && event.pointerType === "mouse") this.group.open(hit.id);
        else this.point(hit);
      }
    });
    this.canvas.addEventListener("pointercancel", () => (this.drag = null));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("dblclick", () => this.group.zoom(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.point(null));
  }

  zoom({ x, y, toX, toY }) {
    const s = this.scales();
    const ys = new Map(this.group.view?.y ?? []);
    ys.set(this.metric, [s.fromY(Math.max(y, toY)), s.fromY(Math.min(y, toY))]);
    this.group.zoom({ x: [s.fromX(Math.min(x, toX)), s.fromX(Math.max(x, toX))], y: ys });
  }

  key(event) {
    const ids = [...this.curves.keys()].filter((id) => this.curves.get(id).xs.length);
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const s = this.scales();
    if (step && ids.length) {
      const now = this.hover ?? { id: this.curves.has(this.group.best) ? this.group.best : ids[0], at: 0 };
      const id = ids[(ids.indexOf(now.id) + step[1] + ids.length) % ids.length];
      const last = this.curves.get(id).xs.length - 1;
      this.point({ id, at: Math.min(Math.max(now.at + step[0], 0), last) });
    } else if (event.key === "Enter" && this.hover) this.group.open(this.hover.id);
    else if (event.key === "0" || event.key === "Escape") this.group.zoom(null);
    else if (event.key === "+" || event.key === "=" || event.key === "-") {
      const f = event.key === "-" ? -0.25 : 0.125; // each side
      const box = { x: PAD.left + f * s.width, toX: PAD.left + (1 - f) * s.width, y: PAD.top + f * s.height, toY: PAD.top + (1 - f) * s.height };
      this.zoom(box);
    } else return;
    event.preventDefault();
  }

  close() {
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
  }
}

