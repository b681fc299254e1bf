// The report's figures, drawn by plotly, which is loaded once the page is there.
import { css, h, request, said, settings, t, has } from "./dom.js";

let loading;
function plotly() {
  loading ??= new Promise((done, fail) => {
    const script = h("script", { src: "/static/plotly.js" });
    script.addEventListener("load", () => done(window.Plotly));
    script.addEventListener("error", () => fail(new Error("plotly.js")));
    document.head.append(script);
  });
  return loading;
}

function word(text) {
  if (settings.lang === "en" || typeof text !== "string") return text;
  const plain = text.replace(/<\/?b>/g, "");
  const bold = plain === text ? (s) => s : (s) => `<b>${s}</b>`;
  if (has(`ink.${plain}`)) return bold(t(`ink.${plain}`));
  const best = /^Best (.+) so far$/.exec(plain);
  if (best) return bold(t("ink.bestsofar", { name: best[1] }));
  const loss = /^training loss, (.+)$/.exec(plain);
  if (loss) return bold(t("ink.loss", { name: loss[1] }));
  const against = /^(\S+) against (\S+)$/.exec(plain);
  if (against) return bold(t("ink.against", { y: against[1], x: against[2] }));
  const trial = /^trial (\d+): (.+)$/.exec(plain);
  if (trial) return bold(t("ink.trial", { id: trial[1], what: said(trial[2]) }));
  return text;
}

function dressed(spec, staged) {
  const layout = structuredClone(spec.layout);
  const soft = css("--soft");
  layout.font.color = soft;
  layout.title.text = word(layout.title.text);
  layout.title.font.color = css("--ink");
  for (const [key, axis] of Object.entries(layout)) {
    if (!/^[xy]axis/.test(key)) continue;
    if (axis.title) axis.title.text = word(axis.title.text);
    if (axis.ticktext) axis.ticktext = axis.ticktext.map(word);
    if (matchMedia("(pointer: fine)").matches) axis.fixedrange = false;
  }
  if (matchMedia("(pointer: fine)").matches) layout.dragmode = "zoom";
  for (const note of layout.annotations ?? []) {
    note.text = staged ? said(word(note.text)) : word(note.text);
    if (note.bgcolor) note.bgcolor = `${css("--paper")}cc`; // a label that stands in front of lines
  }
  Object.assign(layout.hoverlabel, { bgcolor: css("--card"), bordercolor: css("--line") });
  layout.hoverlabel.font.color = css("--ink");
  return layout;
}

/** Draw a figure of the server's into `el`; pressing a point opens its trial. `staged`: what stands in it are stages. */
export async function draw(el, spec, texts, open, staged = false) {
  el.style.height = `${spec.layout.height}px`;
  if (spec.layout.meta?.width) el.style.minWidth = `${spec.layout.meta.width}px`; // narrower it is read by scrolling
  const Plotly = await plotly();
  const data = spec.data.map((trace) => (trace.customdata ? { ...trace, text: trace.customdata.map((i) => texts[i] ?? "") } : trace));
  await Plotly.react(el, data, dressed(spec, staged), { displayModeBar: false, responsive: true, doubleClick: "reset" });
  el.removeAllListeners("plotly_click");
  el.on("plotly_click", (event) => {
    const trial = event.points[0]?.customdata;
    if (open && trial !== undefined && trial !== null) open(trial);
  });
}

/** A group of figures by name that is fetched when it comes into view, and again while the study goes on. */
export class Figures {
  constructor(base, name, label, { small = false, wide = false, empty = "", open } = {}) {
    Object.assign(this, { base, name, label, open, empty, seq: -1, wanted: 0, seen: false, busy: false });
    this.el = h("div", { class: `figures${small ? " small" : ""}${wide ? " wide" : ""}`, "data-figures": name });
    this.observer = new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      this.refresh();
    }, { rootMargin: "300px" });
    this.observer.observe(this.el);
  }

  /** Say that the study stands at event number `seq`. */
  want(seq) {
    this.wanted = seq;
    this.refresh();
  }

  async refresh() {
    if (!this.seen || this.busy || this.seq >= this.wanted || !this.el.isConnected) return;
    if (performance.now() < (this.rests ?? 0)) return this.later(); // a study that reports all the time
    this.busy = true;
    try {
      const found = await request(`${this.base}/figures/${this.name}`);
      await this.show(found);
      // An older answer is one that the server keeps for a few seconds: ask again, and not at once.
      this.seq = found.seq;
      if (found.seq < this.wanted) this.later();
      this.rests = performance.now() + 2000;
    } catch (error) {
      this.el.dataset.error = error.message;
      this.later();
    } finally {
      this.busy = false;
      this.el.dataset.drawn = this.el.children.length;
    }
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), 2000);
  }

  async show({ specs, texts, rests_on }) {
    this.el.hidden = !specs.length && !this.empty;
    if (!specs.length) {
      this.el.replaceChildren(this.empty ? h("p", { class: "note" }, t(this.empty)) : "");
      return;
    }
    if (this.el.firstElementChild?.tagName !== "FIGURE") this.el.replaceChildren();
    while (this.el.children.length > specs.length) this.el.lastElementChild.remove();
    for (const [i, spec] of specs.entries()) {
      let figure = this.el.children[i];
      const title = String(spec.layout.title.text).replace(/<[^>]*>/g, "");
      if (!figure) {
        figure = h("figure", {}, h("div", { class: "ink", role: "img" }));
        this.el.append(figure);
      }
      figure.firstElementChild.setAttribute("aria-label", `${t(this.label)}: ${title}`);
      await draw(figure.firstElementChild, spec, texts, this.open, ["progress", "time"].includes(this.name));
      const note = spec.layout.meta?.note ?? (this.name === "importance" ? rests_on : undefined);
      figure.children[1]?.remove();
      if (note) figure.append(h("figcaption", { class: "note" }, said(note)));
      await new Promise((go) => setTimeout(go)); // one at a time: the page can be used meanwhile
    }
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.timer);
    for (const el of this.el.querySelectorAll(".ink")) window.Plotly?.purge(el);
  }
}
