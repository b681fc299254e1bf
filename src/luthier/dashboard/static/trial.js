// The page of one trial, and of two beside each other.
import { h, number, request, said, t } from "./dom.js";
import { draw } from "./ink.js";
import { configDialog, stopButton } from "./actions.js";

const link = (study, rest, ...text) => h("a", { href: `#/${study.id}${rest}` }, ...text);

function figures(specs, label) {
  const grid = h("div", { class: "figures" });
  for (const spec of specs) {
    const title = String(spec.layout.title.text).replace(/<[^>]*>/g, "");
    const el = h("div", { class: "ink", role: "img", "aria-label": `${label}: ${title}` });
    grid.append(h("figure", {}, el));
    draw(el, spec, {}).then(() => (el.dataset.drawn = "1"));
  }
  return grid;
}

function findings(list) {
  if (!list.length) return h("p", { class: "note" }, t("findings.none"));
  return h("ul", { class: "findings" }, list.map((f) => h("li", { class: f.severity },
    h("h3", {}, said(f.kind), h("span", { class: "note" }, ` ${f.since === null ? "" : `${t("since")} ${f.since} · `}${f.curve} · ${t("confidence")} ${Math.round(100 * f.confidence)} %`)),
    h("p", {}, said(f.text)), f.severity === "good" || !f.action.length ? null : h("p", { class: "action" }, `→ ${said(f.action[0])}`))));
}

/** Fill `main` with trial `id`; returns a function that reads it again. */
export async function trialPage(main, study, id) {
  const read = async () => {
    const found = await request(`/api/studies/${study.id}/trials/${id}`);
    const row = study.rows.get(id) ?? {};
    const other = h("input", { inputmode: "numeric", size: 5, "aria-label": t("compare.with"), placeholder: study.best ?? "0" });
    const go = h("form", { class: "inline", onsubmit: (event) => {
      event.preventDefault();
      location.hash = `#/${study.id}/compare/${id}/${Number(other.value || study.best || 0)}`;
    } }, h("label", {}, `${t("compare.with")} `, other), h("button", { class: "quiet", type: "submit" }, t("compare")));
    const head = h("div", { class: "title" },
      h("p", { class: "note" }, link(study, "", `← ${t("back")}`)),
      h("h1", {}, `${t("trial")[0].toUpperCase()}${t("trial").slice(1)} ${id}`),
      h("p", { class: "facts-line" },
        h("b", {}, row.probe ? `${t("probe")}: ${said(row.probe)}` : t(`status.${row.status}`)),
        row.hand ? ` · ${t("byhand")}` : "", row.stage ? ` · ${said(row.stage)}` : "",
        ` · ${row.epoch}/${row.horizon} ${t("epochs", { n: row.horizon })} · ${t("seed")} ${found.seed}`,
        row.parent === undefined ? "" : [" · ", t("goes.on"), " ", link(study, `/trial/${row.parent}`, String(row.parent))]),
      found.scores ? h("p", { class: "score" }, found.scores) : null,
      h("p", { class: "lead" }, said(row.why), row.stop ? ` — ${t("status.stopped")}: ${said(row.stop)}` : ""),
      h("div", { class: "buttons start" }, ["running", "paused"].includes(row.status) && !study.finished ? stopButton(study, id) : null,
        study.read_only || study.finished || row.probe ? null : h("button", { class: "quiet", type: "button", onclick: () => configDialog(study, found.raw ?? {}) }, t("add")),
        go));
    const config = h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, ["hyperparameter", "value", "default"].map((k) => h("th", { scope: "col" }, t(k))))),
      h("tbody", {}, found.config.map((c) => h("tr", { class: c.changed ? "changed" : null }, h("th", { scope: "row" }, c.name), h("td", { class: "to" }, c.value), h("td", { class: "soft" }, c.default ?? "–")))));
    const parts = [head];
    if (found.failure) parts.push(h("section", {}, h("h2", {}, t("failure")), h("p", { class: "bad" }, `${found.failure.kind}: ${found.failure.reason}`), found.failure.detail ? h("pre", { tabindex: 0 }, found.failure.detail) : null));
    if (found.figures.length) parts.push(h("section", {}, h("h2", {}, t("curves")), figures(found.figures, t("curves"))));
    parts.push(h("div", { class: "two" },
      h("section", {}, h("h2", {}, t("config")), config),
      h("section", {}, h("h2", {}, t("findings")), findings(found.findings),
        found.lineage.length > 1 ? [h("h2", {}, t("lineage")), h("table", { class: "plain" }, h("tbody", {}, found.lineage.map((s) =>
          h("tr", {}, h("th", { scope: "row" }, link(study, `/trial/${s.trial}`, `${t("trial")} ${s.trial}`)), h("td", {}, `${s.from + 1}–${s.until}`), h("td", { class: "mono" }, s.config)))))] : null)));
    parts.push(h("section", {}, h("h2", {}, t("log")), found.log ? h("pre", { tabindex: 0, class: "log" }, found.log) : h("p", { class: "note" }, t("log.none"))));
    main.replaceChildren(h("div", { class: "page" }, parts));
    const log = main.querySelector(".log");
    if (log) log.scrollTop = log.scrollHeight;
  };
  await read();
  return read;
}

/** Fill `main` with two trials. */
export async function comparePage(main, study, first, second) {
  const read = async () => {
    const found = await request(`/api/studies/${study.id}/compare/${first}/${second}`);
    const rows = [...found.config].sort((a, b) => b.differs - a.differs);
    main.replaceChildren(h("div", { class: "page" },
      h("div", { class: "title" }, h("p", { class: "note" }, link(study, "", `← ${t("back")}`)), h("h1", {}, t("compare.title", { a: first, b: second }))),
      h("div", { class: "two wide" },
        h("section", {}, h("h2", {}, t("config")), h("table", { class: "plain" },
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("hyperparameter")), [first, second].map((i, k) => h("th", { scope: "col", class: k ? "d" : "w" }, link(study, `/trial/${i}`, `${t("trial")} ${i}`))))),
          h("tbody", {}, h("tr", {}, h("th", { scope: "row" }, study.study.metric), [first, second].map((i) => h("td", {}, number(study.rows.get(i)?.score)))),
            rows.map((r) => h("tr", { class: r.differs ? "changed" : null }, h("th", { scope: "row" }, r.name), r.values.map((v) => h("td", {}, v))))))),
        h("section", {}, h("h2", {}, t("curves")), figures(found.figures, t("curves"))))));
  };
  await read();
  return read;
}
