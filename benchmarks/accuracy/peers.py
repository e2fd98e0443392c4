"""The implementations of cos and sin that benchmarks.accuracy.run compares, each with its best settings, at positions in one dimension."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rotary_embedding_torch import RotaryEmbedding as RotaryEmbeddingTorch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rotary import RotaryEmbedding

DIM = 128

Shown = tuple[Tensor, Tensor, Tensor]
"""float32 inv_freq (dim/2,), cos (n, dim/2), sin (n, dim/2)"""
Implementation = Callable[[int, Tensor], Shown]
"""(base, int64 positions (n,)) -> Shown"""


def ours(base: int, positions: Tensor) -> Shown:
    rope = RotaryEmbedding(DIM, base=base)
    return rope.inv_freq, *rope.cos_sin(positions)


def transformers(base: int, positions: Tensor) -> Shown:
    """Its module is float32 inside whatever the model is."""
    config = LlamaConfig(head_dim=DIM, rope_parameters={"rope_type": "default", "rope_theta": float(base)})
    rope = LlamaRotaryEmbedding(config)
    cos, sin = rope(torch.zeros(1), positions[None])
    return rope.inv_freq, cos[0, :, : DIM // 2], sin[0, :, : DIM // 2]


def torchtune(base: int, positions: Tensor) -> Shown:
    """Its formula, written anew: float32 frequencies, float32 positions, their outer product, cos and sin. It tabulates from 0."""
    inv_freq = 1.0 / base ** (torch.arange(0, DIM, 2).float() / DIM)
    angles = torch.einsum("i,j->ij", positions.to(inv_freq.dtype), inv_freq)
    return inv_freq, angles.cos(), angles.sin()


def timm(base: int, positions: Tensor, dtype: torch.dtype = torch.float32) -> Shown:
    """build_rotary_pos_embed([n], in_pixels=False), its function for one axis and language frequencies, written anew.

    dtype: of the frequencies, which a caller may hand over; the grid of positions is float32 always. It tabulates from 0.
    """
    inv_freq = 1.0 / (base ** (torch.arange(DIM // 2).to(torch.float32) / (DIM // 2)))
    angles = positions.to(torch.float32)[:, None] * inv_freq.to(dtype)
    return inv_freq, angles.cos().float(), angles.sin().float()


def timm_float64(base: int, positions: Tensor) -> Shown:
    return timm(base, positions, torch.float64)


def torchscale(base: int, positions: Tensor) -> Shown:
    """The rotation in its xPos, written anew; there the base is 10,000 always. It tabulates from 0."""
    inv_freq = 1.0 / (base ** (torch.arange(0, DIM // 2) / (DIM // 2)))
    angles = torch.einsum("i , j -> i j", positions.to(torch.float), inv_freq)
    return inv_freq, angles.cos(), angles.sin()


def rotary_embedding_torch(base: int, positions: Tensor, dtype: torch.dtype = torch.float32) -> Shown:
    """Its forward on integer positions. dtype: of the module, and so of positions and angles."""
    rope = RotaryEmbeddingTorch(DIM, theta=base)
    inv_freq = rope.freqs.detach().clone()
    with torch.no_grad():
        angles = rope.to(dtype)(positions)[:, ::2]
    return inv_freq, angles.cos().float(), angles.sin().float()


def rotary_embedding_torch_float64(base: int, positions: Tensor) -> Shown:
    return rotary_embedding_torch(base, positions, torch.float64)


FLOAT32: dict[str, Implementation] = {
    "rotary": ours,
    "transformers": transformers,
    "torchtune's formula": torchtune,
    "rotary-embedding-torch": rotary_embedding_torch,
}
MORE: dict[str, Implementation] = {
    "timm's formula": timm,
    "torchscale's formula": torchscale,
    "timm's formula, float64 frequencies": timm_float64,
    "rotary-embedding-torch, .double()": rotary_embedding_torch_float64,
}
IMPLEMENTATIONS = FLOAT32 | MORE
