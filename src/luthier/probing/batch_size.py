"""The batch-size finder: double until it stops paying or stops fitting."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from luthier.core.errors import UserError
from luthier.diagnosis.batch_size import GAIN, MARGIN, BatchSizeRow, choose_batch_size, worth_it
from luthier.probing.lr_range import Snapshot
from luthier.recipe import Recipe
from luthier.recipe.data import derive_seed
from luthier.recipe.knobs import settings
from luthier.recipe.probes import FAR, Bench, generators_kept

DOUBLINGS = 25
"""At most; Lightning's batch size finder has the same bound."""
LARGEST_PART = 8
"""A batch holds at most this fraction of the training data, as in a recipe's own search space."""
MEMORY_WORDS = ("out of memory", "can't allocate memory", "alloc_failed")
"""What a RuntimeError of CUDA, of PyTorch's CPU allocator, and of cuBLAS or cuDNN says when memory is short."""

Step = Callable[[], Any]


@final
@dataclass(frozen=True, eq=False)
class BatchSizeResult:
    """What was measured and what follows from it.

    Args:
        batch_size: None where not even a single sample fitted.
        rows: each batch size that was tried, rising.
        memory: bytes of GPU memory that a training can have; None on a CPU.
        why: one sentence with the numbers.
    """

    batch_size: int | None
    rows: tuple[BatchSizeRow, ...]
    memory: int | None
    why: str

    def __str__(self) -> str:
        return self.why


def find_batch_size(
    make_step: Callable[[int], Step],
    *,
    smallest: int = 8,
    largest: int | None = None,
    steps: int = 5,
    margin: float = MARGIN,
    gain: float = GAIN,
    modules: Sequence[Any] = (),
) -> BatchSizeResult:
    """The batch size from which a doubling no longer pays, with memory to spare.

    Doubles from ``smallest`` until throughput grows by less than ``gain`` or memory runs out; where ``smallest`` itself
    does not fit, halves. On a CPU throughput alone decides. The global generators and ``modules`` are restored.

    Args:
        make_step: ``batch_size -> step``, where ``step()`` does one update on a batch of that many samples; take the
            longest samples there are. What it builds is released before the next batch size is tried.
        smallest, largest: of the batch sizes to try.
        steps: timed ones, after one to warm up; their median counts.
        margin: the part of the GPU's memory to keep free, from 0 to below 1.
        gain: the part by which a doubling must raise the samples per second.
        modules: what the steps change and should be as before: a model and an optimizer that are not built afresh.

    Raises:
        UserError: a bound or part out of its range. Errors of ``step`` other than lack of memory pass through.
    """
    if smallest < 1 or steps < 1 or (largest is not None and largest < smallest):
        raise UserError(
            f"smallest={smallest}, largest={largest}, steps={steps} leave nothing to try.",
            "Take 1 <= smallest <= largest and at least one step.",
        )
    if not 0.0 <= margin < 1.0 or gain < 0.0:
        raise UserError(f"margin={margin}, gain={gain} are out of range.", "Take 0 <= margin < 1 and gain >= 0.")
    memory = _memory()
    before = Snapshot(modules)
    rows: list[BatchSizeRow] = []
    try:
        rows.append(_measure(make_step, smallest, steps))
        while rows[-1].out_of_memory and rows[-1].batch_size > 1:
            before.restore()
            rows.append(_measure(make_step, rows[-1].batch_size // 2, steps))
        if len(rows) == 1:  # else the next size up is known not to fit
            _double(make_step, rows, largest, steps, gain, before)
    finally:
        before.restore()
    choice = choose_batch_size(rows, memory=memory, margin=margin, gain=gain)
    return BatchSizeResult(choice.batch_size, tuple(sorted(rows, key=lambda row: row.batch_size)), memory, choice.why)


def find_batch_size_for(
    recipe: Recipe, config: Mapping[str, Any] | None = None, *, seed: int = 0, **how: Any
) -> BatchSizeResult:
    """:func:`find_batch_size` for a recipe under ``config``, whose own batch size is left aside.

    Tries at most an eighth of the training data, in whole batches.

    Args:
        how: ``smallest``, ``largest``, ``steps``, ``margin`` and ``gain`` of :func:`find_batch_size`.

    Raises:
        UserError: what a training would raise, or what :func:`find_batch_size` does.
    """
    bench = bench_of(recipe, {k: v for k, v in (config or {}).items() if k != "batch_size"}, seed)
    cap = max(len(bench.data.train) // LARGEST_PART, 1)
    largest = min(how.pop("largest", None) or cap, cap)
    smallest = min(how.pop("smallest", 8), largest)

    def make_step(size: int) -> Step:
        update = make_update(bench, bench.model())
        batches = bench.batches(size)

        def step() -> float:
            x, y = next(batches)
            while len(y) < size:  # the rest of an epoch
                x, y = next(batches)
            return update(x, y)

        return step

    return find_batch_size(make_step, smallest=smallest, largest=largest, **how)


def _double(
    make_step: Callable[[int], Step],
    rows: list[BatchSizeRow],
    largest: int | None,
    steps: int,
    gain: float,
    before: Snapshot,
) -> None:
    for _ in range(DOUBLINGS):
        size = 2 * rows[-1].batch_size
        if rows[-1].out_of_memory or (largest is not None and size > largest):
            return
        before.restore()
        rows.append(_measure(make_step, size, steps))
        if not worth_it(rows[-2], rows[-1], gain):
            return


def _measure(make_step: Callable[[int], Step], size: int, steps: int) -> BatchSizeRow:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    try:
        step = make_step(size)
        for _ in range(steps + 1):
            begin = time.perf_counter()
            step()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        seconds.clear()
    peak = torch.cuda.max_memory_reserved() if cuda and seconds else None
    # Only here: inside the except clause the error's traceback would still hold the tensors that did not fit.
    step = None  # type: ignore[assignment]
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return BatchSizeRow(size, size / max(statistics.median(seconds[1:]), 1e-9) if seconds else None, peak)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory was short, on a GPU or the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in MEMORY_WORDS)


def _memory() -> int | None:
    """Bytes of the current GPU that are free, or held by this process already; None without one."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved())


# Everything that this room knows of a recipe's inside stands below.


def bench_of(recipe: Recipe, config: Mapping[str, Any], seed: int) -> Bench:
    """What a recipe would train under ``config``: model, checked knobs, data on its device, batch size.

    Raises:
        UserError: what a training would raise for the config.
    """
    knobs = settings(config, recipe.model, recipe.task, recipe.augment)
    with generators_kept():  # preparing the data may draw, and be it within an import
        return recipe._bench(knobs, config, seed)


def make_update(bench: Bench, model: nn.Module) -> Callable[[Tensor, Tensor], float]:
    """``update(x, y)``: one update of ``model`` with the configuration's own optimizer at its full rate; its loss.

    Raises:
        UserError: nothing is trainable; from ``update``, that the loss does not depend on the parameters.
    """
    tools = bench.tools(bench, model, FAR)
    tools.train_mode(FAR)
    generator = torch.Generator().manual_seed(derive_seed(bench.seed))

    def update(x: Tensor, y: Tensor) -> float:
        loss, _, _ = tools.loss_of(x, y, generator)
        if not loss.requires_grad:
            raise UserError(
                "The loss does not depend on the parameters.", "Look for detach() or no_grad() in the model."
            )
        tools.stepper.backward(loss)
        tools.stepper.step()
        return float(loss.detach())

    return update


def shortened(recipe: Recipe, samples: int, context: int | None) -> Recipe:
    """The same recipe on the first ``samples`` of each of its data sets; of streams, windows of ``context`` tokens."""
    short = copy.copy(recipe)
    short.__dict__["_data"] = recipe._data.windowed(context).first(samples)
    return short
