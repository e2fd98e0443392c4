"""Where cached keys move: (old, new) positions for RotaryEmbedding.rerotate, integers. Values of tensors are not read.

    streaming         the sinks follow the window             old 0 1 2 3              new n - window - 4 .. n - window - 1
    self_extend       near and far tokens, at two resolutions
    context_shift     a part is dropped, later tokens move down   old 0 1 | 2 3 4 | 5 6 7   new 0 1 | - - - | 2 3 4
    kept              tokens that compression keeps, renumbered   old 0 3 4 9               new 0 1 2 3
    chunk             a chunk that was computed alone, placed at an offset
    tree              drafts of one step: a token is at the prefix plus its depth

Where rows of a batch differ, numbers are (batch,) integer tensors or positions (batch, seq); the result then has a row for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .counted import LAST, check_fits, sequence

Moves = tuple[Tensor, Tensor]
"""(old, new), each (tokens,) or (batch, tokens) int64."""


def streaming(n_seen: int | Tensor, sinks: int, window: int, *, device: torch.device | str | None = None) -> Moves:
    """(old, new) of the sinks, (sinks,) and (sinks,) or (batch, sinks), after n_seen tokens: StreamingLLM with the sinks moved.

    Xiao et al. 2023 (arXiv:2309.17453, section 3.2) number the slots of the cache, 0 .. sinks + window - 1, and so turn every key of the
    window by -1 at each step. Scores depend on distances alone, so that moving the sinks directly before the window, the last `window`
    tokens, gives the same scores and moves fewer keys. old is 0 .. sinks - 1: rotate each time from the first rotation, and errors do
    not add up.

    Not for xPos, and not where the model's temperature depends on the position. TypeError for numbers that are not integers; ValueError
    for negative ones and a window below 1.

    >>> streaming(1000, 4, 256)
    (tensor([0, 1, 2, 3]), tensor([740, 741, 742, 743]))
    """
    n = _tokens("n_seen", n_seen)
    count, size = _checks.length("sinks", sinks), _checks.count("window", window)
    old = sequence(count, device=n.device if isinstance(n, Tensor) else device)
    shift = n - (size + count)
    return old, old + (shift.clamp(min=0)[..., None] if isinstance(shift, Tensor) else max(shift, 0))


def self_extend(
    n: int | Tensor, group: int, window: int, *, device: torch.device | str | None = None
) -> tuple[Moves, Moves]:
    """((q, k) near, (q, k) far) of tokens 0 .. n - 1: Self-Extend (Jin et al. 2024, arXiv:2401.01325, equation 3).

        near    q at i, k at j                                    used where i - j < window
        far     q at i // group + window - window // group, k at j // group

    n: a number of tokens, or their positions (seq,) or (batch, seq), where rows differ. The authors' code divides window by group without
    rounding, which is the same where group divides it, and no integer where it does not. TypeError for numbers that are no integers;
    ValueError for a negative n, and a group or window below 1.

    >>> near, far = self_extend(6, 2, 4)
    >>> far
    (tensor([2, 2, 3, 3, 4, 4]), tensor([0, 0, 1, 1, 2, 2]))
    """
    at = _positions("n", n, device)
    by, near = _checks.count("group", group), _checks.count("window", window)
    far = at.div(by, rounding_mode="floor")
    return (at, at), (far + (near - near // by), far)


def context_shift(
    n: int | Tensor, keep: int, discard: int | Tensor | None = None, *, device: torch.device | str | None = None
) -> Moves:
    """(old, new) of all tokens when `discard` of them are dropped after the first `keep`: later tokens move down by discard.

    n: a number of tokens, or their positions (seq,) or (batch, seq), the last of a row being its last token. discard: an int or (batch,);
    by default half of the tokens after keep, as in llama.cpp (examples/main/main.cpp: n_discard = (n_past - n_keep) / 2). The tokens
    keep .. keep + discard - 1, which the caller drops, are returned as they were. TypeError for numbers that are no integers; ValueError
    for negative ones.

    >>> context_shift(8, 2)
    (tensor([0, 1, 2, 3, 4, 5, 6, 7]), tensor([0, 1, 2, 3, 4, 2, 3, 4]))
    """
    at = _positions("n", n, device)
    first = _checks.length("keep", keep)
    if discard is None:
        drop: int | Tensor = ((at[..., -1:] + 1 - first).div(2, rounding_mode="floor")).clamp(min=0)
    else:
        drop = _tokens("discard", discard)
        drop = drop[..., None] if isinstance(drop, Tensor) else min(drop, LAST - first)
    return at, torch.where(at >= drop + first, at - drop, at)


def kept(positions: Tensor) -> Moves:
    """(old, new) of the tokens that compression keeps: they are renumbered 0, 1, 2, ... in their order (FINCH, KeyRerotationPress).

    positions: (kept,) or (batch, kept) integers. Where each head keeps other tokens, fold heads into the batch. TypeError for what is no
    integer tensor, ValueError for another shape.

    >>> kept(torch.tensor([0, 3, 4, 9]))
    (tensor([0, 3, 4, 9]), tensor([0, 1, 2, 3]))
    """
    at = _positions("positions", _tensor("positions", positions), None)
    return at, sequence(at.shape[-1], device=at.device).expand(at.shape)


def chunk(n: int, start: int | Tensor, *, old: int | Tensor = 0, device: torch.device | str | None = None) -> Moves:
    """(old, new) of a chunk of n tokens that was rotated from `old` on and is placed at start: re-used documents, system prompts, tools.

    start, old: an int, or (batch,) where rows differ. (EPIC, arXiv:2410.15332; Block-Attention, arXiv:2409.15355.) TypeError for numbers
    that are no integers; ValueError for a negative n, and for a place from which the positions do not fit int64.

    >>> chunk(3, 100)
    (tensor([0, 1, 2]), tensor([100, 101, 102]))
    """
    count = _checks.length("n", n)
    places = [_start(name, value) for name, value in (("old", old), ("start", start))]
    for name, place in zip(("old", "start"), places, strict=True):
        if not isinstance(place, Tensor):
            check_fits(name, place, count)
    device = next((place.device for place in places if isinstance(place, Tensor)), device)
    before, after = (sequence(count, place, device=device) for place in places)
    return before, after


def tree(prefix: int | Tensor, depth: Tensor) -> Moves:
    """(old, new) of the drafts of one step, written one after the other behind a prefix: each belongs at prefix + its depth.

    prefix: tokens before the drafts, an int or (batch,). depth: (drafts,) or (batch, drafts) integers, 0 for the children of the prefix.
    Drafts that are rotated at `new` in the first place need no move when some of them are accepted (SpecInfer, arXiv:2305.09781).
    TypeError for numbers that are no integers; ValueError for a negative prefix and a depth of another shape.

    >>> tree(10, torch.tensor([0, 0, 1, 1, 2]))
    (tensor([10, 11, 12, 13, 14]), tensor([10, 10, 11, 11, 12]))
    """
    below = _positions("depth", _tensor("depth", depth), None)
    start = _tokens("prefix", prefix)
    before = sequence(below.shape[-1], start, device=below.device)
    return before, below + (start[..., None] if isinstance(start, Tensor) and start.ndim else start)


def _tokens(name: str, value: Any) -> int | Tensor:
    """A number of tokens, >= 0: an int, or an integer tensor, 0-d or (batch,), whose values are not read."""
    if not isinstance(value, Tensor):
        return _checks.length(name, value)
    return _start(name, value)


def _start(name: str, value: Any) -> int | Tensor:
    """A position: an int, or an integer tensor, 0-d or (batch,), whose values are not read."""
    if not isinstance(value, Tensor):
        return _checks.position(name, value)
    _checks.integers(name, value)
    if value.ndim > 1:
        raise ValueError(f"{name} must be an int, 0-d or (batch,), got shape {tuple(value.shape)}")
    return value.to(torch.int64)


def _positions(name: str, value: Any, device: torch.device | str | None) -> Tensor:
    """0 .. n - 1 for an int n, else positions as they are."""
    if not isinstance(value, Tensor):
        return sequence(_checks.length(name, value), device=device)
    _checks.integers(name, value)
    if value.ndim not in (1, 2):
        raise ValueError(f"{name} must be an int or have shape (seq,) or (batch, seq), got {tuple(value.shape)}")
    return value.to(torch.int64)


def _tensor(name: str, value: Any) -> Tensor:
    return _checks.tensor(name, value, "an integer tensor")
