"""The checklist of a practitioner: what to tune in which order, and how far a study has come with it.

>>> rows = checklist(lang="en")
>>> [r.title for r in rows if r.tier == 1][:3]
['Learning rate', 'Batch size', 'Optimizer']
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, final

from luthier.core.history import History, StageRecord
from luthier.core.params import Constant, Param, Value
from luthier.core.summary import ABLATION, CONFIRM, scored, summarize
from luthier.knowledge import HEADINGS, Lang, Role, default_value, role_of, roles, rules, tier_of
from luthier.knowledge.page import default_text, number_text, search_text, usual_text
from luthier.playbook.defaults import strong_default
from luthier.playbook.script import settled_config

State = Literal["settled", "open", "skipped", "absent"]
"""Decided; still to be asked; left at its default; not in this space."""

MARKS = {None: "[ ]", "settled": "[x]", "open": "[ ]", "skipped": "[-]", "absent": " . "}
COLUMNS = (40, 29, 27)
"""Widths of title, usual range and default; with their marks and gaps 100 columns and no more."""
WIDTH = 100

WORDS: dict[Lang, dict[str, str]] = {
    "en": {
        "title": "Tuning checklist",
        "hyperparameter": "hyperparameter",
        "usual": "usual range",
        "default": "default",
        "settled": "settled",
        "open": "open",
        "skipped": "skipped",
        "absent": "not in this space",
        "legend": "[x] settled   [ ] open   [-] skipped   . not in this space",
        "constant": "held constant in the space",
        "stage": 'stage "{stage}"',
        "default kept": 'stage "{stage}" chose {value}, the confirmation kept the strong default',
        "confirmed": 'stage "{stage}", confirmed on fresh seeds',
        "tried": 'stage "{stage}" tried {count} values, no change paid',
        "kept": "kept at its default, no other value was tried",
        "inactive": "only with {condition}",
        "unasked": "no stage asked for it; it stays at its default",
        "best": "the best of {count} trials",
        "no score": "no trial gave a score",
        "asking": 'stage "{stage}" is asking',
        "coming": "not decided yet",
        "length": 'stage "{stage}" settled the length',
        "given": "given with the study",
        "elsewhere": "the training function decides",
        "unknown": "No role is known of it: give it one with role=, or let a stage try it last.",
    },
    "zh": {
        "title": "深度学习调参优先级清单",
        "hyperparameter": "超参数",
        "usual": "常用范围",
        "default": "默认",
        "settled": "已确定",
        "open": "待定",
        "skipped": "跳过",
        "absent": "不在搜索空间中",
        "legend": "[x] 已确定   [ ] 待定   [-] 跳过   . 不在搜索空间中",
        "constant": "在搜索空间中固定",
        "stage": "由“{stage}”阶段确定",
        "default kept": "“{stage}”阶段选了 {value}，最终确认保留了默认配置",
        "confirmed": "由“{stage}”阶段确定，并经新种子确认",
        "tried": "“{stage}”阶段试过 {count} 个值，改动没有收益",
        "kept": "保持默认值，未试过其他值",
        "inactive": "仅当 {condition} 时有效",
        "unasked": "没有阶段研究它，保持默认值",
        "best": "{count} 次试验中的最佳",
        "no score": "没有试验得到结果",
        "asking": "“{stage}”阶段正在研究",
        "coming": "尚未决定",
        "length": "由“{stage}”阶段确定训练长度",
        "given": "由研究给定",
        "elsewhere": "由训练函数决定",
        "unknown": "知识库不认识它：可用 role= 指明角色，否则留到最后再试。",
    },
}

STAGES_ZH = {
    "sanity": "流程检查",
    "range": "学习率范围测试",
    "learning rate": "学习率",
    "batch size": "批大小",
    "schedule": "调度与时长",
    "capacity": "模型容量",
    "regularization": "正则化",
    "advanced": "进阶技巧",
    "your own": "自定义超参数",
    "refinement": "联合微调",
    CONFIRM: "最终确认",
    ABLATION: "消融分析",
}


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A line of the checklist.

    Args:
        tier: 1 to 5; 6 for a hyperparameter that the knowledge base does not know.
        role: the knowledge base's name; None where it knows none.
        name: its name in the study's space; None without a study, or where the space has no such hyperparameter.
        title, advice: in the language that was asked for.
        seed_range: the usual range, or the range worth searching where there is no usual one, as text.
        default: the strong default as text; of this study's space where there is one.
        state: how far the study has come with it; None without a study.
        why: what the state rests on.
        value: what it was settled at, or stays at; None where it is undecided.
    """

    tier: int
    role: str | None
    title: str
    seed_range: str
    default: str
    advice: str
    name: str | None = None
    state: State | None = None
    why: str = ""
    value: Value = None


def checklist(history: History | None = None, lang: Lang = "en") -> list[Row]:
    """The tiers in their order: the classical dozen, and with a study whatever else its space holds.

    Args:
        history: a study to mark; None for the bare list.
        lang: ``"en"`` or ``"zh"``.
    """
    names: dict[str | None, list[str]] = {}
    for name, param in history.space.items() if history is not None else ():
        known = role_of(name, param)
        names.setdefault(known.name if known else None, []).append(name)
    rows = []
    for role in roles().values():
        for name in names.get(role.name, ()):
            assert history is not None
            rows.append(_in_space(history, name, role, lang))
        if role.listed and role.name not in names:
            rows.append(_not_in_space(history, role, lang))
    if history is not None:
        rows += [_in_space(history, name, None, lang) for name in names.get(None, ())]
    return rows


def render(rows: Sequence[Row], lang: Lang = "en") -> str:
    """``rows`` as plain text for a terminal of 100 columns; a Chinese character takes two."""
    words = WORDS[lang]
    studied = any(r.state for r in rows)
    lines = [words["title"], "", *_cells("   ", words["hyperparameter"], words["usual"], words["default"])]
    for tier in sorted({r.tier for r in rows}):
        lines.append(HEADINGS[lang][tier])
        for row in (r for r in rows if r.tier == tier):
            title = row.title if row.name in (None, row.role, row.title) else f"{row.title}: {row.name}"
            lines += _cells(MARKS[row.state], title, row.seed_range, row.default)
            if row.state == "absent":
                continue  # named, so that nobody forgets it, but nothing that this study could do about it
            if row.state is not None:
                lines += _indented(_standing(row, lang))
            lines += _indented(row.advice)
        lines.append("")
    lines += wrap(next(getattr(r, lang) for r in rules() if r.name == "order"), WIDTH)
    if studied:
        lines.append(words["legend"])
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _in_space(history: History, name: str, role: Role | None, lang: Lang) -> Row:
    param = history.space[name]
    defaults = strong_default(history)
    state, why, value = _state(history, name, param, lang)
    usual = (usual_text(role, lang) or search_text(role, lang)) if role else "-"
    default = defaults[name] if name in defaults else default_value(history.space, name)
    return Row(
        tier_of(name, param),
        role.name if role else None,
        role.titled(lang) if role else name,
        usual,
        "-" if default is None else _said(default),
        role.advised(lang) if role else WORDS[lang]["unknown"],
        name,
        state,
        why,
        value,
    )


def _not_in_space(history: History | None, role: Role, lang: Lang) -> Row:
    usual = usual_text(role, lang) or search_text(role, lang)
    words = WORDS[lang]
    default, why, value = default_text(role), "", None
    state: State | None = None
    if history is not None:
        state, why = "absent", words["elsewhere"]
        if role.name == "epochs":
            # The length belongs to the study, not to its space, until a stage settles it.
            default = str(history.study.max_epochs)
            state, why, value = "settled", words["given"], history.study.max_epochs
            decided = [s for s in history.stages if not s.open and s.numbers.get("length")]
            if decided:
                value = int(decided[-1].numbers["length"])
                why = words["length"].format(stage=_stage(decided[0].name, lang))
    return Row(role.tier, role.name, role.titled(lang), usual, default, role.advised(lang), None, state, why, value)


def _state(history: History, name: str, param: Param, lang: Lang) -> tuple[State, str, Value]:
    """How far the study has come with a hyperparameter, why, and the value it has now."""
    words = WORDS[lang]
    if isinstance(param, Constant):
        return "settled", words["constant"], param.value
    closed = [s for s in history.stages if not s.open]
    base = settled_config(history)
    confirmed = next((s for s in closed if s.name == CONFIRM and s.settled), None)
    if name in base:
        if closed and len({v for s in history.stages for v in _values(history, s, name)}) < 2:
            # A stage that settles a whole configuration names it too: that decides nothing.
            done = history.finished is not None or any(name in s.settled for s in closed)
            return ("skipped", words["kept"], base[name]) if done else _undecided(history, name, lang)
        for stage in reversed([s for s in closed if s.name not in (CONFIRM, ABLATION)]):
            shown = _stage(stage.name, lang)
            if name in stage.settled:
                chosen = stage.settled[name]
                key = "stage"
                if confirmed is not None and base[name] != chosen:
                    key = "default kept"
                elif confirmed is not None and confirmed.numbers.get("better"):
                    key = "confirmed"
                return "settled", words[key].format(stage=shown, value=_said(chosen)), base[name]
            count = len(_values(history, stage, name))
            if count > 1 and name not in stage.numbers.get("start", ()):
                return "settled", words["tried"].format(stage=shown, count=count), base[name]
    elif history.finished is not None or _parents_decided(history, param):
        return "skipped", words["inactive"].format(condition=_condition(param)), None
    if history.finished is not None:
        return _at_the_end(history, name, param, base.get(name), lang)
    return _undecided(history, name, lang)


def _undecided(history: History, name: str, lang: Lang) -> tuple[State, str, Value]:
    """What is said of a hyperparameter that is still to be asked, or is being asked."""
    words, asking = WORDS[lang], history.open_stage
    if asking is not None and len(_values(history, asking, name)) > 1:
        return "open", words["asking"].format(stage=_stage(asking.name, lang)), None
    return "open", words["coming"], None


def _at_the_end(history: History, name: str, param: Param, stays: Value, lang: Lang) -> tuple[State, str, Value]:
    """What a finished study says of a hyperparameter that no stage decided."""
    words = WORDS[lang]
    if history.stages:
        return "skipped", words["unasked"], stays
    found = summarize(history)
    if found.best_config is None:
        return "skipped", words["no score"], None
    if name not in found.best_config:
        return "skipped", words["inactive"].format(condition=_condition(param)), None
    return "settled", words["best"].format(count=scored(history)), found.best_config[name]


def _values(history: History, stage: StageRecord, name: str) -> set[Value]:
    """The values that a stage's trainings gave a hyperparameter."""
    trials = (history.trials[i] for i in stage.trials)
    asked = (t for t in trials if t.probe is None and "start" not in t.notes)  # that one moves many at once
    return {t.config[name] for t in asked if name in t.config}


def _parents_decided(history: History, param: Param) -> bool:
    """Whether what a hyperparameter depends on is held fixed already."""
    return all(p in history.settled or isinstance(history.space[p], Constant) for p in (param.when or {}))


def _condition(param: Param) -> str:
    parts = [f"{p} = {' / '.join(_said(v) for v in values)}" for p, values in (param.when or {}).items()]
    return ", ".join(parts)


def _stage(name: str, lang: Lang) -> str:
    return STAGES_ZH.get(name, name) if lang == "zh" else name


def _said(value: Value) -> str:
    """A value as people write it, three digits of a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return number_text(float(f"{value:.3g}")) if isinstance(value, float) else str(value)


def _standing(row: Row, lang: Lang) -> str:
    """A row's state in words: ``settled at 0.003: stage "learning rate"``."""
    assert row.state is not None
    word = WORDS[lang][row.state]
    colon = "：" if lang == "zh" else ": "
    if row.value is not None:
        word += f" = {_said(row.value)}"
    return f"{word}{colon}{row.why}"


# -- text ----------------------------------------------------------------------------------------------------------
_WIDE = "\u2e80-\u2fff\u3040-\u9fff\uac00-\ud7af"
_OPENING, _CLOSING = "（“《", "，。；：、）”》！？"
_TOKEN = re.compile(
    rf"\s+|[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}{_CLOSING}]+)[{_CLOSING}]*|[{_OPENING}{_CLOSING}]"
)
"""What a line may not break: a word, or one Chinese character with the punctuation that belongs to it."""


def width(text: str) -> int:
    """Terminal columns that ``text`` takes: two for a full-width character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrap(text: str, columns: int) -> list[str]:
    """``text`` in lines of at most ``columns``, broken at spaces and between Chinese characters."""
    lines = [""]
    for token in _TOKEN.findall(text):
        while width(token) > columns:  # a name longer than the line
            room = max(1, columns - width(lines[-1]))
            lines[-1] += token[:room]
            token = token[room:]
            lines.append("")
        if width(lines[-1] + token.rstrip()) > columns:
            lines.append("")
        if lines[-1] or not token.isspace():
            lines[-1] += token
    return [line.rstrip() for line in lines if line.strip()] or [""]


def _cells(mark: str, *cells: str) -> list[str]:
    """Cells side by side under the columns, each wrapped in its own."""
    columns = [wrap(cell, size - 2) for cell, size in zip(cells, COLUMNS, strict=True)]
    lines = []
    for i, parts in enumerate(zip_longest(*columns, fillvalue="")):
        padded = "".join(part + " " * (size - width(part)) for part, size in zip(parts, COLUMNS, strict=True))
        lines.append(f"{mark if i == 0 else '   '} {padded}")
    return lines


def _indented(text: str) -> list[str]:
    return [" " * 6 + line for line in wrap(text, WIDTH - 6)]
