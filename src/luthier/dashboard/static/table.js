// The table of trials: sorted, filtered, a window of it at a time, two of them to compare.
import { fill, h, number, said, t } from "./dom.js";

const STEP = 60;

export class Table {
  constructor(study) {
    this.study = study;
    this.sort = { by: "id", up: false };
    this.show = "all";
    this.find = "";
    this.many = STEP;
    this.ticked = [];
    this.tools = h("div", { class: "tools" });
    this.box = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("trials") });
    this.foot = h("p", { class: "note" });
    this.el = h("div", {}, this.tools, this.box, this.foot);
    this.build();
  }

  build() {
    const search = h("input", { type: "search", placeholder: t("find"), "aria-label": t("find"), oninput: () => { this.find = search.value.toLowerCase(); this.many = STEP; this.update(); } });
    const filters = ["all", "running", "failed", "hand"].map((key) => h("button", {
      type: "button", class: "toggle", "aria-pressed": key === this.show, "data-show": key,
      onclick: () => { this.show = key; this.many = STEP; for (const b of filters) b.setAttribute("aria-pressed", b.dataset.show === key); this.update(); },
    }, t(`filter.${key}`)));
    this.both = h("button", { type: "button", class: "quiet", disabled: true, id: "compare", title: t("compare.pick"), onclick: () => (location.hash = `#/${this.study.id}/compare/${this.ticked.join("/")}`) }, t("compare"));
    this.tools.replaceChildren(h("div", { class: "tabs", role: "group", "aria-label": t("filter") }, filters), search, this.both);
  }

  columns() {
    const staged = this.study.stages.length > 0;
    return [["id", t("trial"), true], ...(staged ? [["stage", t("col.stage")]] : []), ["status", t("col.status")], ["loss", this.study.study.metric, true], ["epoch", t("col.epochs"), true], ["config", t("col.config")], ["why", t("col.why")]];
  }

  chosen() {
    const { by, up } = this.sort;
    const keep = { all: () => true, running: (r) => r.status === "running", failed: (r) => ["failed", "stopped"].includes(r.status), hand: (r) => r.hand }[this.show];
    const rows = [...this.study.rows.values()].filter((r) => keep(r) && (!this.find || `${r.config} ${r.stage ?? ""} ${said(r.stage)} ${r.why} ${said(r.why)} ${r.failure ?? ""}`.toLowerCase().includes(this.find)));
    return rows.sort((a, b) => {
      const [x, y] = [a[by] ?? null, b[by] ?? null];
      if (x === null || y === null) return (x === null) - (y === null) || b.id - a.id; // without one: last either way
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
      return (up ? order : -order) || b.id - a.id;
    });
  }

  update() {
    clearTimeout(this.timer);
    const wait = 400 - (performance.now() - (this.drawn ?? -1e9));
    if (wait > 0) this.timer = setTimeout(() => this.paint(), wait);
    else this.paint();
  }

  paint() {
    this.drawn = performance.now();
    const rows = this.chosen(), columns = this.columns();
    fill(this.box, h("table", { class: "trials" },
      h("thead", {}, h("tr", {}, h("th", { "aria-label": t("compare") }), columns.map(([key, name, numeric]) =>
        h("th", { scope: "col", class: numeric ? "num" : null, "aria-sort": this.sort.by === key ? (this.sort.up ? "ascending" : "descending") : null }, h("button", { type: "button", "data-sort": key, "data-focus": `sort-${key}` }, name))))),
      h("tbody", {}, rows.slice(0, this.many).map((r) => this.row(r, columns)))));
    for (const button of this.box.querySelectorAll("[data-sort]")) {
      button.onclick = () => {
        const by = button.dataset.sort;
        this.sort = { by, up: this.sort.by === by ? !this.sort.up : by !== "id" };
        this.paint();
      };
    }
    for (const box of this.box.querySelectorAll("input")) {
      const id = Number(box.dataset.tick);
      box.checked = this.ticked.includes(id);
      box.onchange = () => {
        this.ticked = box.checked ? [...this.ticked.filter((x) => x !== id), id].slice(-2) : this.ticked.filter((x) => x !== id);
        this.both.disabled = this.ticked.length !== 2;
        for (const other of this.box.querySelectorAll("input")) other.checked = this.ticked.includes(Number(other.dataset.tick));
      };
    }
    const more = rows.length > this.many ? h("button", { type: "button", class: "quiet", "data-focus": "more", id: "more" }, t("more")) : null;
    fill(this.foot, `${Math.min(rows.length, this.many)} / ${rows.length} ${t("shown")} `, more);
    const button = this.foot.querySelector("button");
    if (button) button.onclick = () => { this.many += 4 * STEP; this.paint(); };
  }

  row(r, columns) {
    const cells = {
      id: () => h("td", { class: "num" }, h("a", { href: `#/${this.study.id}/trial/${r.id}`, "data-focus": `row-${r.id}` }, String(r.id))),
      stage: () => h("td", {}, said(r.stage ?? "")),
      status: () => h("td", { class: ["failed"].includes(r.status) || r.infeasible ? "bad" : null }, [r.probe ? `${said(r.probe)} ${t("probe")}` : t(`status.${r.status}`), r.infeasible ? t("infeasible") : "", r.hand ? t("byhand") : ""].filter(Boolean).join(", ")),
      loss: () => h("td", { class: "num" }, number(r.score)),
      epoch: () => h("td", { class: "num" }, r.probe ? "" : `${r.epoch}/${r.horizon}`),
      config: () => h("td", { class: "mono config" }, r.config),
      why: () => h("td", { class: "why" }, said(r.why), r.stop ? h("span", { class: "soft" }, ` — ${said(r.stop)}`) : "", r.failure ? h("span", { class: "bad" }, ` — ${r.failure}`) : ""),
    };
    return h("tr", { class: r.role }, h("td", { class: "tick" }, r.probe ? "" : h("input", { type: "checkbox", "data-tick": r.id, "aria-label": `${t("compare")} ${r.id}` })), columns.map(([key]) => cells[key]()));
  }
}
