"""The work that is timed: q and k of some size, their tables, and the formulas of most models on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..embedding import RotaryEmbedding
from .clock import Rota
from .machine import last_cache

Pair = tuple[Tensor, Tensor]


class Inputs(NamedTuple):
    """q and k, and two tensors of their sizes to copy them into."""

    q: Tensor
    k: Tensor
    out_q: Tensor
    out_k: Tensor


@dataclass(frozen=True)
class Work:
    """A size to measure: queries (batch, heads, seq, head_dim) and keys with key_heads, of which rotary_dim channels rotate (0: all).

    transposed: the memory is (batch, seq, heads, head_dim), as a projection leaves it. interleaved: planes are neighbouring channels.
    """

    seq: int
    heads: int = 32
    key_heads: int = 8
    head_dim: int = 128
    batch: int = 1
    rotary_dim: int = 0
    dtype: torch.dtype = torch.float32
    transposed: bool = False
    interleaved: bool = False

    @property
    def dim(self) -> int:
        """Channels that turn."""
        return self.rotary_dim or self.head_dim

    @property
    def bytes(self) -> int:
        """Bytes of q and k."""
        return self.batch * self.seq * (self.heads + self.key_heads) * self.head_dim * self.dtype.itemsize

    def fits_the_cache(self, device: torch.device | str = "cpu") -> bool:
        """Whether q, k and a copy of both fill at most 0.7 of the last cache."""
        return 2 * self.bytes <= 0.7 * _cache(device)

    def tensors(self, device: torch.device | str = "cpu") -> Pair:
        """Random q and k."""
        return self._tensor(self.heads, device), self._tensor(self.key_heads, device)

    def _tensor(self, heads: int, device: torch.device | str) -> Tensor:
        shape = (self.batch, self.seq, heads) if self.transposed else (self.batch, heads, self.seq)
        x = torch.randn(*shape, self.head_dim, device=device).to(self.dtype)
        return x.transpose(1, 2) if self.transposed else x

    def inputs(self, device: torch.device | str = "cpu", *, from_memory: bool = False) -> Rota[Inputs]:
        """One set of tensors; or, from memory, as many as fill the last cache four times over."""
        q, k = self.tensors(device)
        count = -(-4 * _cache(device) // self.bytes) if from_memory else 1
        sets = [Inputs(q.clone(), k.clone(), q.clone(), k.clone()) for _ in range(count - 1)]
        return Rota([Inputs(q, k, q.clone(), k.clone()), *sets])

    def rope(self, device: torch.device | str = "cpu") -> RotaryEmbedding:
        """The module that rotates them."""
        return RotaryEmbedding(self.dim, base=500_000, interleaved=self.interleaved, device=device)

    def offset(self, device: torch.device | str = "cpu") -> int | Tensor:
        """Position of the first row: 0; 5000 for one token; in batched decoding (seq 1, batch > 1) another one for each row."""
        if self.seq == 1 and self.batch > 1:
            return 1000 + 7 * torch.arange(self.batch, device=device)
        return 5000 if self.seq == 1 else 0

    def positions(self, device: torch.device | str = "cpu") -> Tensor:
        """(seq,), or (batch, 1) in batched decoding."""
        offset = self.offset(device)
        if isinstance(offset, Tensor):
            return offset[:, None]
        return torch.arange(offset, offset + self.seq, device=device)

    def tables(self, device: torch.device | str = "cpu") -> Pair:
        """cos and sin of half width, (seq, dim/2) or (batch, 1, dim/2)."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return self.rope(device).cos_sin(self.positions(device), dtype)


def _cache(device: torch.device | str) -> int:
    """Bytes of the device's last cache."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return last_cache()


def wide(cos: Tensor, sin: Tensor, dtype: torch.dtype, *, interleaved: bool = False) -> Pair:
    """Tables of full width (..., 1, seq, dim) in the dtype of the model, as models pass them to their layers: every value twice."""

    def widened(t: Tensor) -> Tensor:
        t = t.repeat_interleave(2, -1) if interleaved else torch.cat((t, t), -1)
        return t.to(dtype)[..., None, :, :]

    return widened(cos), widened(sin)


def usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Pair:
    """The formula of most models, x cos + rotate_half(x) sin, with tables (seq, dim) that hold every value twice.

    Tables narrower than head_dim turn the first channels: models slice, rotate and concatenate. interleaved: rotate_every_two.
    """

    def rotate_half(x: Tensor) -> Tensor:
        if interleaved:
            return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat((-b, a), -1)

    def turn(x: Tensor) -> Tensor:
        dim = cos.shape[-1]
        if dim == x.shape[-1]:
            return x * cos + rotate_half(x) * sin
        part = x[..., :dim]
        return torch.cat((part * cos + rotate_half(part) * sin, x[..., dim:]), -1)

    return turn(q), turn(k)


def half_width(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Pair:
    """The same rotation with tables (seq, dim/2) and without rotate_half, the form that torch.compile makes fastest."""

    def turn(x: Tensor) -> Tensor:
        dim = 2 * cos.shape[-1]
        part = x[..., :dim].to(torch.promote_types(x.dtype, cos.dtype))
        a, b = (part[..., ::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
        turned = a * cos - b * sin, b * cos + a * sin
        y = (torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)).to(x.dtype)
        return y if dim == x.shape[-1] else torch.cat((y, x[..., dim:]), -1)

    return turn(q), turn(k)


def float32_product(positions: Tensor, inv_freq: Tensor) -> Pair:
    """cos and sin of half width as most models make them: the angle is a product in float32."""
    angles = positions.float()[..., None] * inv_freq
    return angles.cos(), angles.sin()


def judge(name: str, result: Pair, truth: Pair, dtype: torch.dtype) -> None:
    """RuntimeError if a contender's result differs from the true q and k by more than rounding in dtype explains."""
    for x, exact in zip(result, truth, strict=True):
        error = float((x.double() - exact).abs().max())
        if x.shape != exact.shape or not error <= 64 * torch.finfo(dtype).eps:
            raise RuntimeError(f"{name} is not timed: it differs from the rotation by {error:.2g} in {dtype}")
