// The frame: which study, which page, what language; and the stream of changes.
import { duration, fill, h, keep, request, said, settings, t, toast } from "./dom.js";
import { ask } from "./actions.js";
import { Study, StudyPage, studyButtons } from "./study.js";
import { comparePage, trialPage } from "./trial.js";

const main = document.getElementById("main"), bar = document.getElementById("bar");
const app = { studies: [], study: null, page: null, again: null, stream: null, live: true };

function dress() {
  document.documentElement.lang = settings.lang === "zh" ? "zh-CN" : "en";
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  document.getElementById("skip").textContent = t("skip");
  document.getElementById("skip").href = "#main";
}
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });

function stateOf(s) {
  if (s.problem) return ["bad", s.problem];
  if (s.finished) return ["done", t("finished")];
  if (s.paused) return ["paused", s.running.length ? t("pausing") : t("paused")];
  return s.running.length ? ["running", `${s.running.length} ${t("running")}`] : ["idle", t("idle")];
}

function paintBar() {
  const s = app.study;
  const [kind, word] = s ? stateOf(s) : ["", ""];
  const quiet = s && !s.finished ? Date.now() / 1000 - s.last_at : 0;
  const pick = app.studies.length > 1 && s ? h("select", { "aria-label": t("study"), id: "pick", "data-focus": "pick" }, app.studies.map((x) => h("option", { value: x.id, selected: x.id === s.id }, `${x.study.name} — ${x.place}`))) : null;
  fill(bar,
    h("a", { class: "brand", href: "#/", "data-focus": "brand" }, "Luthier"), pick,
    s ? h("span", { class: `state ${kind}` }, app.live ? word : t("lost"), quiet > 60 ? h("span", { class: "note" }, ` · ${t("last")} ${t("ago", { time: duration(quiet) })}`) : "") : "",
    h("span", { class: "gap" }), h("span", { class: "acts", id: "acts", "data-own": "" }),
    h("button", { type: "button", class: "quiet", id: "lang", lang: settings.lang === "zh" ? "en" : "zh-CN", "data-focus": "lang" }, t("language")),
    h("button", { type: "button", class: "quiet", id: "theme", title: t("theme"), "aria-label": `${t("theme")}: ${t(`theme.${settings.theme}`)}`, "data-focus": "theme" }, t(`theme.${settings.theme}`)));
  if (!s) document.getElementById("acts").replaceChildren();
  else {
    const acts = document.getElementById("acts"), stamp = `${s.id} ${s.paused} ${s.finished} ${settings.lang} ${s.read_only}`;
    if (app.acts !== stamp || !acts.children.length) acts.replaceChildren(...studyButtons(s, (wish) => ask(s, wish)));
    app.acts = stamp;
  }
  if (pick) document.getElementById("pick").value = s.id;
  if (pick) document.getElementById("pick").onchange = (event) => (location.hash = `#/${event.target.value}`);
  document.getElementById("lang").onclick = () => { keep("lang", settings.lang === "zh" ? "en" : "zh"); dress(); route(true); };
  document.getElementById("theme").onclick = () => {
    keep("theme", { auto: "light", light: "dark", dark: "auto" }[settings.theme]);
    dress();
    route(true);
  };
}

function overview() {
  document.title = `${t("studies")} · Luthier`;
  main.replaceChildren(h("div", { class: "page" }, h("h1", { class: "plain-title" }, t("studies")), h("div", { class: "scroll", tabindex: 0 }, h("table", { class: "plain studies" },
    h("tbody", {}, app.studies.map((s) => {
      const [kind, word] = stateOf(s), { budget } = s.study;
      const part = budget.epochs ? s.spent / budget.epochs : budget.seconds ? s.elapsed / budget.seconds : s.finished ? 1 : 0;
      return h("tr", {}, h("th", { scope: "row" }, h("a", { href: `#/${s.id}` }, s.study.name), h("div", { class: "note" }, s.place)),
        h("td", {}, h("span", { class: `state ${kind}` }, word)),
        h("td", { class: "meter" }, h("span", { class: "track" }, h("span", { class: "fill", style: { width: `${100 * Math.min(1, part)}%` } })), h("span", { class: "note" }, `${Math.round(s.spent)} ${t("epochs", { n: Math.round(s.spent) })} · ${duration(s.elapsed)}`)),
        h("td", {}, said(s.verdict)));
    }))))));
}

function follow(study) {
  app.stream?.close();
  const stream = new EventSource(`/api/studies/${study.id}/changes?since=${study.seq}`);
  app.stream = stream;
  stream.onopen = () => { app.live = true; paintBar(); };
  stream.onerror = () => { app.live = false; paintBar(); };
  stream.onmessage = (event) => {
    const delta = JSON.parse(event.data);
    if (app.page) app.page.change(delta);
    else {
      study.take(delta);
      if (delta.rows.some((r) => app.again?.ids.includes(r.id))) againLater();
    }
    paintBar();
    performance.mark("luthier-delta");
  };
  stream.addEventListener("reset", () => route(true));
  stream.addEventListener("problem", (event) => {
    study.problem = JSON.parse(event.data).problem;
    if (study.problem) toast(study.problem, true);
    paintBar();
  });
}

let soon;
function againLater() {
  soon ??= setTimeout(() => { soon = undefined; app.again?.read().catch(() => {}); }, 2000);
}

let turn = 0;
async function route(anew = false) {
  const mine = ++turn;
  const [, id, what, a, b] = location.hash.split("/");
  try {
    if (!app.studies.length || anew || !id) app.studies = await request("/api/studies");
    if (mine !== turn) return;
    app.page?.close();
    app.page = app.again = null;
    if (!id && app.studies.length > 1) {
      app.stream?.close();
      app.study = null;
      paintBar();
      overview();
      return;
    }
    const number = Number(id || 0);
    if (app.study?.id !== number || anew) {
      if (app.study?.id !== number) main.replaceChildren(h("p", { class: "page note" }, t("loading")));
      const study = new Study(number);
      await study.load();
      if (mine !== turn) return;
      app.study = study;
      follow(study);
    }
    document.title = `${app.study.study.name} · Luthier`;
    paintBar();
    if (what === "trial" || what === "compare") {
      const ids = [a, b].filter((x) => x !== undefined).map(Number);
      const read = what === "trial" ? await trialPage(main, app.study, ids[0]) : await comparePage(main, app.study, ids[0], ids[1]);
      if (mine === turn) app.again = { ids, read };
      scrollTo(0, 0);
    } else {
      const at = app.at ?? 0;
      app.page = new StudyPage(main, app.study);
      if (!anew) scrollTo(0, at);
      app.at = 0;
      performance.mark("luthier-study");
    }
  } catch (error) {
    if (mine === turn) main.replaceChildren(h("p", { class: "page problem", role: "alert" }, error.message));
  }
}

addEventListener("hashchange", () => route());
document.addEventListener("click", () => { if (app.page) app.at = scrollY; }, true);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => settings.theme === "auto" && route(true));
setInterval(() => app.study && paintBar(), 10000);
dress();
paintBar();
route();
