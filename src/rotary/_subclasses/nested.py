"""Nested jagged tensors (torch.nested): documents of their own lengths, one after the other in one dense tensor, which is rotated.

A jagged x (batch, tokens, heads, head_dim), or with the tokens at another dimension, holds values() with the batch and the tokens folded
into one dimension, and offsets() (batch + 1,). Positions count from 0 in each document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from .._torch import tracing
from .._types import CosSin
from ..positions import packed

if TYPE_CHECKING:
    from typing import TypeGuard


def is_jagged(x: Any) -> TypeGuard[Tensor]:
    """True for a nested tensor of layout torch.jagged. Callers test `type(x) is not Tensor` first, which is cheaper."""
    return isinstance(x, Tensor) and x.layout is torch.jagged


class Jagged(NamedTuple):
    """values: dense, with the tokens of all documents at dimension tokens - 1. tokens: their dimension in the jagged tensor."""

    values: Tensor
    offsets: Tensor
    tokens: int

    @property
    def seq_dim(self) -> int:
        return self.tokens - 1

    def like(self, values: Tensor) -> Tensor:
        """A jagged tensor of these values, with the same documents at the same dimension."""
        return torch.nested.nested_tensor_from_jagged(values, self.offsets, jagged_dim=self.tokens)


def parts(name: str, x: Tensor, seq_dim: int | None = None) -> Jagged:
    """values() and offsets() of a jagged tensor. ValueError if seq_dim is not its ragged dimension, or if lengths() leave gaps between
    documents."""
    tokens = next(d for d, n in enumerate(x.shape) if not isinstance(n, int))  # pyright: ignore[reportUnnecessaryIsInstance]
    if seq_dim is not None:
        seq_dim = _checks.index("seq_dim", seq_dim)
    if seq_dim is not None and (seq_dim + x.ndim if seq_dim < 0 else seq_dim) != tokens:
        raise ValueError(
            f"the documents of {name} with shape {tuple(x.shape)} lie along dimension {tokens}: pass seq_dim={tokens}, got {seq_dim}"
        )
    if x.lengths() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"{name} is a jagged tensor with gaps between its documents: call {name}.contiguous() first")
    return Jagged(x.values(), x.offsets(), tokens)  # pyright: ignore[reportAttributeAccessIssue]


def rotate(call: Callable[..., Any], q: Tensor, k: Any, *, seq_dim: int, inplace: bool, **arguments: Any) -> Any:
    """RotaryEmbedding.rotate for jagged q and k. call: the same for dense tensors; it gets values(), and offsets() as cu_seqlens."""
    _refuse_in_place(inplace)
    if arguments["cu_seqlens"] is not None:
        raise TypeError("a jagged tensor has offsets of its own: leave cu_seqlens out")
    _check_one_length(arguments["length"])
    q_parts = parts("q", q, seq_dim)
    documents: dict[str, Any] = {"cu_seqlens": q_parts.offsets}
    if arguments["positions"] is not None:
        documents = {"positions": _values_of("positions", arguments["positions"], q, q_parts), "cu_seqlens": None}
    how = {**arguments, **documents, "seq_dim": q_parts.seq_dim}
    if k is None:
        return q_parts.like(call(q_parts.values, **how))
    k_parts = _same_documents("k", k, q, q_parts, seq_dim)
    ys = call(q_parts.values, k_parts.values, **how)
    return q_parts.like(ys[0]), k_parts.like(ys[1])


def cos_sin(call: Callable[..., CosSin], positions: Tensor, dtype: torch.dtype, **arguments: Any) -> CosSin:
    """RotaryEmbedding.cos_sin for jagged positions (batch, tokens): jagged tables (batch, tokens, dim/2). call: the same for dense ones."""
    _check_one_length(arguments["length"])
    jagged = parts("positions", positions)
    cos, sin = call(jagged.values, dtype, **arguments)
    return jagged.like(cos), jagged.like(sin)


def apply(call: Callable[..., Any], xs: tuple[Any, ...], tables: tuple[Any, ...], *, seq_dim: int, **how: Any) -> Any:
    """apply_rotary or apply_rotary_qk for jagged xs. call: the same for dense tensors.

    tables: jagged with the same documents, or dense (rows, dim/2); each document then uses the first rows.
    """
    _refuse_in_place(how["inplace"])
    names = _checks.names_of(xs)
    first = parts(names[0], xs[0], seq_dim)
    jagged = [first, *(_same_documents("k", k, xs[0], first, seq_dim) for k in xs[1:])]
    rows = [None if t is None else _rows("cos" if i % 2 == 0 else "sin", t, xs[0], first) for i, t in enumerate(tables)]
    ys = call(tuple(j.values for j in jagged), rows, seq_dim=first.seq_dim, **how)
    return jagged[0].like(ys) if len(xs) == 1 else tuple(j.like(y) for j, y in zip(jagged, ys, strict=True))


def _rows(name: str, table: Any, x: Tensor, of: Jagged) -> Tensor:
    """The table with a row for each token of all documents."""
    if is_jagged(table):
        return _values_of(name, table, x, of)
    if not isinstance(table, Tensor) or table.ndim != 2:
        raise ValueError(
            f"{name} must be jagged as x is, or have shape (rows, dim/2), the first of which serve each document, got "
            f"{tuple(getattr(table, 'shape', ()))}"
        )
    offsets = of.offsets
    if not tracing() and offsets.device.type == "cpu":
        longest = int(offsets.diff().max()) if offsets.numel() > 1 else 0
        if longest > table.shape[0]:
            raise ValueError(f"{name} has {table.shape[0]} rows, the longest document {longest}")
    return table[packed(offsets, of.values.shape[of.seq_dim])]


def _values_of(name: str, value: Any, x: Tensor, of: Jagged) -> Tensor:
    if not is_jagged(value) or not _alike(parts(name, value).offsets, of.offsets):
        raise ValueError(f"{name} must be jagged with the documents of x {tuple(x.shape)}, got {type(value).__name__}")
    return parts(name, value).values


def _same_documents(name: str, k: Any, q: Tensor, of: Jagged, seq_dim: int) -> Jagged:
    if not is_jagged(k):
        raise TypeError(f"q is a jagged tensor, {name} is {type(k).__name__}: both must be")
    jagged = parts(name, k, seq_dim)
    if not _alike(jagged.offsets, of.offsets):
        raise ValueError(
            f"q {tuple(q.shape)} and {name} {tuple(k.shape)} have documents of other lengths, or offsets of their own where values are "
            f"not read (on a device, while traced): make {name} with q.offsets(), or rotate them one by one, with positions="
        )
    return jagged


def _alike(a: Tensor, b: Tensor) -> bool:
    """True if offsets are the same tensor, or equal CPU tensors. On a device, and while traced, values are not read: False."""
    return a is b or (a.device.type == "cpu" and not tracing() and a.shape == b.shape and torch.equal(a, b))


def _check_one_length(length: Any) -> None:
    if isinstance(length, Tensor) and length.ndim:
        raise TypeError(
            f"length is one number for all documents of a jagged tensor, got {_checks.describe(length)}: give an int or a 0-d tensor, or "
            f"rotate documents of different length one by one"
        )


def _refuse_in_place(inplace: bool) -> None:
    if inplace:
        raise TypeError(
            "a jagged tensor cannot be rotated in place: leave inplace out, or rotate its values() in place with cu_seqlens"
        )
