"""Clocks: device time of calls that are recorded into one CUDA graph and replayed, so that host time is left out; and host time.

Two states of the level-2 cache give different times, and both are measured:

    cold    every call of the graph has tensors of its own, together several times the cache: what a model's layers see
    warm    every call has the same tensors: how far a small working set stays in the cache

Replays are queued back to back with an event between each two, so that no graph waits for the host. Medians everywhere.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

REPLAYS = 25
COLD = 4  # times the level-2 cache, that the tensors of one graph take together
MOST = 1024  # calls in one graph; the smallest shapes do not fill the cache even so, and their cold row says "at most this cold"
LONG_ENOUGH = 1e-3  # seconds that a warm graph lasts, so that its start is a small part of it

Call = Callable[[], object]


class Time(NamedTuple):
    """Microseconds per call: the median over replays, and the quartiles as a measure of noise."""

    median: float
    low: float
    high: float


@contextmanager
def aside() -> Generator[None, None, None]:
    """Run on a stream other than the default one, after the work queued on the default stream and before its next work."""
    before, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(before)
    with torch.cuda.stream(side):
        yield
    before.wait_stream(side)


def cold_calls(bytes_of_a_call: int) -> int:
    """The number of calls on separate tensors that together fill the cache COLD times."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return min(max(-(-COLD * cache // max(bytes_of_a_call, 1)), 2), MOST)


def cold(calls: Sequence[Call]) -> Time:
    """Time per call, each of calls once per replay. Their results are kept, so that each writes to separate memory."""
    graph, kept = record(calls, keep=True)
    result = replay(graph, len(calls))
    del graph, kept
    return result


def warm(call: Call) -> Time:
    """One call over and over; its results go back to the allocator, which hands the same memory out again."""
    graph, _ = record([call] * 10, keep=False)
    first = replay(graph, 10)
    count = min(max(int(LONG_ENOUGH / (first.median * 1e-6)), 10), MOST)
    if count > 10:
        graph, _ = record([call] * count, keep=False)
        first = replay(graph, count)
    return first


def record(calls: Sequence[Call], *, keep: bool) -> tuple[torch.cuda.CUDAGraph, list[object]]:
    """A graph of these calls. The first ones run before the recording too: compilation cannot happen inside one.

    Call it, and make what the calls work on, on a stream of one's own (aside): autograd runs a backward pass on the stream of its
    forward pass, and the default one may not take part in a recording.
    """
    for call in [*calls[:2], calls[0]]:
        call()
    torch.cuda.synchronize()
    kept: list[object] = []
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for call in calls:
            result = call()
            if keep:
                kept.append(result)
            del result
    return graph, kept


def replay(graph: torch.cuda.CUDAGraph, calls: int) -> Time:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPLAYS + 1)]
    for _ in range(3):
        graph.replay()
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    times = [1e3 * a.elapsed_time(b) / calls for a, b in itertools.pairwise(marks)]
    low, median, high = statistics.quantiles(times, n=4)
    return Time(median, low, high)


def host(call: Call, *, blocks: int = 21, calls: int = 200) -> Time:
    """Microseconds until call returns, while the device works. Only for calls whose work is shorter than their launch."""
    for _ in range(calls):
        call()
    times: list[float] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(blocks):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            times.append(1e6 * (time.perf_counter() - start) / calls)
    finally:
        gc.enable()
    torch.cuda.synchronize()
    low, median, high = statistics.quantiles(times, n=4)
    return Time(median, low, high)


def launches(call: Call) -> int | None:
    """Kernels and copies that one call starts on the device; None where the profiler sees none."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    result = [event for event in seen.events() or () if event.device_type.name == "CUDA"]
    return len(result) or None
