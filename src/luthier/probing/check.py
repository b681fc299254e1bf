"""The checks that catch a broken pipeline before hours go into tuning it (Karpathy 2019)."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from luthier.diagnosis import checks
from luthier.diagnosis.checks import CheckReport, CheckRow
from luthier.probing.batch_size import bench_of, make_update, shortened
from luthier.probing.lr_range import Snapshot, seed_all
from luthier.recipe import Recipe
from luthier.recipe.data import Data, SampleTable
from luthier.recipe.probes import Bench, generators_kept

UPDATES = 60
"""Of the short training that four checks share; 0.9**60 leaves nothing of a batch norm's first running statistics."""
LAST = 15
"""Batch losses at its end that are compared with those of the training without inputs."""
WATCHED = 3
"""First updates whose gradients are looked at."""
MODE_BATCHES = 4
RERUN_BATCHES = 8
"""In an epoch of the trainings that are run again and resumed."""
HASHED = 2**27
"""Bytes of each data set that are looked for duplicates."""
QUOTED = 50
"""Tokens in a row that two texts hardly share by chance (Lee et al. 2022, "Deduplicating Training Data Makes Language
Models Better", section 4.1)."""
LOADED = 512
"""Samples of a data set without tensors that are looked at; each must be loaded."""
TRAINING = ("gradient_flow", "input_baseline", "train_eval", "throughput")
RERUN = ("deterministic_rerun", "checkpoint")


def check(recipe: Recipe, config: Mapping[str, Any] | None = None, seed: int = 0) -> CheckReport:
    """Put ``recipe`` under ``config`` through every check: data, gradients, short trainings, a checkpoint, speed.

    A few hundred updates in all, a fraction of an epoch or a few of them; the global generators are left as they were.
    Rows: ``inputs``, ``overlap``, ``class_balance``, ``initial_loss``, ``overfit_batch``, ``gradient_flow``,
    ``input_baseline``, ``train_eval``, ``throughput``, ``deterministic_rerun``, ``checkpoint``.

    Raises:
        UserError: a bad value or name in the config, or a model or data that do not fit. What fails later is a row.
    """
    config = dict(config or {})
    bench = bench_of(recipe, config, seed)
    with generators_kept():
        bench.model()  # what is wrong with it is the caller's mistake, not a finding
        rows = _data_rows(bench.data)
        if bench.data.faults:
            why = "not with NaN or infinity in the data"
            names = ("initial_loss", "overfit_batch", *TRAINING, *RERUN)
            return CheckReport((*rows, *(CheckRow(name, "skipped", why) for name in names)))
        rows += _guarded(("initial_loss", "overfit_batch"), lambda: _sanity(recipe, config, seed))
        fits = all(row.status == "pass" for row in rows if row.name == "overfit_batch")
        rows += _training_rows(bench, fits)
        rows += _guarded(RERUN, lambda: _rerun(recipe, config, bench, seed))
    return CheckReport(tuple(rows))


# The data


def _data_rows(data: Data) -> list[CheckRow]:
    (x, y), (val_x, val_y) = _rows(data.train), _rows(data.val)
    same = bool((x == x[:1]).all())
    spread = float(x.double().std()) if x.is_floating_point() and x.numel() > 1 else None
    rows = [checks.judge_inputs(not data.faults, same, spread)]
    rows.append(_overlap(data, x, val_x))
    if data.task == "language":
        return [*rows, CheckRow("class_balance", "skipped", "tokens of a language are not equally frequent")]
    if data.task != "classification":
        return [*rows, CheckRow("class_balance", "skipped", f"{data.task} has no classes")]
    counts = [torch.bincount(labels.cpu(), minlength=data.outputs).tolist() for labels in (y, val_y)]
    return [*rows, checks.judge_balance(*counts)]


def _overlap(data: Data, x: Tensor, val_x: Tensor) -> CheckRow:
    if data.task == "language" and data.labels_each < QUOTED:
        why = f"{data.labels_each} tokens in a row may well occur twice: look with a context of {QUOTED} or more"
        return CheckRow("overlap", "skipped", why)
    if data.streams is not None:
        # What was copied from one stream to the other need not begin where a window does.
        context, longest = data.labels_each, HASHED // 8
        train, val = (stream[:longest].cpu() for stream in data.streams)
        values = torch.randint(-(2**63), 2**63 - 1, (data.outputs,), generator=torch.Generator().manual_seed(0))
        held = _fingerprints(values[val[:-1]], context)[::context]
        shared = int(torch.isin(held, _fingerprints(values[train], context)).sum())
        looked = max(1, len(train) // context - 1), len(held)
        return checks.judge_overlap(shared, len(held), looked, (len(data.train), len(data.val)), checks.REPEATED)
    seen = set(_digests(x))
    shared = sum(digest in seen for digest in _digests(val_x))
    most = checks.REPEATED if data.task == "language" else checks.OVERLAP
    return checks.judge_overlap(shared, len(val_x), (len(x), len(val_x)), (len(data.train), len(data.val)), most)


def _fingerprints(values: Tensor, length: int) -> Tensor:
    """Of every ``length`` numbers in a row: their polynomial in a fixed odd base, modulo 2**64 (Karp & Rabin 1987)."""
    base, modulus = 0x9E3779B97F4A7C15, 2**64
    signed = [b - modulus if b >= modulus // 2 else b for b in (base, pow(base, -1, modulus))]
    powers, inverses = (
        torch.cat([torch.ones(1, dtype=torch.int64), torch.full((len(values) - 1,), b)]).cumprod(0) for b in signed
    )
    sums = torch.cat([torch.zeros(1, dtype=torch.int64), (values * powers).cumsum(0)])
    return (sums[length:] - sums[:-length]) * inverses[: len(values) - length + 1]


def _rows(table: SampleTable) -> tuple[Tensor, Tensor]:
    """Inputs and targets of as many samples as can be looked at, evenly spaced."""
    if table.tensors is not None:
        x, y = table.tensors
        bytes_each = max(x[0].numel() * x.element_size(), 1)
        chosen = table.stride * _spaced(len(table), HASHED // bytes_each).to(x.device)
        return (x, y) if len(chosen) == len(x) else (x[chosen], y[chosen])
    chosen = _spaced(len(table), LOADED)
    return next(table.batches(len(chosen), chosen, device=torch.device("cpu")))


def _spaced(n: int, most: int) -> Tensor:
    return torch.linspace(0, n - 1, min(n, max(most, 1))).round().long()


def _digests(x: Tensor) -> Iterator[bytes]:
    flat = x.detach().cpu().reshape(len(x), -1).contiguous().view(torch.uint8).numpy()
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in flat)


# A short training, which four checks share


@dataclass(frozen=True, eq=False)
class _Run:
    model: nn.Module
    losses: list[float]
    gradients: CheckRow
    samples: int
    seconds: float
    waited: float


def _training_rows(bench: Bench, fits: bool) -> list[CheckRow]:
    runs: list[_Run] = []

    def train() -> list[CheckRow]:
        runs.append(_train(bench, zeroed=False))
        return [runs[0].gradients]

    rows = _guarded(TRAINING, train)
    if not runs:
        return rows
    run = runs[0]
    rows += _guarded(("input_baseline",), lambda: [_baseline(bench, run, fits)])
    rows += _guarded(("train_eval",), lambda: [_modes(bench, run)])
    if not run.samples:
        return [*rows, CheckRow("throughput", "skipped", "the training broke at once")]
    return [*rows, checks.judge_throughput(run.samples, run.seconds, run.waited)]


def _train(bench: Bench, *, zeroed: bool) -> _Run:
    """A short training with the configuration's own optimizer; ends early where the loss is not finite."""
    model = bench.model()
    update = make_update(bench, model)
    batches = bench.batches(bench.batch_size)
    losses: list[float] = []
    samples, seconds, waited = 0, 0.0, 0.0
    with watched(model) as norms:
        while len(losses) < WATCHED and sound(norms):
            x, y = next(batches)
            losses.append(update(torch.zeros_like(x) if zeroed else x, y))
    while len(losses) < UPDATES and math.isfinite(losses[-1]):
        begin = time.perf_counter()
        x, y = next(batches)
        got = time.perf_counter()
        losses.append(update(torch.zeros_like(x) if zeroed else x, y))
        samples += len(y)
        seconds += time.perf_counter() - begin
        waited += got - begin
    scaled = bench.knobs["precision"] == "fp16"
    return _Run(model, losses, gradient_row(model, norms, scaled), samples, seconds, waited)


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Gradient norms of each trainable tensor as backward passes leave them, whatever clears them afterwards."""
    trainable: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms: dict[str, list[float]] = {name: [] for name in trainable}

    def hook(name: str) -> Callable[[Tensor], None]:
        def see(parameter: Tensor) -> None:
            grad = parameter.grad
            if grad is not None:
                values = grad.coalesce().values() if grad.is_sparse else grad
                norms[name].append(float(values.detach().double().norm()))

        return see

    handles = [p.register_post_accumulate_grad_hook(hook(name)) for name, p in trainable.items()]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()


def sound(norms: Mapping[str, Sequence[float]]) -> bool:
    """Whether all is finite so far; one update later a single NaN is everywhere, and names nothing any more."""
    return all(math.isfinite(value) for values in norms.values() for value in values)


def gradient_row(model: nn.Module, norms: Mapping[str, Sequence[float]], scaled: bool) -> CheckRow:
    """The judgement on what :func:`watched` saw; under a gradient scaler infinity in the first updates is no fault."""
    weights = [name for name, p in model.named_parameters() if p.ndim > 1]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    row = checks.judge_gradients(norms, weights, frozen, WATCHED)
    if scaled and not sound(norms):
        return CheckRow(row.name, "warn", f"{row.text}, as a gradient scaler's first updates may be")
    return row


def _baseline(bench: Bench, real: _Run, fits: bool) -> CheckRow:
    zeroed = _train(bench, zeroed=True)
    floor = bench.data.variance
    if bench.data.task != "regression":
        _, y = _rows(bench.data.train)
        shares = torch.bincount(y.flatten()).double() / y.numel()
        floor = float(torch.special.entr(shares).sum())
    return checks.judge_baseline(real.losses[-LAST:], zeroed.losses[-LAST:], real.losses[0], floor, fits)


def _modes(bench: Bench, run: _Run) -> CheckRow:
    model = run.model
    with no_dropout(model), torch.no_grad():
        batches = [pair for pair, _ in zip(bench.batches(bench.batch_size), range(MODE_BATCHES))]
        losses = []
        for training in (False, True):  # evaluation first: training mode moves the running statistics
            model.train(training)
            losses.append(sum(float(bench.data.loss(model(x), y)) for x, y in batches) / len(batches))
    return checks.judge_modes(losses[1], losses[0], run.losses[0])


@contextmanager
def no_dropout(model: nn.Module | None) -> Iterator[None]:
    """Inside, every nn.Dropout of the model lets everything through."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)] if model else []
    rates = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = 0.0
        yield
    finally:
        for layer, rate in zip(layers, rates):
            layer.p = rate


# What a recipe does as a whole


def _sanity(recipe: Recipe, config: Mapping[str, Any], seed: int) -> list[CheckRow]:
    answer, _ = recipe.probe("sanity", config, seed)
    return list(checks.sanity_rows(answer))


@final
class _Epochs:
    """The handle of a trial whose checkpoint stays in memory, in the format that real ones have."""

    def __init__(self, config: Mapping[str, Any], seed: int, start: int, until: int, before: _Epochs | None = None):
        self.config, self.seed, self.max_epochs = dict(config), seed, 2
        self.start, self.until, self.before = start, until, before
        self.saved = b""
        self.generators: Snapshot | None = None
        self.reports: list[dict[str, float]] = []

    def epochs(self, **stateful: Any) -> Iterator[int]:
        """As :meth:`luthier.Trial.epochs`."""
        if self.before is not None and self.before.generators is not None:
            states = torch.load(io.BytesIO(self.before.saved), map_location="cpu", weights_only=True)
            for name, thing in stateful.items():
                thing.load_state_dict(states[name])
            self.before.generators.restore()
        yield from range(self.start + 1, self.until + 1)
        file = io.BytesIO()
        torch.save({name: thing.state_dict() for name, thing in stateful.items()}, file)
        self.saved, self.generators = file.getvalue(), Snapshot(())

    def report(self, **metrics: float) -> None:
        """Keep an epoch's metrics."""
        self.reports.append({name: float(value) for name, value in metrics.items()})

    def losses(self, epoch: int) -> list[float]:
        """The metrics that were reported for ``epoch``; none where the training had ended."""
        i = epoch - self.start - 1
        return list(self.reports[i].values()) if i < len(self.reports) else []


def _rerun(recipe: Recipe, config: Mapping[str, Any], bench: Bench, seed: int) -> list[CheckRow]:
    """Two epochs in one go; the first alone, the second from its checkpoint; the first with another seed."""
    short = shortened(recipe, RERUN_BATCHES * bench.batch_size, bench.knobs["context"])
    exact = bench.device.type == "cpu"
    runs = [_Epochs(config, seed, 0, 2), _Epochs(config, seed, 0, 1), _Epochs(config, seed + 1, 0, 1)]
    for trial in runs:
        seed_all(trial.seed)  # as a worker does
        short(trial)
    whole, half, other = runs
    rerun = checks.judge_rerun(whole.losses(1), half.losses(1), other.losses(1), exact)
    if rerun.status == "fail":
        return [rerun, CheckRow("checkpoint", "skipped", "needs a training that repeats")]
    rest = _Epochs(config, seed, 1, 2, half)
    seed_all(seed)
    short(rest)
    return [rerun, checks.judge_checkpoint(whole.losses(2), rest.losses(2), exact)]


def _guarded(names: Sequence[str], measure: Callable[[], list[CheckRow]]) -> list[CheckRow]:
    """The rows of ``measure``; where it raises, that is the finding."""
    try:
        return measure()
    except Exception as error:
        text = " ".join(str(error).split())
        first = CheckRow(names[0], "fail", f"raised {type(error).__name__}: {text}")
        return [first, *(CheckRow(name, "skipped", f"{names[0]} raised") for name in names[1:])]
