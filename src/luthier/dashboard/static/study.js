// The page of a study: what is known of it, kept up to date part by part.
import { duration, fill, h, has, number, request, said, settings, t, toast, whole } from "./dom.js";
import { Figures } from "./ink.js";
import { Panel } from "./curves.js";
import { configDialog, stopButton } from "./actions.js";
import { Table } from "./table.js";

const stageName = (s) => (settings.lang === "zh" ? s.zh : s.name);

/** A study as the server tells it, with what changed since taken in. */
export class Study {
  constructor(id) {
    this.id = id;
    this.rows = new Map();
  }

  async load() {
    const found = await request(`/api/studies/${this.id}`);
    this.rows = new Map(found.rows.map((r) => [r.id, r]));
    Object.assign(this, found, { rows: this.rows });
  }

  take(change) {
    for (const row of change.rows) this.rows.set(row.id, row);
    for (const key of ["study", "stages"]) if (change[key]) this[key] = change[key];
    const { rows, points, stages, study, since, ...head } = change;
    Object.assign(this, head);
  }
}

export class StudyPage {
  constructor(main, study) {
    this.main = main;
    this.study = study;
    this.base = `/api/studies/${study.id}`;
    this.pair = 0;
    this.open = (id) => (location.hash = `#/${study.id}/trial/${id}`);
    const page = this;
    this.group = {
      view: null, logx: false, logy: undefined, hide: false, marked: null,
      get rows() { return study.rows; },
      get best() { return study.best; },
      open: this.open,
      zoom(view) { this.view = view; page.paintCurves(); },
    };
    this.panels = [];
    this.build();
    this.update();
    this.readCurves();
    this.readChecklist();
  }

  // -- building --------------------------------------------------------------------------------------------------------
  build() {
    const part = (id, title, ...children) => h("section", { id, "aria-labelledby": `h-${id}` }, h("h2", { id: `h-${id}` }, t(title)), ...children);
    const figure = (name, options = {}) => {
      const one = new Figures(this.base, name, options.label ?? "hyper", { open: this.open, ...options });
      (this.figures ??= []).push(one);
      return one.el;
    };
    this.verdict = h("div", { class: "verdict" });
    this.line = h("div", { class: "line-box" });
    this.running = h("div", {});
    this.said = h("ol", { class: "said" });
    this.tools = h("div", { class: "tools" });
    this.charts = h("div", { class: "charts" });
    this.key = h("p", { class: "key" });
    this.next = h("ol", { class: "next" });
    this.list = h("div", {});
    this.table = new Table(this.study);
    const opened = this.study.stages[0] ? this.study.stages : [];
    this.main.replaceChildren(h("div", { class: "page" },
      this.verdict,
      part("stages", opened.length ? "stages" : "budget", this.line),
      h("div", { class: "two" }, part("now", "now", this.running), part("happened", "happened", this.said)),
      part("curves", "curves", h("p", { class: "lead" }, t("curves.lead")), this.tools, this.key, this.charts),
      part("progress", "progress", h("div", { class: "pair" }, figure("progress", { label: "progress" }), figure("time", { label: "progress" }))),
      part("findings", "findings", figure("findings", { label: "findings", empty: "findings.none" })),
      part("hyper", "hyper", h("p", { class: "lead" }, t("hyper.lead")),
        h("div", { class: "pair" }, figure("importance"), figure("interaction")), figure("parallel", { wide: true }), figure("sweeps", { small: true }), figure("lr_range")),
      h("section", { class: "bare" }, figure("paired", { label: "evidence" }), figure("pareto", { label: "evidence" }), figure("lineage", { label: "lineage", wide: true })),
      part("trials", "trials", this.table.el),
      part("next", "next", this.next),
      part("checklist", "checklist", h("p", { class: "lead" }, t("checklist.lead")), this.list)));
  }

  // -- keeping up ------------------------------------------------------------------------------------------------------
  update() {
    const s = this.study;
    fill(this.verdict,
      h("p", { class: "kicker" }, h("b", {}, s.study.name), h("span", {}, `${s.study.strategy} ${t("strategy")}`), h("span", {}, said(s.study.goal)), h("span", {}, t("upto", { n: s.study.max_epochs })), h("span", {}, `${t("seed")} ${s.study.seed}`)),
      h("h1", { class: s.tone }, said(s.verdict)),
      h("dl", { class: "facts" }, s.facts.map(([label, value, fine]) => h("div", {}, h("dt", {}, fact(label)), h("dd", {}, said(value)), h("dd", { class: "fine" }, said(fine))))));
    this.paintLine();
    this.paintNow();
    fill(this.said, [...s.said].reverse().slice(0, 24).map(([at, text]) => h("li", {}, h("time", { datetime: new Date(at * 1000).toISOString() }, clock(at)), h("span", {}, said(text)))));
    this.table.update();
    for (const one of this.figures) one.want(s.seq);
    this.readNext();
  }

  change(delta) {
    this.study.take(delta);
    for (const [trial, epoch, metrics] of delta.points) for (const panel of this.panels) panel.add(trial, epoch, metrics[panel.metric]);
    if (!this.panels.length && delta.points.length) this.readCurves();
    else if (delta.points.length) this.curvesLater();
    for (const panel of this.panels) panel.later();
    this.update();
    this.readChecklist();
  }

  paintLine() {
    const s = this.study, { budget } = s.study;
    const part = budget.epochs ? s.spent / budget.epochs : budget.seconds ? s.elapsed / budget.seconds : s.finished ? 1 : 0;
    const used = budget.epochs ? `${whole(s.spent)} ${t("of")} ${whole(budget.epochs)} ${t("epochs", { n: budget.epochs })}` : `${whole(s.spent)} ${t("epochs", { n: Math.round(s.spent) })}`;
    const time = budget.seconds ? `${duration(s.elapsed)} ${t("of")} ${duration(budget.seconds)}` : duration(s.elapsed);
    const shown = this.chosen ?? telling(s.stages);
    const stage = s.stages[shown];
    fill(this.line,
      h("div", { class: "budget", role: "meter", "aria-label": t("budget"), "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * Math.min(part, 1)) },
        h("div", { class: "fill", style: { width: `${100 * Math.min(part, 1)}%` } })),
      h("p", { class: "note" }, `${used} · ${time}`),
      s.stages.length ? h("ol", { class: "stages" }, s.stages.map((x, i) => h("li", { class: `${x.state}${i === shown ? " shown" : ""}` },
        h("button", { type: "button", "data-focus": `stage-${i}`, "aria-pressed": i === shown, "aria-label": `${stageName(x)}: ${t(`stage.${x.state}`)}`, "data-stage": i },
          h("span", { class: "track" }, h("span", { class: "fill", style: { width: `${100 * x.part}%` } })),
          h("span", { class: "name" }, stageName(x)), h("span", { class: "note" }, x.state === "closed" ? `${whole(x.spent)} ${t("epochs", { n: Math.round(x.spent) })}` : t(`stage.${x.state}`)))))) : null,
      stage ? h("div", { class: "stage-said" },
        h("h3", {}, stageName(stage), stage.again ? ` (${t("stage.again")})` : ""),
        h("p", { class: "soft" }, said(stage.why)),
        stage.verdict ? h("p", { class: "answer" }, said(stage.verdict)) : null,
        stage.because ? h("p", { class: "note" }, said(stage.because)) : null,
        stage.settled?.length ? h("ul", { class: "chips" }, stage.settled.map(([n, v]) => h("li", {}, `${n} = ${v}`))) : null) : null);
    for (const button of this.line.querySelectorAll("[data-stage]")) {
      button.onclick = () => { this.chosen = Number(button.dataset.stage); this.paintLine(); };
    }
  }

  paintNow() {
    const s = this.study;
    const waiting = s.pending.configs ? h("p", { class: "note" }, `${s.pending.configs} × ${t("waiting")}`) : null;
    const rows = s.running.map((id) => s.rows.get(id)).filter(Boolean);
    const state = JSON.stringify([rows, s.pending, s.finished, s.kept, settings.lang]);
    if (state === this.nowState) return;
    this.nowState = state;
    fill(this.running, h("p", { class: "note" }, s.paused ? (rows.length ? t("pausing") : t("paused")) : ""), waiting,
      rows.length ? h("ul", { class: "running" }, rows.map((r) => h("li", {},
        h("div", { class: "who" }, h("a", { href: `#/${s.id}/trial/${r.id}`, "data-focus": `run-${r.id}` }, `${t("trial")} ${r.id}`), h("span", { class: "note" }, [r.probe ? `${t("probe")} ${r.probe}` : "", said(r.stage ?? "")].filter(Boolean).join(" · "))),
        h("div", { class: "why" }, said(r.why)),
        h("div", { class: "how" }, h("span", { class: "track" }, h("span", { class: "fill", style: { width: `${(100 * r.epoch) / Math.max(1, r.until)}%` } })), h("span", { class: "num" }, `${r.epoch}/${r.until}`), h("span", { class: "num score" }, number(r.score))),
        h("span", { class: "stop", "data-stop": r.id, "data-own": "" })))) : h("p", { class: "note" }, s.finished ? said(s.finished) : t("now.none")),
      s.finished && s.kept.length ? h("ul", { class: "chips" }, s.kept.map(([n, v]) => h("li", {}, `${n} = ${v}`))) : null);
    document.getElementById("h-now").textContent = t(s.finished && s.kept.length ? "now.done" : "now");
    for (const place of this.running.querySelectorAll("[data-stop]")) {
      const id = Number(place.dataset.stop), stamp = `${s.id} ${id} ${s.pending.stops.includes(id)} ${settings.lang}`;
      if (place.made !== stamp) place.replaceChildren(stopButton(s, id));
      place.made = stamp;
    }
  }

  // -- curves ----------------------------------------------------------------------------------------------------------
  async readCurves() {
    clearTimeout(this.curveTimer);
    this.curveTimer = undefined;
    const found = await request(`${this.base}/curves?pair=${this.pair}`).catch((error) => toast(error.message, true));
    if (!found || this.closed) return;
    this.pairs = found.pairs;
    if (this.panels.length !== found.panels.length) {
      for (const panel of this.panels) panel.close();
      this.panels = found.panels.map(() => new Panel(this.group));
      this.charts.replaceChildren(...this.panels.map((p) => p.el));
    }
    if (!this.panels.length) this.charts.replaceChildren(h("p", { class: "note" }, t("curves.none")));
    for (const [i, data] of found.panels.entries()) {
      // What came by the stream since the server made this answer stays at the ends of the curves.
      const before = this.panels[i].metric === data.metric ? this.panels[i].curves : new Map();
      this.panels[i].set(data);
      for (const [id, { xs, ys }] of before) {
        const last = this.panels[i].curves.get(id)?.xs.at(-1) ?? -1;
        xs.forEach((x, k) => x > last && this.panels[i].add(id, x, ys[k]));
      }
    }
    if (found.seq < this.study.seq) this.curvesLater(2000); // the server had an older answer at hand
    this.paintTools();
  }

  curvesLater(wait = 8000) {
    this.curveTimer ??= setTimeout(() => this.readCurves(), wait);
  }

  paintTools() {
    const g = this.group;
    const log = g.logy ?? this.panels[0]?.log ?? false;
    const toggle = (key, on, set) => h("button", { type: "button", class: "toggle", "aria-pressed": on, "data-focus": key, "data-tool": key }, t(key));
    fill(this.tools,
      h("div", { class: "tabs", role: "group", "aria-label": t("curves") }, (this.pairs ?? []).map((p, i) => h("button", { type: "button", class: "toggle", "aria-pressed": i === this.pair, "data-pair": i, "data-focus": `pair-${i}` }, p.at(-1)))),
      h("div", { class: "tabs" }, toggle("logx", g.logx), toggle("logy", log), toggle("hide", g.hide), h("button", { type: "button", class: "toggle", "data-tool": "reset", "data-focus": "reset", disabled: !g.view }, t("reset"))));
    for (const button of this.tools.querySelectorAll("[data-pair]")) {
      button.onclick = () => { this.pair = Number(button.dataset.pair); g.view = null; g.logy = undefined; this.readCurves(); };
    }
    const acts = {
      logx: () => (g.logx = !g.logx), logy: () => { g.logy = !log; g.view = null; }, hide: () => (g.hide = !g.hide), reset: () => (g.view = null),
    };
    for (const button of this.tools.querySelectorAll("[data-tool]")) button.onclick = () => { acts[button.dataset.tool](); this.paintCurves(); };
    const drawn = new Set(this.panels.flatMap((p) => p.roles()));
    fill(this.key, ["winner", "default", "running", "plain", "failed"].filter((k) => drawn.has(k)).map((k) => h("span", { class: k }, t(`key.${k}`))));
  }

  paintCurves() {
    this.paintTools();
    for (const panel of this.panels) panel.later();
  }

  // -- what is asked for now and then ------------------------------------------------------------------------------------
  async readNext() {
    if (this.nextBusy || this.nextSeq === this.study.seq) return;
    this.nextBusy = true;
    this.nextSeq = this.study.seq;
    const found = await request(`${this.base}/lesson`).catch(() => null);
    if (found && !this.closed) {
      fill(this.next, found.next_steps.map((step) => h("li", {}, said(step))));
      document.getElementById("next").hidden = !found.next_steps.length;
    }
    setTimeout(() => { this.nextBusy = false; if (!this.closed) this.readNext(); }, 6000);
  }

  async readChecklist() {
    const stamp = `${settings.lang} ${this.study.stages.map((s) => s.state)} ${this.study.finished}`;
    if (stamp === this.listStamp) return;
    this.listStamp = stamp;
    const found = await request(`${this.base}/checklist?lang=${settings.lang}`).catch(() => null);
    if (!found || this.closed) return;
    const tiers = [...new Set(found.rows.map((r) => r.tier))].sort();
    const marks = { settled: "●", open: "○", skipped: "–", absent: "·" };
    fill(this.list, h("div", { class: "scroll", tabindex: 0 }, h("table", { class: "plain check" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col", "aria-label": t("state") }), ["hyperparameter", "usual", "default", "value", "state"].map((k) => h("th", { scope: "col" }, t(k))))),
      tiers.map((tier) => h("tbody", {}, h("tr", { class: "tier" }, h("th", { colspan: 6, scope: "rowgroup" }, found.headings[tier])),
        found.rows.filter((r) => r.tier === tier).map((r) => h("tr", { class: r.state, title: r.advice }, h("td", { class: "mark", "aria-label": t(`check.${r.state}`) }, marks[r.state] ?? "·"),
          h("th", { scope: "row" }, r.title, r.name && r.name !== r.title ? h("span", { class: "mono note" }, ` ${r.name}`) : ""), h("td", {}, r.seed_range), h("td", {}, r.default),
          h("td", { class: "to" }, r.value === null ? "" : typeof r.value === "number" && !Number.isInteger(r.value) ? String(Number(r.value.toPrecision(3))) : String(r.value)), h("td", { class: "soft" }, r.why))))))));
  }

  close() {
    this.closed = true;
    clearTimeout(this.curveTimer);
    for (const one of this.figures) one.close();
    for (const panel of this.panels) panel.close();
  }
}

/** The stage to show first: the open one, the one that ended the study, the proof, else the last that trained anything. */
function telling(stages) {
  const tests = [(x) => x.state === "open", (x) => x.state === "failed", (x) => x.state === "closed" && x.name === "confirm", (x) => x.state === "closed", (x) => x.state !== "coming"];
  return tests.map((test) => stages.findLastIndex(test)).find((at) => at >= 0) ?? -1;
}

function fact(label) {
  if (has(`fact.${label}`)) return t(`fact.${label}`);
  return label.startsWith("best ") ? `${t("fact.best")} ${label.slice(5)}` : label;
}

const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

/** The buttons in the bar for a study: pause or resume, add. */
export function studyButtons(study, act) {
  if (study.read_only) return [h("span", { class: "note" }, t("readonly"))];
  if (study.finished) return [];
  const pause = study.paused ? "resume" : "pause";
  return [
    h("button", { type: "button", class: "quiet", "data-focus": "pause", id: "pause", onclick: () => act({ do: pause }) }, t(pause)),
    h("button", { type: "button", class: "quiet", "data-focus": "add", id: "add", onclick: () => configDialog(study, study.best_config ?? {}) }, t("add")),
  ];
}
