// What the log and the rules say in English, in the language of the page: by the templates of said.json, or not at all.

const POINT = /[.*+?^${}()|[\]\\]/g;
// {n1} is one word or number, {x1} names with their values, {o1} the same or nothing, {e1} an error as it was raised,
// {t1} something that is said in its turn.
const NAMED = String.raw`[^\s,;:()]+(?: [^\s,;:()]+)?(?:(?:[,:] | and )[^\s,;:()]+(?: [^\s,;:()]+)?)*`;
const HOLES = { n: String.raw`\S+?`, x: NAMED, o: `(?:, ${NAMED})?`, e: ".+", t: ".+" };
const listed = (names) => names.replaceAll(" and ", " 和 ").replace(/\+(\d+) more/, "另 $1 项");
const PLAIN = new RegExp(`^${NAMED}$`);
const ONE = /\b(epoch|trial|training|candidate)s\b/g; // said of one too
const SEAMS = [["; ", "；"], [". ", "。"], ["? ", "？"]];

/** A function that says a text by `table`, English templates to others; null where a part of it is not known. */
export function speaker(table) {
  const known = new Map(), templates = [], told = new Map();
  for (const [english, other] of Object.entries(table)) {
    const holes = [...english.matchAll(/\{(\w+)\}/g)].map((m) => m[1]);
    if (!holes.length) { known.set(english, other); continue; }
    const source = english.split(/\{\w+\}/).map((part) => part.replace(POINT, "\\$&").replace(ONE, "$1s?"));
    const pattern = source.map((part, i) => (i ? `(${HOLES[holes[i - 1][0]]})` : "") + part).join("");
    templates.push({ pattern: new RegExp(`^${pattern}$`), holes, other, words: source.join("").length });
  }
  templates.sort((a, b) => b.words - a.words); // what is said with more words first
  const say = (text) => {
    if (!told.has(text)) {
      if (told.size > 5000) told.clear();
      told.set(text, null); // nothing is said by itself
      told.set(text, find(text));
    }
    return told.get(text);
  };
  const find = (text) => {
    if (known.has(text)) return known.get(text);
    if (text.endsWith(".")) return ended(say(text.slice(0, -1)), "。");
    for (const { pattern, holes, other } of templates) {
      const found = pattern.exec(text);
      const filled = found && filling(found.slice(1), holes);
      if (filled) return other.replace(/\{(\w+)\}/g, (_, hole) => filled.get(hole) ?? "");
    }
    if (/\d/.test(text) && PLAIN.test(text)) return text; // values, not words
    for (let at = 1; at < text.length - 2; at++) {
      const seam = SEAMS.find(([mark]) => text.startsWith(mark, at));
      if (!seam) continue;
      const first = say(seam[0] === "? " ? text.slice(0, at + 1) : text.slice(0, at));
      const rest = first === null ? null : say(text.slice(at + 2));
      if (rest !== null) return (seam[0] === "? " ? first : first + seam[1]) + rest;
    }
    return null;
  };
  const filling = (parts, holes) => {
    const filled = new Map();
    for (const [i, hole] of holes.entries()) {
      const part = hole[0] === "t" ? say(parts[i]) : "xo".includes(hole[0]) ? listed(parts[i]) : parts[i];
      if (part === null) return null;
      filled.set(hole, part);
    }
    return filled;
  };
  const ended = (text, mark) => (text === null ? null : text + mark);
  return say;
}
