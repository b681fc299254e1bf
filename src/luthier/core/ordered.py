"""A persistent sorted set: immutable, yet cheap to extend, to shorten and to ask for a rank."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar, overload


class Comparable(Protocol):
    """What can be sorted."""

    def __lt__(self, other: Any, /) -> bool: ...


T = TypeVar("T", bound=Comparable)
_WIDTH = 128
_last = itemgetter(-1)


class Ordered(Sequence[T], Generic[T]):
    """Distinct items, smallest first, in blocks of at most 128: a change copies one block and the spine."""

    __slots__ = ("_blocks", "_length")

    def __init__(self) -> None:
        self._blocks: tuple[tuple[T, ...], ...] = ()
        self._length = 0

    def _find(self, item: T) -> tuple[int, int]:
        """The block in which ``item`` stands or would stand, and its place there."""
        block = min(bisect_left(self._blocks, item, key=_last), len(self._blocks) - 1)
        return block, bisect_left(self._blocks[block], item)

    def _with_block(self, block: int, *new: tuple[T, ...], length: int) -> Ordered[T]:
        made: Ordered[T] = Ordered.__new__(Ordered)
        made._blocks = (*self._blocks[:block], *new, *self._blocks[block + 1 :])
        made._length = length
        return made

    def with_item(self, item: T) -> Ordered[T]:
        """A copy that holds ``item`` too."""
        if not self._blocks:
            return self._with_block(0, (item,), length=1)
        block, at = self._find(item)
        old = self._blocks[block]
        if at < len(old) and old[at] == item:
            return self
        new = (*old[:at], item, *old[at:])
        half = (new,) if len(new) <= _WIDTH else (new[: _WIDTH // 2], new[_WIDTH // 2 :])
        return self._with_block(block, *half, length=self._length + 1)

    def without(self, item: T) -> Ordered[T]:
        """A copy that does not hold ``item``."""
        if item not in self:
            return self
        block, at = self._find(item)
        old = self._blocks[block]
        rest = (*old[:at], *old[at + 1 :])
        return self._with_block(block, *((rest,) if rest else ()), length=self._length - 1)

    def rank(self, item: T) -> int:
        """How many items are smaller than ``item``, which need not be held."""
        if not self._blocks:
            return 0
        block, at = self._find(item)
        return sum(map(len, self._blocks[:block])) + at

    def __contains__(self, item: object) -> bool:
        if not self._blocks:
            return False
        block, at = self._find(item)  # type: ignore[arg-type]
        return at < len(self._blocks[block]) and self._blocks[block][at] == item

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError(index)
        for block in self._blocks:
            if index < len(block):
                return block[index]
            index -= len(block)
        raise AssertionError("unreachable")

    def __iter__(self) -> Iterator[T]:
        for block in self._blocks:
            yield from block

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ordered) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Ordered({list(self)!r})"
