"""The knowledge base as a page to read: ``docs/knowledge.md`` is what :func:`markdown` returns.

To write it again: ``python -c "from luthier.knowledge import markdown; print(markdown(), end='')" > docs/knowledge.md``
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from luthier.knowledge.roles import HEADINGS, TIERS, Lang, Role, roles, rules, sources

INTRO = """\
# What Luthier knows of each hyperparameter

This page is made from the data files in `src/luthier/knowledge/` by `luthier.knowledge.markdown()`; edit those.
In Python it is `luthier.knowledge.role("p_drop")`, a space to begin with is
`luthier.knowledge.recommended(task="classification", tiers=(1, 2))`.

How to read it: *usual* is the range that textbooks and checklists give, *search* the one worth searching, *default* the
strong default, *prior* a normal distribution around its center, its spread in decades where the scale is logarithmic.
Numbers that depend on the optimizer, or on training from scratch or fine-tuning, stand in a list of their own. Every
number is a starting point for a search, not its result.
"""


def markdown() -> str:
    """The whole knowledge base as Markdown text, in English with titles, advice and notes in Chinese too."""
    parts = [INTRO, "## Rules\n", *(f"- {r.en}\n  {r.zh} ({_cited(r.sources)})" for r in rules()), ""]
    for tier in TIERS:
        mine = [r for r in roles().values() if r.tier == tier]
        parts += [f"## {HEADINGS['en'][tier]}", "", HEADINGS["zh"][tier], ""]
        parts += _table(mine)
        for role in mine:
            parts += _entry(role)
    used = {key for role in roles().values() for key in role.sources} | {k for r in rules() for k in r.sources}
    parts += ["## Sources", ""]
    parts += [f'- <a id="{key}"></a>[{s.citation}]({s.url})' for key, s in sources().items() if key in used]
    return "\n".join(parts).rstrip() + "\n"


def number_text(x: float) -> str:
    """A number as people write hyperparameters, the shorter of the plain and the scientific form.

    >>> [number_text(x) for x in (1e-05, 0.001, 0.00636, 0.05, 0.99999, 2.0, 2147483647)]
    ['1e-5', '1e-3', '0.00636', '0.05', '0.99999', '2', '2147483647']
    """
    if x == int(x):
        return str(int(x))
    plain = f"{x:.12f}".rstrip("0")
    mantissa, exponent = f"{x:.5e}".split("e")
    scientific = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return scientific if abs(x) < 1 and (len(scientific) < len(plain) or float(plain) != x) else f"{x:.12g}"


def usual_text(role: Role, lang: Lang = "en") -> str:
    """The range or the choices that textbooks and checklists give; empty where they give none."""
    if role.seed_range is not None:
        return span_text(*role.seed_range, lang)
    if lang == "zh":
        return "、".join(role.seed_choices_zh or role.seed_choices)
    return ", ".join(role.seed_choices)


def search_text(role: Role, lang: Lang = "en") -> str:
    """The range worth searching, or the preferred choices; ``-`` where it depends on the model."""
    if role.low is None or role.high is None:
        return ("、" if lang == "zh" else ", ").join(role.prefer[:5]) or "-"
    return span_text(role.low, role.high, lang)


def span_text(low: float, high: float, lang: Lang = "en") -> str:
    """A range in words: ``16 to 512``, ``16 ~ 512``."""
    return f"{number_text(low)} {'~' if lang == 'zh' else 'to'} {number_text(high)}"


def default_text(role: Role) -> str:
    """The strong default; by optimizer where the two most common ones differ; ``-`` where the model decides."""
    if role.kind == "choice":
        return role.prefer[0] if role.prefer else "-"
    by = {o: role.number("default", o) for o in ("adamw", "sgd")}
    if len(set(by.values())) > 1:
        return ", ".join(f"{number_text(v)} ({o})" for o, v in by.items() if v is not None)
    return "-" if role.default is None else number_text(role.default)


def _cited(keys: Iterable[str]) -> str:
    return ", ".join(f"[{key}](#{key})" for key in keys)


def _table(mine: Iterable[Role]) -> list[str]:
    lines = ["| hyperparameter | usual | search | default |", "|---|---|---|---|"]
    for r in mine:
        search = search_text(r) + (", log" if r.log else "")
        lines.append(f"| [{r.title}](#{r.name}) {r.title_zh} | {usual_text(r)} | {search} | {default_text(r)} |")
    return [*lines, ""]


def _entry(role: Role) -> list[str]:
    lines = [f'### <a id="{role.name}"></a>`{role.name}`: {role.title} {role.title_zh}', "", role.advice]
    lines += [role.advice_zh, ""]
    if role.note:
        lines += [role.note, role.note_zh, ""]
    prior = _prior(role)
    if prior:
        lines.append(f"- prior: {prior}")
    for place, numbers in role.by.items():
        lines.append(f"- {_place(place)}: {_numbers(numbers)}")
    lines.append(f"- when to leave it alone: {role.skip}")
    if role.coupled:
        lines.append(f"- look again, when it changes, at: {', '.join(f'[{c}](#{c})' for c in role.coupled)}")
    if role.prefer:
        lines.append(f"- preferred, in this order (spellings of one among them): {', '.join(role.prefer)}")
    lines.append(f"- also called: {', '.join(f'`{a}`' for a in role.aliases)}")
    if role.other_units:
        lines.append(f"- in other units: {', '.join(f'`{a}`' for a in role.other_units)}")
    return [*lines, f"- sources: {_cited(role.sources)}", ""]


def _prior(role: Role) -> str:
    if role.center is None or role.spread is None:
        return role.shape
    around = f"around {number_text(role.center)}, spread {number_text(role.spread)}" + (" decades" if role.log else "")
    return f"{around}; {role.shape}" if role.shape else around


def _place(place: str) -> str:
    setting, _, optimizer = place.rpartition(".")
    words = {"finetune": "fine-tuning"}
    return f"{words[setting]} with {optimizer}" if setting else words.get(optimizer, f"with {optimizer}")


def _numbers(numbers: Mapping[str, float]) -> str:
    text = [f"search {span_text(numbers['low'], numbers['high'])}"] if "low" in numbers and "high" in numbers else []
    rest = [k for k in ("default", "center", "spread") if k in numbers]
    return ", ".join([*text, *(f"{k} {number_text(numbers[k])}" for k in rest)])
