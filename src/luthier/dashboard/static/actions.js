// What can be asked of a study from here: stop, pause, resume, a configuration by hand.
import { h, request, t, toast } from "./dom.js";

/** Ask; the study's driver sees to it. Returns whether it was accepted. */
export async function ask(study, wish) {
  try {
    const { said } = await request(`/api/studies/${study.id}/ask`, wish);
    toast(said);
    return true;
  } catch (error) {
    toast(error.message, true);
    return false;
  }
}

/** A button that stops a trial: it asks back once, and forgets after a few seconds. */
export function stopButton(study, trial) {
  const asked = study.pending.stops.includes(trial);
  const button = h("button", {
    type: "button", class: "quiet", disabled: asked || study.read_only, "data-focus": `stop-${trial}`,
    "aria-label": `${t("stop")}, ${t("trial")} ${trial}`,
    onclick: () => {
      if (button.dataset.sure) {
        button.disabled = true;
        ask(study, { do: "stop", trial });
        return;
      }
      button.dataset.sure = "1";
      button.textContent = t("stop.sure");
      setTimeout(() => {
        delete button.dataset.sure;
        if (!button.disabled) button.textContent = t("stop");
      }, 4000);
    },
  }, asked ? t("stop.asked") : t("stop"));
  return button;
}

const typed = (text) => (text.trim() !== "" && isFinite(Number(text)) ? Number(text) : text.trim());

/** The form for a configuration by hand, with the values of `config` filled in. */
export function configDialog(study, config = {}) {
  const { space } = study.study;
  const fields = new Map();
  const problem = h("p", { class: "problem", role: "alert" });
  const holds = (param) => Object.entries(param.when).every(([parent, values]) => {
    const field = fields.get(parent);
    if (!field) return values.some((v) => v === config[parent]);
    return !field.row.hidden && values.some((v) => v === field.value());
  });
  const arrange = () => { for (const [, f] of fields) f.row.hidden = !holds(f.param); };
  for (const param of space) {
    const known = config[param.name];
    let input, value;
    if (param.kind === "choice") {
      input = h("select", { id: `f-${param.name}` }, param.choices.map((c, i) => h("option", { value: i }, String(c))));
      const at = param.choices.findIndex((c) => c === known);
      input.value = String(Math.max(0, at));
      value = () => param.choices[Number(input.value)];
    } else {
      const range = t("range", { low: Number(param.low.toPrecision(3)), high: Number(param.high.toPrecision(3)) });
      input = h("input", { id: `f-${param.name}`, inputmode: "decimal", autocomplete: "off", placeholder: t("empty"), "aria-describedby": `r-${param.name}` });
      input.value = known === undefined ? "" : String(typeof known === "number" ? Number(known.toPrecision(6)) : known);
      value = () => (input.value.trim() === "" ? undefined : typed(input.value));
      param.told = range;
    }
    input.addEventListener("change", arrange);
    const row = h("div", { class: "field" }, h("label", { for: input.id }, param.name), input, h("span", { class: "note", id: `r-${param.name}` }, param.told ?? ""));
    fields.set(param.name, { param, row, value });
  }
  const form = h("form", { method: "dialog", novalidate: true },
    h("h2", {}, t("add")), h("p", { class: "lead" }, t("config.lead")),
    h("div", { class: "fields" }, [...fields.values()].map((f) => f.row)), problem,
    h("div", { class: "buttons" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
      h("button", { type: "submit", class: "main" }, t("train"))));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    const wanted = {};
    for (const [name, f] of fields) if (!f.row.hidden && f.value() !== undefined) wanted[name] = f.value();
    try {
      const { said } = await request(`/api/studies/${study.id}/ask`, { do: "start", config: wanted });
      dialog.close();
      toast(said);
    } catch (error) {
      problem.textContent = error.message;
    }
  });
  const dialog = h("dialog", { class: "sheet", "aria-label": t("add") }, form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  arrange();
  dialog.showModal();
}
