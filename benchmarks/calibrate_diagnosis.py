"""How often is each finding true? Measured on real curves and on faults put in on purpose; writes what Luthier ships.

Labels are facts that only the whole training shows, so that a finding on a prefix is a prediction:

- dead_start: the validation loss of the whole training never gets below log(classes) by 0.005 (TaskSet).
- diverged: the training ends non-finite or above twice log(classes) (TaskSet); AlgoPerf's trainings end far below.
- non_finite: a loss of the whole training is not finite.
- overfitting, overfitting_loss_only: the lowest validation loss is behind, the last one of the whole training is 2 %
  above it, and the training loss is lower than then. Missed: such trainings with a fifth of what was seen behind the
lowest. - still_improving, plateau, as if the training were over, at a constant rate only (TaskSet): a later evaluation
  is, or is not, better than the best before by two standard deviations of the noise and by 0.1 % of it.
- should_stop: no later evaluation is better than the best before by 1 %.
- seed_fragility: among five repeats, one ends worse than the median by 10 % of what the median learned (AlgoPerf).
- the others: true on a fault that they name (benchmarks/faults.py), false on a healthy training.

The thresholds were set on the seeds 0 to 2 and the first half of the tasks and workloads, by name; what is reported and
shipped is measured on fresh seeds and the other half (--split develop shows the first).

    python benchmarks/calibrate_diagnosis.py [--curves algoperf-curves.jsonl.gz] [--taskset taskset.npz] [--write]
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dead_starts
import faults
import numpy as np

from luthier.diagnosis import Curves, Diagnosis, Series, diagnose_curves, diagnose_study
from luthier.diagnosis.confidence import CERTAIN, FEWEST, UNMEASURED
from luthier.diagnosis.rules import RULES
from luthier.diagnosis.signals import noise, smooth

ROOT = Path(__file__).parents[1]
PARTS = (0.1, 0.25, 0.5, 1.0)
SEEDS = {"develop": (0, 1, 2), "report": (10, 11, 12)}
STRIDE = 4
"""Every fourth configuration of a TaskSet task; 250 of them."""
METRICS = (("accuracy", True), ("ssim", True), ("mean_average_precision", True), ("wer", False))
LATER = ("dead_start", "diverged", "non_finite", "overfitting", "overfitting_loss_only", "should_stop")
AS_IF_OVER = ("still_improving", "plateau")
ELSEWHERE = (*AS_IF_OVER, "should_stop")
"""What injected faults cannot show."""
Count = Counter[str]
Counts = dict[tuple[str, str, float], Count]
"""(source, kind, part seen) -> how often true, false, missed."""


def serious(diagnosis: Diagnosis) -> list[str]:
    return [f.kind for f in diagnosis if f.severity in ("critical", "warning")]


def half(names: list[str], split: str) -> list[str]:
    """The first half of the names, or the second."""
    cut = len(names) // 2
    return sorted(names)[:cut] if split == "develop" else sorted(names)[cut:]


def algoperf(path: str) -> dict[str, list[Curves]]:
    """workload -> its trainings. The schedule is the submissions' warmup and cosine; steps are the unit."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows[row["workload"]].append(row)
    out = {}
    for workload, runs in rows.items():
        length = max(run["curve"]["global_step"][-1] for run in runs)
        out[workload] = [_algoperf_curves(run, length) for run in runs if len(run["curve"]["global_step"]) >= 5]
    return {workload: runs for workload, runs in out.items() if runs}


def _algoperf_curves(run: Mapping[str, Any], length: float) -> Curves:
    curve, given = run["curve"], run["hyperparameters"]
    x = np.asarray(curve["global_step"], dtype=float)
    rising = np.concatenate([[True], np.diff(x) > 0])

    def series(name: str) -> Series | None:
        return Series.of(np.asarray(curve[name], dtype=float)[rising], x[rising]) if name in curve else None

    loss = "loss" if "train/loss" in curve else "ctc_loss"
    metric, maximize = next(((m, up) for m, up in METRICS if f"validation/{m}" in curve), ("", True))
    warm = given["warmup_factor"]
    done = x[rising] / length
    factor = np.where(done < warm, done / warm, 0.5 * (1 + np.cos(np.pi * np.clip((done - warm) / (1 - warm), 0, 1))))
    return Curves(
        train_loss=series(f"train/{loss}"), val_loss=series(f"validation/{loss}"),
        train_metric=series(f"train/{metric}"), val_metric=series(f"validation/{metric}"), maximize=maximize,
        learning_rate=Series.of(given["learning_rate"] * factor, x[rising]), length=length, unit="step",
        trivial_loss=math.log(1000) if "imagenet" in run["workload"] else None,
        config={**given, "schedule": "cosine"}, name=f"{run['workload']}, study {run['study']}, {run['trial']}",
    )  # fmt: skip


def truths(whole: Curves, end: float) -> dict[str, bool]:
    """What a finding of each kind, made when ``end`` was reached, turns out to be."""
    assert whole.val_loss is not None
    assert whole.train_loss is not None
    val, train = whole.val_loss.y, whole.train_loss.y
    finite = bool(np.isfinite(val).all() and np.isfinite(train).all())
    out = {"non_finite": not finite}
    if whole.trivial_loss is not None:
        out["dead_start"] = not np.nanmin(np.where(np.isfinite(val), val, np.inf)) < whole.trivial_loss - 0.005
        out["diverged"] = not finite or bool(val[-1] > 2.0 * whole.trivial_loss)
    if not finite:
        return out | {"should_stop": True}
    level = smooth(val)
    low = int(np.argmin(level))
    risen = level[-1] > 1.02 * level[low] and smooth(train)[-1] < smooth(train)[low]
    out["overfitting"] = out["overfitting_loss_only"] = bool(risen and whole.val_loss.x[low] < end)
    before, after = val[whole.val_loss.x <= end], val[whole.val_loss.x > end]
    margin = max(2.0 * noise(val), 1e-3 * abs(float(before.min()))) if len(before) else 0.0
    better = bool(len(after) and len(before) and smooth(val)[whole.val_loss.x > end].min() < before.min() - margin)
    much = bool(len(after) and len(before) and after.min() < 0.99 * before.min())
    return out | {"still_improving": better, "plateau": not better, "should_stop": not much}


def label(whole: Curves, end: float) -> dict[str, bool]:
    """Which kinds should have been found by ``end``; kinds without an entry are not counted as missed."""
    true = truths(whole, end)
    if "overfitting" in true:
        assert whole.val_loss is not None
        level = smooth(whole.val_loss.y)
        clear = whole.val_loss.x[int(np.argmin(level))] < 0.8 * end
        true["overfitting"] = true["overfitting"] and bool(clear)
    return true


def count_real(source: str, wholes: list[Curves], counts: Counts, constant: bool) -> None:
    """Findings on prefixes of real trainings against what became of them."""
    for whole in wholes:
        assert whole.length is not None
        for part in PARTS:
            seen = whole.prefix(part)
            if seen.val_loss is None or len(seen.val_loss) < 5:
                continue
            end = part * whole.length
            true, should = truths(whole, end), label(whole, end)
            found = {f.kind for f in diagnose_curves(seen)}
            rises = found & {"overfitting", "overfitting_loss_only"}
            for kind in LATER:
                if kind not in true or (kind == "should_stop" and part == 1.0):
                    continue
                row = counts[source, kind, part]
                if kind in found:
                    row["true" if true[kind] else "false"] += 1
                elif should[kind] and kind in ("dead_start", "diverged", "non_finite"):
                    row["missed"] += kind == "non_finite" or "non_finite" not in found  # it says the same, and more
                elif should[kind] and kind == "overfitting" and not rises:
                    row["missed"] += 1
            if constant and part < 1.0:
                found = {f.kind for f in diagnose_curves(replace(seen, length=None))}
                for kind in AS_IF_OVER:
                    row = counts[source, kind, part]
                    if kind in found:
                        row["true" if true.get(kind, False) else "false"] += 1
                    elif true.get(kind, False):
                        row["missed"] += 1


def count_seeds(workloads: Mapping[str, list[Curves]], counts: Counts) -> None:
    """seed_fragility on AlgoPerf's repeats."""
    for runs in workloads.values():
        groups: dict[str, list[Curves]] = defaultdict(list)
        for run in runs:
            groups[repr(run.config)].append(run)
        for group in groups.values():
            if len(group) < 3:
                continue
            ends = [float(run.val_loss.y[-1]) for run in group if run.val_loss is not None]
            start = float(np.median([run.val_loss.y[0] for run in group if run.val_loss is not None]))
            middle = float(np.median(ends))
            failed = not np.isfinite(ends).all() or max(ends) > middle + 0.1 * (start - middle)
            told, row = diagnose_study(group).has("seed_fragility"), counts["AlgoPerf", "seed_fragility", 1.0]
            if told or failed:
                row["true" if told and failed else "false" if told else "missed"] += 1


def count_injected(runs: list[dict[str, Any]], counts: Counts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Named faults and false alarms, at the end and on prefixes; each training by epoch and by update."""
    cases = {case.name: case for case in (*faults.FAULTS, *faults.HEALTHY)}
    named: dict[str, Any] = defaultdict(lambda: {"epoch": 0, "update": 0, "first": Counter(), "second": Counter()})
    alarms: dict[str, Any] = {str(part): Counter() for part in PARTS}
    for run in runs:
        case = cases[run["case"]]
        for stepwise in (False, True):
            for part in PARTS:
                seen = faults.curves(run, stepwise).prefix(part)
                if not any(len(s) for s in seen.all().values()):
                    continue
                diagnosis = diagnose_curves(seen)
                found = [f.kind for f in diagnosis if f.severity != "good"]
                for kind in found:
                    if kind in ELSEWHERE:
                        continue
                    if kind in case.expect:
                        counts["injected", kind, part]["true"] += 1
                    elif not case.expect:
                        counts["injected", kind, part]["false"] += 1
                if not case.expect:
                    alarms[str(part)]["trainings"] += 1
                    alarms[str(part)]["alarms"] += bool(serious(diagnosis))
                    if serious(diagnosis):
                        alarms[str(part)][serious(diagnosis)[0]] += 1
                    elif part == 1.0:
                        counts["injected", "healthy", part]["true"] += 1
                    continue
                if part == 1.0:
                    if diagnosis.has("healthy"):
                        counts["injected", "healthy", part]["false"] += 1
                    if not set(found) & set(case.expect):
                        counts["injected", case.expect[0], part]["missed"] += 1
                    row = named[case.name]
                    row["update" if stepwise else "epoch"] += bool(set(found[:2]) & set(case.expect))
                    if not stepwise or case.name == "unshuffled_data":
                        row["first"][found[0] if found else "nothing"] += 1
                        row["second"][found[1] if len(found) > 1 else "-"] += 1
    return dict(named), alarms


def summed(counts: Counts) -> dict[str, list[dict[str, Any]]]:
    """Per kind and part, over all sources."""
    kinds: dict[str, dict[float, Count]] = defaultdict(lambda: defaultdict(Counter))
    for (_, kind, part), row in counts.items():
        kinds[kind][part].update(row)
    return {
        kind: [{"seen": part, **{k: rows[part][k] for k in ("true", "false", "missed")}} for part in sorted(rows)]
        for kind, rows in sorted(kinds.items())
    }


def share(a: int, b: int) -> str:
    return "-" if a + b == 0 else f"{100 * a / (a + b):.0f} %"


def told_of(workloads: Mapping[str, list[Curves]]) -> Iterator[str]:
    """How often each warning is given on AlgoPerf's trainings, which are tuned well and have no label of health."""
    yield "**Warnings on AlgoPerf's trainings**, at their end; they are well tuned."
    yield ""
    yield "| workload | trainings | with a warning of tier 0 or 1 | warnings |"
    yield "|---|---|---|---|"
    for name, runs in sorted(workloads.items()):
        read = [diagnose_curves(run) for run in runs]
        kinds = Counter(kind for one in read for kind in serious(one))
        low = sum(any(RULES[kind].tier <= 1 for kind in serious(one)) for one in read)
        which = ", ".join(f"{kind} ({n})" for kind, n in kinds.most_common()) or "-"
        yield f"| {name} | {len(runs)} | {low} | {which} |"
    yield ""


def tables(counts: Counts, named: Mapping[str, Any], alarms: Mapping[str, Any]) -> Iterator[str]:
    """The measurements in Markdown."""
    per = sum(row["epoch"] + row["update"] for row in named.values())
    hit = sum(max(row["epoch"], row["update"]) >= 2 for row in named.values())
    yield (
        f"**Faults put in on purpose.** {hit} of {len(named)} come first or second in two of three seeds or more, "
        f"from the curves by epoch or with the training loss of every update ({per} of {6 * len(named)} diagnoses)."
    )
    yield ""
    yield "| fault | counts as naming it | named, by epoch | named, by update | first | second |"
    yield "|---|---|---|---|---|---|"
    expect = {case.name: ", ".join(case.expect) for case in faults.FAULTS}
    for name, row in named.items():
        first, second = (", ".join(f"{k} ({n})" for k, n in row[at].most_common(3)) for at in ("first", "second"))
        yield f"| {name} | {expect[name]} | {row['epoch']} of 3 | {row['update']} of 3 | {first} | {second} |"
    yield ""
    for case in faults.FAULTS:
        if case.visible:
            yield f"Is `{case.name}` visible in curves? {case.visible}."
    yield ""
    yield "**False alarms**: warnings and critical findings on healthy trainings, each by epoch and by update."
    yield ""
    yield "| seen | diagnoses | with an alarm | which |"
    yield "|---|---|---|---|"
    for part, row in alarms.items():
        which = ", ".join(f"{k} ({n})" for k, n in row.items() if k not in ("trainings", "alarms")) or "-"
        rate = share(row["alarms"], row["trainings"] - row["alarms"])
        yield f"| {100 * float(part):.0f} % | {row['trainings']} | {row['alarms']} ({rate}) | {which} |"
    yield ""
    yield "**Every rule**, by source and by the part of the training that was seen."
    yield ""
    yield "| kind | source | seen | true | false | missed | precision | recall |"
    yield "|---|---|---|---|---|---|---|---|"
    leading = {case.expect[0] for case in faults.FAULTS}
    order = list(RULES)
    for (source, kind, part), row in sorted(counts.items(), key=lambda item: (order.index(item[0][1]), item[0])):
        if sum(row.values()):
            a, b, c = row["true"], row["false"], row["missed"]
            recall = share(a, c) if source != "injected" or (part == 1.0 and kind in leading) else "-"
            yield f"| {kind} | {source} | {100 * part:.0f} % | {a} | {b} | {c} | {share(a, b)} | {recall} |"


RULES_BEGIN, RULES_END = "<!-- rules: written by benchmarks/calibrate_diagnosis.py -->", "<!-- end of the rules -->"
BEGIN, END = "<!-- measured: written by benchmarks/calibrate_diagnosis.py -->", "<!-- end of what was measured -->"


def page(old: str, measured: str) -> str:
    """docs/diagnosis.md with the list of rules and the measurements put in."""
    rules = ["| kind | tier | what it means | when |", "|---|---|---|---|"]
    rules += [f"| `{r.kind}` | {r.tier} | {r.means} | {r.when} |" for r in sorted(RULES.values(), key=lambda r: r.rank)]
    return put(put(old, RULES_BEGIN, RULES_END, "\n".join(rules)), BEGIN, END, measured)


def put(text: str, begin: str, end: str, new: str) -> str:
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n\n{new}\n\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", help="AlgoPerf's curves, JSON lines, gzipped")
    parser.add_argument("--taskset", help="TaskSet's curves, .npz")
    parser.add_argument("--split", choices=SEEDS, default="report")
    parser.add_argument("--runs", help="what benchmarks/faults.py wrote; without it the trainings are done now")
    parser.add_argument("--write", action="store_true", help="write calibration.json and docs/diagnosis.md")
    given = parser.parse_args()
    counts: Counts = defaultdict(Counter)
    chosen: dict[str, list[Curves]] = {}
    if given.runs:
        runs = [json.loads(line) for line in Path(given.runs).read_text(encoding="utf-8").splitlines()]
    else:
        runs = [faults.train(case, s) for case in (*faults.FAULTS, *faults.HEALTHY) for s in SEEDS[given.split]]
    named, alarms = count_injected(runs, counts)
    if given.curves:
        workloads = algoperf(given.curves)
        chosen = {name: workloads[name] for name in half(list(workloads), given.split)}
        for group in chosen.values():
            count_real("AlgoPerf", group, counts, constant=False)
        count_seeds(chosen, counts)
    if given.taskset:
        tasks = dead_starts.load(given.taskset)
        for name in half(list(tasks), given.split):
            wholes = [dead_starts.curves(c, t, v) for c, t, v in list(zip(*tasks[name]))[::STRIDE]]
            count_real("TaskSet", wholes, counts, constant=True)
    measured = "\n".join([*(told_of(chosen) if chosen else ()), *tables(counts, named, alarms)])
    print(measured)
    if given.write:
        data = {
            "measured_by": f"benchmarks/calibrate_diagnosis.py, split {given.split}",
            "unmeasured": {"confidence": UNMEASURED, "fewer_findings_than": FEWEST},
            "certain": list(CERTAIN),
            "kinds": summed(counts),
        }
        place = ROOT / "src" / "luthier" / "diagnosis" / "calibration.json"
        rows = json.dumps(data, indent=1).replace("\n    ", " ").replace("\n   }", " }")
        place.write_text(rows + "\n", encoding="utf-8")
        docs = ROOT / "docs" / "diagnosis.md"
        docs.write_text(page(docs.read_text(encoding="utf-8"), measured), encoding="utf-8")


if __name__ == "__main__":
    main()
