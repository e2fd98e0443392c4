"""RotaryEmbedding.rotate_qkv: rotates the queries and keys of a packed projection and leaves its values.

(..., seq, 3, heads, head_dim)                  stacked: flash-attention, ModernBERT
(..., seq, heads, 3, head_dim)                  stacked in each head: GPT-NeoX; qkv_dim=-2
(3, batch, heads, seq, head_dim)                stacked first: timm; qkv_dim=0, seq_dim=-2
(..., seq, heads + 2 kv_heads, head_dim)        side by side: flash-attention with num_heads_q, Phi-3, vLLM; heads=(heads, kv_heads)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import _checks, _inputs
from .._subclasses import nested
from .._types import Length
from .rerotate import Rerotatable


class RotatesPacked(Rerotatable):
    """RotaryEmbedding's method for packed projections. It has no state of its own."""

    rotate: Callable[..., Any]

    def rotate_qkv(
        self,
        qkv: Tensor,
        heads: tuple[int, int] | None = None,
        *,
        qkv_dim: int | None = None,
        seq_dim: int | None = None,
        offset: int | Tensor = 0,
        positions: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        length: Length = None,
        conjugate: bool = False,
        inplace: bool = False,
    ) -> Tensor:
        """The packed projection with its queries and keys rotated and its values as they are.

        qkv: without heads, queries, keys and values stacked along qkv_dim, of size 3: (batch, seq, 3, heads, head_dim). With heads, side
            by side along the dimension before the channels: (batch, seq, heads + 2 kv_heads, head_dim); split a joined last dimension
            first, qkv.unflatten(-1, (-1, head_dim)), which copies nothing. The batch is dimension 0, or, where that is qkv_dim, the next.
        heads: (query heads, key heads), which the shape does not tell.
        qkv_dim: the stacked dimension, without heads: by default -3, -2 for (batch, seq, heads, 3, head_dim).
        seq_dim: of the tokens, in qkv; by default the dimension before those of heads: -4 stacked, -3 side by side. Required where
            qkv_dim is in front of the last three: the order of batch, heads and tokens is then open.
        offset, positions, cu_seqlens, length, conjugate: as in rotate.
        inplace: write over the queries and keys in qkv and return it; nothing is copied, in training too. Otherwise qkv is copied once.
            TypeError for a nested (jagged) qkv, which has no rotation in place.

        TypeError or ValueError as in rotate, and for a shape that is not that of a packed projection.

        >>> import torch
        >>> from rotary import RotaryEmbedding
        >>> qkv = torch.randn(2, 10, 3, 4, 64)
        >>> out = RotaryEmbedding(64).rotate_qkv(qkv)
        >>> torch.equal(out[:, :, 2], qkv[:, :, 2])
        True
        >>> grouped = RotaryEmbedding(64).rotate_qkv(torch.randn(2, 10, 8 + 2 + 2, 64), heads=(8, 2))
        """
        if not isinstance(qkv, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"qkv must be one tensor, got {_checks.describe(qkv)}; separate q and k go to rotate")
        _inputs.check_flags(conjugate=conjugate, inplace=inplace)
        if heads is not None and qkv_dim is not None:
            raise TypeError("heads= is for heads side by side, qkv_dim= for stacked ones: give one of them")
        stacked = _stacked(qkv, -3 if qkv_dim is None else _checks.index("qkv_dim", qkv_dim)) if heads is None else None
        how: dict[str, Any] = {
            "offset": offset,
            "positions": positions,
            "cu_seqlens": cu_seqlens,
            "length": length,
            "conjugate": conjugate,
        }
        if type(qkv) is not Tensor and nested.is_jagged(qkv):
            at = seq_dim if seq_dim is not None else -4 if heads is None else -3
            packed = {"heads": heads, "qkv_dim": None if stacked is None else stacked - qkv.ndim}
            return nested.rotate(self.rotate_qkv, qkv, None, seq_dim=at, inplace=inplace, **packed, **how)
        axis = _tokens(qkv, stacked, seq_dim)
        out = qkv if inplace else qkv.clone()
        if stacked is not None:
            q, k = out.select(stacked, 0), out.select(stacked, 1)
            axis -= axis > stacked
        else:
            q, k = _side_by_side(out, heads)
        self.rotate(q, k, seq_dim=axis, inplace=True, **how)
        return out


def _stacked(qkv: Tensor, qkv_dim: int) -> int:
    """qkv_dim counted from the front."""
    stacked = qkv_dim + qkv.ndim if qkv_dim < 0 else qkv_dim
    if not 0 <= stacked < qkv.ndim - 1 or qkv.shape[stacked] != 3 or qkv.ndim < 3:
        raise ValueError(
            f"qkv_dim {qkv_dim} of qkv with shape {tuple(qkv.shape)} must be a dimension of size 3, before the channels; for heads side by "
            f"side pass heads=(query heads, key heads)"
        )
    return stacked


def _tokens(qkv: Tensor, stacked: int | None, seq_dim: int | None) -> int:
    """The dimension of the tokens, counted from the front."""
    if seq_dim is None and stacked is not None and stacked < qkv.ndim - 3:
        raise TypeError(
            f"qkv_dim {stacked} of qkv with shape {tuple(qkv.shape)} leaves open which dimension has the tokens: pass seq_dim=, -2 for "
            f"(3, batch, heads, seq, head_dim)"
        )
    dim = (-3 if stacked is None else -4) if seq_dim is None else _checks.index("seq_dim", seq_dim)
    axis = dim + qkv.ndim if dim < 0 else dim
    if not 0 <= axis < qkv.ndim - 1 or axis == stacked or (stacked is None and axis == qkv.ndim - 2):
        raise ValueError(f"seq_dim {dim} names no dimension of tokens of qkv with shape {tuple(qkv.shape)}")
    return axis


def _side_by_side(qkv: Tensor, heads: Any) -> tuple[Tensor, Tensor]:
    try:
        query_heads, key_heads = (_checks.index("heads", n) for n in heads)
    except (TypeError, ValueError):
        raise TypeError(f"heads must be (query heads, key heads), got {_checks.describe(heads)}") from None
    if min(query_heads, key_heads) < 1 or query_heads + 2 * key_heads != qkv.shape[-2]:
        raise ValueError(
            f"heads {(query_heads, key_heads)} are {query_heads} + 2 x {key_heads} heads, dimension -2 of qkv {tuple(qkv.shape)} has "
            f"{qkv.shape[-2]}; split a joined last dimension by qkv.unflatten(-1, (-1, head_dim))"
        )
    return qkv.narrow(-2, 0, query_heads), qkv.narrow(-2, query_heads, key_heads)
