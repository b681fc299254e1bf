"""Several losses at once: who dominates whom, in which order trials are kept, how much a front covers.

A point is a sequence of losses, smaller is better in each. One dominates another where it is nowhere worse and
somewhere better. Everything here is a function of the points alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Losses = Sequence[float]


def dominates(a: Losses, b: Losses) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better."""
    return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))


def fronts(points: Sequence[Losses]) -> list[list[int]]:
    """The indices of the points, front by front: what nothing dominates, then what only those before dominate.

    Within a front in the order of the first loss, the second breaking its ties, and so on; equals as they came.
    Zhang et al., "An Efficient Approach to Nondominated Sorting", IEEE TEVC 19 (2015), with its binary search over the
    fronts: O(n log n) for two losses.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        low, high = 0, len(found)
        while low < high:  # a front without anybody who dominates has no later one with somebody
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _beaten(points, i, found[middle]) else (low, middle)
        if low == len(found):
            found.append([])
        found[low].append(i)
    return found


def _beaten(points: Sequence[Losses], i: int, front: Sequence[int]) -> bool:
    # Of two losses the latest member has the least second one, so that it alone can tell.
    told = front[-1:] if len(points[i]) == 2 else reversed(front)
    return any(dominates(points[k], points[i]) for k in told)


def order(points: Sequence[Losses]) -> list[int]:
    """The indices of the points, best first: front by front, and within a front spread out.

    MO-ASHA: Schmucker et al. (arXiv 2106.12639), non-dominated sorting with their epsilon-net within a front: first the
    best in the first loss, then always the point that lies farthest from those already taken. Distances are Euclidean,
    each loss scaled to its range over the front, since losses come in units of their own.
    """
    return [front[k] for front in fronts(points) for k in _spread(np.array([points[i] for i in front], dtype=float))]


def _spread(losses: np.ndarray) -> list[int]:
    """Farthest first, from row 0 on; the earlier row of a tie."""
    reach = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(reach > 0, reach, 1.0)
    taken = [0]
    away = ((scaled - scaled[0]) ** 2).sum(axis=1)
    away[0] = -1.0
    while len(taken) < len(losses):
        following = int(np.argmax(away))
        taken.append(following)
        away = np.minimum(away, ((scaled - scaled[following]) ** 2).sum(axis=1))
        away[following] = -1.0
    return taken


def hypervolume(points: Sequence[Losses], reference: Losses) -> float:
    """The volume between the points and ``reference``, a point worse than all that matter; 0 where none is better.

    Exact, by slicing along the first loss: n^(m-1) steps for n points of m losses.
    """
    inside = sorted({tuple(p) for p in points if all(x < r for x, r in zip(p, reference))})
    if len(reference) == 1:
        return reference[0] - inside[0][0] if inside else 0.0
    ends = [p[0] for p in inside[1:]] + [reference[0]]
    return sum(
        (end - p[0]) * hypervolume([q[1:] for q in inside[: k + 1]], reference[1:])
        for k, (p, end) in enumerate(zip(inside, ends))
        if end > p[0]
    )
