"""Contenders timed in turn, A B C A B C, in one process, so that other load on the machine affects them equally."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

Contender = Callable[[], Any]
_Set = TypeVar("_Set")


class Timing(NamedTuple):
    """Seconds per call: the median, and the first and third quartile."""

    median: float
    low: float
    high: float


def alternate(
    contenders: Mapping[str, Contender],
    seconds: float = 2.0,
    rounds: tuple[int, int] = (5, 200),
    *,
    in_cache: bool = False,
) -> dict[str, Timing]:
    """Time the contenders in turn, for about `seconds` in all and between rounds[0] and rounds[1] times each.

    Calls below 100 us are timed several at a time, after one that is not timed: otherwise each would include the cache misses that the
    contender before it causes. in_cache: longer calls also follow one that is not timed, and so find their own data in the caches.
    """
    repeats: dict[str, int] = {}
    for name, call in contenders.items():
        call()
        repeats[name] = max(1, min(200, int(1e-4 / max(_time(call, 1), 1e-7))))
    once = sum(_time(call, repeats[name], in_cache) * (repeats[name] + in_cache) for name, call in contenders.items())
    count = max(rounds[0], int(min(rounds[1], seconds / max(once, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, call in contenders.items():
            times[name].append(_time(call, repeats[name], in_cache))
    return {name: _timing(t) for name, t in times.items()}


def _timing(times: list[float]) -> Timing:
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(statistics.median(times), low, high)


def _time(call: Contender, repeats: int, in_cache: bool = False) -> float:
    if repeats > 1 or in_cache:
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


class Rota(Sequence[_Set]):
    """Sets of tensors that take turns: each call, whichever contender makes it, gets the set that was used longest ago.

    With several sets that together are larger than the caches, every call reads from memory. One order for all contenders is needed: a
    contender that went through the sets in an order of its own would find in the caches what the one before it has just read.
    """

    def __init__(self, sets: Sequence[_Set]) -> None:
        self._sets = list(sets)
        self._turn = itertools.cycle(range(len(self._sets))).__next__

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, index: Any) -> Any:
        return self._sets[index]

    def contender(self, make: Callable[[_Set], Contender]) -> Contender:
        """A function that runs make(set) for the set whose turn it is. make is called now, once for each set."""
        calls, turn = [make(tensors) for tensors in self._sets], self._turn
        return calls[0] if len(calls) == 1 else lambda: calls[turn()]()
