"""Positions of text [token]: integers until the last moment. Offsets, packed documents, padded batches."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks
from .._torch import tracing

LAST = 2**63 - 1  # the largest int64


def sequence(n: int, offset: int | Tensor = 0, *, device: torch.device | str | None = None) -> Tensor:
    """offset, offset + 1, ... as int64: (n,) for an int or 0-d offset, (batch, n) for an offset of shape (batch,).

    n: a number of tokens, >= 0. device: of the result, where offset is an int. TypeError for numbers that are no integers; ValueError
    for a negative n, and for an int offset from which n positions do not fit int64.
    """
    n = _checks.length("n", n)
    if isinstance(offset, Tensor):
        _checks.integers("offset", offset)
        if offset.ndim > 1:
            raise ValueError(f"offset must be an int, 0-d or (batch,), got shape {tuple(offset.shape)}")
        return count_from(n, offset)
    offset = check_fits("offset", _checks.position("offset", offset), n)
    return count_from(n, offset, device=_checks.device("device", device))


def check_fits(name: str, first: int, n: int) -> int:
    """The first of n positions. ValueError where the last does not fit int64."""
    if first + (n - 1) > LAST:
        raise ValueError(f"positions must fit int64, got {name} {first} for {n} tokens")
    return first


def count_from(n: int, offset: int | Tensor = 0, *, device: torch.device | None = None) -> Tensor:
    """sequence() of arguments that are checked already, as those of a call of RotaryEmbedding are."""
    if not isinstance(offset, Tensor):
        if offset + n > LAST:  # the end of the range, which is exclusive, may not fit
            return torch.arange(n, dtype=torch.int64, device=device) + offset
        return torch.arange(offset, offset + n, dtype=torch.int64, device=device)
    steps = torch.arange(n, dtype=torch.int64, device=offset.device)
    return offset.to(torch.int64)[..., None] + steps if offset.ndim else offset.to(torch.int64) + steps


def packed(cu_seqlens: Tensor, n: int, *, tokens: Tensor | None = None, offset: int | Tensor = 0) -> Tensor:
    """Positions (n,) int64 of n tokens in which documents follow each other, each counted from its own offset.

    cu_seqlens: (documents + 1,) int32 or int64, cumulative lengths 0 .. n, as flash-attention takes them; empty documents are
        allowed. Tokens after the last document continue it: a padded tail, on a device, where this is not checked.
    tokens: integer tensor of any shape: the positions at these tokens alone, as of_rank() gives them for one of several processes;
        no tensor of length n is made.
    offset: an int, or (documents,) integer tensor: the position of each document's first token.

    TypeError for another dtype or layout; ValueError for a wrong shape and, on the CPU, for lengths that do not start at 0, decrease, or
    do not end at n, for tokens outside 0 .. n - 1, and for an int offset from which the positions do not fit int64. On other devices
    values are not read: that would wait for the device.

    >>> packed(torch.tensor([0, 3, 5]), 5)
    tensor([0, 1, 2, 0, 1])
    >>> packed(torch.tensor([0, 3, 5]), 5, tokens=torch.tensor([1, 4]))
    tensor([1, 1])
    """
    check_cumulative(cu_seqlens)
    n = _checks.length("n", n)
    documents = cu_seqlens.shape[0] - 1
    if isinstance(offset, Tensor):
        _checks.integers("offset", offset)
    else:
        offset = _checks.position("offset", offset)
    if isinstance(offset, Tensor) and offset.ndim and tuple(offset.shape) != (documents,):
        raise ValueError(
            f"offset has shape {tuple(offset.shape)}, cu_seqlens {documents} documents: give an int or ({documents},)"
        )
    if not tracing() and cu_seqlens.device.type == "cpu":
        check_lengths(cu_seqlens, n)
        if not isinstance(offset, Tensor) and documents and offset + n > LAST:
            check_fits("offset", offset, int(cu_seqlens.diff().max()))
    if tokens is None:
        steps = torch.arange(n, dtype=torch.int64, device=cu_seqlens.device)
    else:
        steps = _checked_tokens(tokens, n, cu_seqlens.device)
    if documents == 0:
        return steps + offset
    starts = cu_seqlens.to(torch.int64)
    document = document_of(starts, steps)
    return (
        steps
        - starts[document]
        + (offset.to(torch.int64)[document] if isinstance(offset, Tensor) and offset.ndim else offset)
    )


def document_of(starts: Tensor, rows: Tensor) -> Tensor:
    """For each row, the index of its document. starts (documents + 1,): the first row of each, and the end of the last, to which later
    rows belong."""
    return (torch.searchsorted(starts, rows, right=True) - 1).clamp(max=starts.shape[0] - 2)


def _checked_tokens(tokens: Tensor, n: int, device: torch.device) -> Tensor:
    _checks.integers("tokens", _checks.tensor("tokens", tokens, "an integer tensor"))
    if tokens.device != device:
        raise ValueError(f"tokens on {tokens.device}, cu_seqlens on {device}: move one")
    if not tracing() and tokens.device.type == "cpu" and tokens.numel():
        low, high = tokens.aminmax()
        if int(low) < 0 or int(high) >= n:
            raise ValueError(
                f"tokens must be within 0 .. {n - 1}, the tokens of cu_seqlens, got {int(low)} to {int(high)}"
            )
    return tokens.to(torch.int64)


def check_cumulative(cu_seqlens: Tensor) -> None:
    """TypeError for what is no dense int32 or int64 tensor, ValueError for a shape other than (documents + 1,)."""
    _checks.tensor("cu_seqlens", cu_seqlens, "an int32 or int64 tensor of cumulative lengths, (documents + 1,)")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, got {cu_seqlens.dtype}")
    _checks.dense("cu_seqlens", cu_seqlens)
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] == 0:
        raise ValueError(f"cu_seqlens must have shape (documents + 1,), got {tuple(cu_seqlens.shape)}")


def check_lengths(cu_seqlens: Tensor, n: int) -> None:
    """ValueError for cumulative lengths, on the CPU, that do not start at 0, decrease, or do not end at n."""
    shorter = cu_seqlens.diff() < 0
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != n or bool(shorter.any()):
        at = f", decreasing at entry {int(shorter.nonzero()[0]) + 1}" if bool(shorter.any()) else ""
        raise ValueError(
            f"cu_seqlens must start at 0, be non-decreasing and end at {n}, got {cu_seqlens.numel()} entries from {first} to {last}{at}"
        )


def padded(mask: Tensor) -> Tensor:
    """Positions (batch, seq) int64 of a padded batch: real tokens count 0, 1, ... within their document, padding stays at 0 before them.

    mask: (batch, seq), bool or integer: 0 at padding, and 1 at real tokens, as attention_mask of transformers, or the number of the
        token's document, 1, 2, ..., as multipack collators give it: positions start again where the number grows.

    TypeError for what is no dense tensor and for a floating mask; ValueError for another shape and, on the CPU, for numbers that are
    negative or decrease within a row. On other devices values are not read.

    >>> padded(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))
    tensor([[0, 0, 0, 1],
            [0, 1, 2, 3]])
    >>> padded(torch.tensor([[1, 1, 1, 2, 2, 3]]))
    tensor([[0, 1, 2, 0, 1, 0]])
    """
    if (
        _checks.tensor("mask", mask, "a bool or integer tensor, true at real tokens").is_floating_point()
        or mask.is_complex()
    ):
        raise TypeError(f"mask must be bool or integer, true at real tokens, got {mask.dtype}")
    _checks.dense("mask", mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (batch, seq), got {tuple(mask.shape)}")
    document = mask.to(torch.int64)
    if document.shape[-1] == 0:
        return document
    latest = document.cummax(-1).values
    if (
        not tracing()
        and mask.device.type == "cpu"
        and not bool(((document == 0) | ((document > 0) & (document == latest))).all())
    ):
        raise ValueError(
            "mask must hold 0 at padding and 1 or growing document numbers at tokens; some are negative or decrease"
        )
    count = ((document != 0).to(torch.int64).cumsum(-1) - 1).clamp(min=0)
    starts = torch.cat((torch.ones_like(latest[:, :1], dtype=torch.bool), latest[:, 1:] > latest[:, :-1]), -1)
    first = torch.where(starts, count, 0).cummax(-1).values  # the count at which the token's document started
    return count - first
