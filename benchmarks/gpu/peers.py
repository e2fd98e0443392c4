"""rotary and its peers on a GPU behind one interface, each with its own memory layout and tables.

A peer that cannot be imported, or does not do what is asked, is left out with the reason. All are given the same queries and keys,
(batch, seq, heads, head_dim) in memory as projections leave them, as views in the layout that each expects.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary_qk, operators

BASE = 500_000
Pair = tuple[Tensor, Tensor]
Rotation = Callable[[Tensor, Tensor], Any]
MODES = ("forward", "in place", "backward")


class Tables(NamedTuple):
    """The input of all peers: the position of each token, the pairing, and cos and sin for it (float32, half width)."""

    positions: Tensor
    """(1 or batch, seq) int64, ascending by 1 along seq."""
    cos: Tensor
    """(1 or batch, seq, head_dim/2)."""
    sin: Tensor
    interleaved: bool
    batch: int

    def full(self, dtype: torch.dtype) -> Pair:
        """(1 or batch, seq, head_dim), every value twice, as transformers keeps them."""
        spread = (lambda t: t.repeat_interleave(2, -1)) if self.interleaved else (lambda t: torch.cat((t, t), -1))
        return spread(self.cos).to(dtype), spread(self.sin).to(dtype)

    def by_position(self) -> Pair:
        """(last position + 1, head_dim/2): a table of every position, for peers whose kernel looks rows up."""
        count = int(self.positions.max()) + 1
        rope = RotaryEmbedding(2 * self.cos.shape[-1], base=BASE, device=self.cos.device)
        return rope.cos_sin(torch.arange(count, device=self.cos.device))


class Layout(NamedTuple):
    """How a peer sees (batch, seq, heads, head_dim), as a view, and the way back."""

    view: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, tuple[int, ...]], Tensor]


HEADS_FIRST = Layout(lambda t: t.transpose(1, 2), lambda t, shape: t.transpose(1, 2))
AS_IT_IS = Layout(lambda t: t, lambda t, shape: t)
FLAT = Layout(lambda t: t.flatten(0, 1).flatten(1), lambda t, shape: t.reshape(shape))  # (tokens, heads x head_dim)


class Peer(NamedTuple):
    """make(tables, mode) -> the function of (q, k) to be timed, or the reason why there is none."""

    make: Callable[[Tables, str], Rotation | str]
    layout: Layout


def tables(batch: int, seq: int, head_dim: int, *, interleaved: bool, device: str) -> Tables:
    """Prefill starts at 0, alike in every row; decoding (seq of 1) is at another position in each."""
    positions = torch.arange(seq, device=device)[None]
    if seq == 1 and batch > 1:
        positions = 1000 + 7 * torch.arange(batch, device=device)[:, None]
    cos, sin = RotaryEmbedding(head_dim, base=BASE, device=device).cos_sin(positions)
    return Tables(positions, cos, sin, interleaved, batch)


def ours(tables: Tables, mode: str) -> Rotation | str:
    def rotate(q: Tensor, k: Tensor) -> Pair:
        return apply_rotary_qk(q, k, tables.cos, tables.sin, interleaved=tables.interleaved, inplace=mode == "in place")

    return rotate


def ours_compiled(tables: Tables, mode: str) -> Rotation | str:
    rotate = ours(tables, mode)
    return rotate if isinstance(rotate, str) else torch.compile(rotate, dynamic=False)


def operator_compiled(tables: Tables, mode: str) -> Rotation | str:
    """Our kernel as one node of the compiled graph, where ours_compiled is the plain formula, fused."""
    how: Any = {"interleaved": tables.interleaved, "inplace": mode == "in place"}
    return torch.compile(
        lambda q, k: operators.apply_rotary_qk(q, k, tables.cos, tables.sin, **how), fullgraph=True, dynamic=False
    )


def transformers(tables: Tables, mode: str) -> Rotation | str:
    """Llama's function, and Cohere's for the interleaved pairing. Its tables have the dtype of the model."""
    if mode == "in place":
        return "out of place only"
    name = "cohere" if tables.interleaved else "llama"
    apply = importlib.import_module(f"transformers.models.{name}.modeling_{name}").apply_rotary_pos_emb
    cos, sin = tables.full(torch.bfloat16)
    return lambda q, k: apply(q, k, cos, sin)


def transformers_compiled(tables: Tables, mode: str) -> Rotation | str:
    rotate = transformers(tables, mode)
    return rotate if isinstance(rotate, str) else torch.compile(rotate, dynamic=False)


def flash_attention(tables: Tables, mode: str) -> Rotation | str:
    """Its Triton kernel, one call for q and one for k; tables in the dtype of x, which it insists on."""
    apply = importlib.import_module("flash_attn.layers.rotary").apply_rotary_emb
    cos, sin = (t.bfloat16() for t in tables.by_position())
    offsets = tables.positions[:, 0].contiguous() if len(tables.positions) > 1 else 0
    how: Any = {"interleaved": tables.interleaved, "inplace": mode == "in place", "seqlen_offsets": offsets}
    return lambda q, k: (apply(q, cos, sin, **how), apply(k, cos, sin, **how))


def liger(tables: Tables, mode: str) -> Rotation | str:
    """Its Triton kernel writes over q and k, and over the gradients on the way back."""
    if tables.interleaved:
        return "half pairing only"
    if mode == "forward":
        return "in place only"
    apply = importlib.import_module("liger_kernel.ops.rope").LigerRopeFunction.apply
    cos, sin = tables.full(torch.bfloat16)
    return lambda q, k: apply(q, k, cos, sin)


def flashinfer(tables: Tables, mode: str) -> Rotation | str:
    """Its CUDA kernel with a float32 table, half width, cos beside sin, rows looked up by position."""
    if mode == "backward":
        return "no backward"
    rope = importlib.import_module("flashinfer.rope")
    table = torch.cat(tables.by_position(), -1)
    positions = tables.positions.expand(tables.batch, -1).flatten()
    head_dim = table.shape[-1]
    if mode == "forward":
        return lambda q, k: rope.apply_rope_with_cos_sin_cache(positions, q, k, head_dim, table, not tables.interleaved)

    def rotate(q: Tensor, k: Tensor) -> Pair:
        rope.apply_rope_with_cos_sin_cache_inplace(positions, q, k, head_dim, table, not tables.interleaved)
        return q, k

    return rotate


PEERS = {
    "rotary": Peer(ours, HEADS_FIRST),
    "rotary under torch.compile": Peer(ours_compiled, HEADS_FIRST),
    "rotary's operator under torch.compile": Peer(operator_compiled, HEADS_FIRST),
    "transformers": Peer(transformers, HEADS_FIRST),
    "transformers under torch.compile": Peer(transformers_compiled, HEADS_FIRST),
    "flash-attention": Peer(flash_attention, AS_IT_IS),
    "Liger": Peer(liger, HEADS_FIRST),
    "flashinfer": Peer(flashinfer, FLAT),
}


def absent() -> dict[str, str]:
    """The peers that cannot be imported here, and why."""
    needed = {
        "transformers": "transformers",
        "flash-attention": "flash_attn.layers.rotary",
        "Liger": "liger_kernel.ops.rope",
        "flashinfer": "flashinfer.rope",
    }
    missing: dict[str, str] = {}
    for name, module in needed.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # the import of a peer may raise anything
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            missing.update({other: missing[name] for other in PEERS if other == f"{name} under torch.compile"})
    return missing


def exact(x: Tensor, tables: Tables, conjugate: bool) -> Tensor:
    """The rotation in float64, x (batch, seq, heads, head_dim): the judge of every peer before its time counts."""
    cos, sin = tables.cos.double()[:, :, None], tables.sin.double()[:, :, None]
    sin = -sin if conjugate else sin
    x = x.double()
    a, b = (x[..., ::2], x[..., 1::2]) if tables.interleaved else x.chunk(2, -1)
    y = a * cos - b * sin, b * cos + a * sin
    return torch.stack(y, -1).flatten(-2) if tables.interleaved else torch.cat(y, -1)
