// Small helpers: elements, words, numbers, requests.
import { speaker } from "./said.js";

const TEXTS = JSON.parse(document.getElementById("texts").textContent);
export const settings = {
  lang: localStorage.getItem("luthier.lang") || (navigator.language.startsWith("zh") ? "zh" : "en"),
  theme: localStorage.getItem("luthier.theme") || "auto",
};

export function keep(name, value) {
  settings[name] = value;
  localStorage.setItem(`luthier.${name}`, value);
}

/** The text of `key` in the language that is set, that of one where `n` is 1; `{name}` is filled in. */
export function t(key, fill = {}) {
  const found = (fill.n === 1 && TEXTS[`${key}.one`]) || TEXTS[key];
  const text = found ? found[settings.lang === "zh" ? 1 : 0] : key;
  return text.replace(/\{(\w+)\}/g, (_, name) => fill[name] ?? "");
}

let chinese;
/** A sentence of the log in the language that is set, where its template is known; else as the log has it. */
export function said(text) {
  if (settings.lang !== "zh" || !text) return text;
  chinese ??= speaker(JSON.parse(document.getElementById("said").textContent));
  return chinese(text.trim()) ?? text;
}

/** Whether the table has a text. */
export const has = (key) => key in TEXTS;

/** An element: `h("p", { class: "note", onclick: f }, "text", child)`. Text is never read as HTML. */
export function h(tag, attributes = {}, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || (value === false && !name.startsWith("aria-"))) continue;
    if (name.startsWith("aria-")) el.setAttribute(name, String(value));
    else if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(el.style, value);
    else if (name in el && typeof value === "boolean") el[name] = value;
    else el.setAttribute(name, value === true ? "" : value);
  }
  el.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return el;
}

/** A score in about four telling digits, as the report writes it. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (!isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size === 0 || (size >= 0.01 && size < 10)) return value.toFixed(4);
  if (size >= 10 && size < 1000) return value.toFixed(4 - String(Math.trunc(size)).length);
  if (size >= 1000 && size < 100000) return value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  return String(Number(value.toPrecision(4)));
}

export const whole = (value) => Math.round(value).toLocaleString("en");

export function duration(seconds) {
  const all = Math.max(0, Math.round(seconds));
  if (all < 60) return `${all}s`;
  const two = (n) => String(n).padStart(2, "0");
  if (all < 3600) return `${Math.floor(all / 60)}m${two(all % 60)}s`;
  if (all < 172800) return `${Math.floor(all / 3600)}h${two(Math.floor((all % 3600) / 60))}m`;
  return `${Math.floor(all / 86400)}d`;
}

/** What the server answers; an Error with its problem and how to mend it where it refuses. */
export async function request(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const data = await answer.json().catch(() => ({ problem: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error([data.problem ?? answer.statusText, data.mend].filter(Boolean).join(" "));
  return data;
}

let fading;
/** A line at the foot of the page that fades. */
export function toast(text, bad = false) {
  const el = document.getElementById("toast");
  el.textContent = text;
  el.className = `toast shown${bad ? " bad" : ""}`;
  clearTimeout(fading);
  fading = setTimeout(() => (el.className = "toast"), bad ? 9000 : 5000);
}

/**
 * Make `el` hold `children`, touching only what differs: what is focused, hovered or being pressed stays the same element.
 * Listeners on `children` are lost where an element is there already (set `onclick` afterwards); what carries `data-own`
 * is left to whoever put it there.
 */
export function fill(el, ...children) {
  morph(el, h("div", {}, ...children));
}

function morph(old, fresh) {
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    if (!at) { old.append(child); continue; }
    const next = at.nextSibling;
    if (at.nodeType !== child.nodeType || at.nodeName !== child.nodeName) at.replaceWith(child);
    else if (at.nodeType === Node.TEXT_NODE) { if (at.data !== child.data) at.data = child.data; }
    else {
      for (const { name } of [...at.attributes]) if (!child.hasAttribute(name)) at.removeAttribute(name);
      for (const { name, value } of child.attributes) if (at.getAttribute(name) !== value) at.setAttribute(name, value);
      if (!("own" in at.dataset)) morph(at, child);
    }
    at = next;
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
