"""The implementations that rotate on a CPU, each at its best: its own layout, tables and pairing, the tables made beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rotary_embedding_torch import apply_rotary_emb
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from benchmarks.cpu import hub, onnx_runtime
from rotary import apply_rotary_qk
from rotary.cli.clock import Contender, Rota
from rotary.cli.work import Inputs, Pair, Work, half_width, judge

COPY, CLONE, TWO_CLONES = "copy_ into allocated", "clone", "two clones"
FRESH, INPLACE = "rotary", "rotary, in place"
EAGER, COMPILED = "transformers", "transformers, torch.compile"
HALF = "half-width formula, torch.compile"
ONNX = "ONNX Runtime"
HUB, HUB_INPLACE = "kernels-community", "kernels-community, in place"

Maker = Callable[[Inputs], Contender]
Rival = Callable[[Work, Tensor, Tensor], Maker | None]
"""(work, cos, sin of half width) -> what makes a contender of q and k, or None where it does not do this work."""


def full_width(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Pair:
    """(1 or batch, seq, dim) in the dtype of the model, every value twice, as models of transformers hand them down."""
    cos, sin = (torch.cat((t, t), -1).to(dtype) for t in (cos, sin))
    return (cos, sin) if cos.ndim == 3 else (cos[None], sin[None])


def transformers(work: Work, cos: Tensor, sin: Tensor, apply: Any = apply_rotary_pos_emb) -> Maker:
    """Partial rotary as its models write it: slice, rotate, concatenate."""
    tables, dim = full_width(cos, sin, work.dtype), work.dim
    if dim == work.head_dim:
        return lambda s: lambda: apply(s.q, s.k, *tables)

    def partial(s: Inputs) -> Contender:
        def run() -> Pair:
            q, k = apply(s.q[..., :dim], s.k[..., :dim], *tables)
            return torch.cat((q, s.q[..., dim:]), -1), torch.cat((k, s.k[..., dim:]), -1)

        return run

    return partial


def transformers_compiled(work: Work, cos: Tensor, sin: Tensor) -> Maker:
    return transformers(work, cos, sin, torch.compile(apply_rotary_pos_emb, dynamic=False))


def transformers_tables(work: Work) -> LlamaRotaryEmbedding:
    """Its rotary module: module(x, position_ids) -> cos, sin (batch, seq, dim) in the dtype of x."""
    parameters = {"rope_type": "default", "rope_theta": 500_000.0}
    config = LlamaConfig(hidden_size=work.heads * work.dim, num_attention_heads=work.heads, rope_parameters=parameters)
    return LlamaRotaryEmbedding(config)


def half_width_compiled(work: Work, cos: Tensor, sin: Tensor) -> Maker:
    apply = torch.compile(half_width, dynamic=False)
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    return lambda s: lambda: apply(s.q, s.k, cos, sin)


def of_onnx_runtime(work: Work, cos: Tensor, sin: Tensor) -> Maker | None:
    session = onnx_runtime.session(work, cos, sin)
    return session and session.contender


def of_the_hub(work: Work, cos: Tensor, sin: Tensor) -> Maker | None:
    """apply_rotary_transformers of kernels-community, its tables in bfloat16. Its kernel is bfloat16 alone, without partial rotary."""
    if hub.unavailable() or work.dtype != torch.bfloat16 or work.dim != work.head_dim:
        return None
    tables, apply = full_width(cos, sin, work.dtype), hub.package().apply_rotary_transformers
    return lambda s: lambda: apply(s.q, s.k, *tables)


def of_the_hub_in_place(work: Work, cos: Tensor, sin: Tensor) -> Maker | None:
    """The hub's operator in place; the halves of q and k are cut in the call, as in its own function."""
    if of_the_hub(work, cos, sin) is None:
        return None
    apply, half = hub.operators().apply_rotary, work.head_dim // 2
    cos, sin = (t.to(work.dtype)[None, None] if t.ndim == 2 else t.to(work.dtype)[:, None] for t in (cos, sin))

    def maker(s: Inputs) -> Contender:
        def run() -> Pair:
            for x in (s.q, s.k):
                a, b = x[..., :half], x[..., half:]
                apply(a, b, cos, sin, a, b, False)
            return s.q, s.k

        return run

    return maker


def torchtune(work: Work, cos: Tensor, sin: Tensor) -> Maker | None:
    """torchtune's forward, rewritten: (batch, seq, heads, dim), adjacent pairs, float32, once for q and once for k."""
    if work.dim != work.head_dim:
        return None
    cache = torch.stack((cos, sin), -1)
    cache = cache[..., None, :, :] if cos.ndim == 3 else cache[None, :, None]

    def turn(x: Tensor) -> Tensor:
        pairs = x.float().reshape(*x.shape[:-1], -1, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = a * cache[..., 0] - b * cache[..., 1], b * cache[..., 0] + a * cache[..., 1]
        return torch.stack(turned, -1).flatten(3).type_as(x)

    def maker(s: Inputs) -> Contender:
        own = [x.transpose(1, 2) for x in (s.q, s.k)]
        return lambda: tuple(turn(x).transpose(1, 2) for x in own)

    return maker


def rotary_embedding_torch(work: Work, cos: Tensor, sin: Tensor) -> Maker | None:
    """The library's apply function with angles made beforehand, as by its cache; it computes cos and sin in every call."""
    if cos.ndim == 3:
        return None
    angles = torch.atan2(sin.double(), cos.double()).float().repeat_interleave(2, -1)
    return lambda s: lambda: (apply_rotary_emb(angles, s.q), apply_rotary_emb(angles, s.k))


def complex_product(work: Work, cos: Tensor, sin: Tensor) -> Maker | None:
    """Meta's code: adjacent channels viewed as complex numbers in float32, times cos + i sin."""
    if work.dim != work.head_dim:
        return None
    factor = torch.complex(cos, sin)[..., None, :, :]

    def turn(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * factor).flatten(3).type_as(x)

    return lambda s: lambda: (turn(s.q), turn(s.k))


OF_HALVES: dict[str, Rival] = {
    EAGER: transformers,
    COMPILED: transformers_compiled,
    HALF: half_width_compiled,
    ONNX: of_onnx_runtime,
    HUB: of_the_hub,
}
OF_NEIGHBOURS: dict[str, Rival] = {
    "torchtune's formula": torchtune,
    "rotary-embedding-torch": rotary_embedding_torch,
    "complex product": complex_product,
}


def floor_and_ours(work: Work, cos: Tensor, sin: Tensor) -> dict[str, Maker]:
    def ours(inplace: bool) -> Maker:
        return lambda s: lambda: apply_rotary_qk(s.q, s.k, cos, sin, interleaved=work.interleaved, inplace=inplace)

    return {
        COPY: lambda s: lambda: (s.out_q.copy_(s.q), s.out_k.copy_(s.k)),
        CLONE: lambda s: lambda: (s.q.clone(), s.k.clone()),
        INPLACE: ours(True),
        FRESH: ours(False),
    }


def contenders(work: Work, rota: Rota[Inputs], rivals: dict[str, Rival]) -> dict[str, Contender]:
    """A copy as the floor, our call, and each rival that does this work; all are first compared with the rotation in float64."""
    cos, sin = work.tables()
    makers = floor_and_ours(work, cos, sin)
    for name, rival in rivals.items():
        maker = rival(work, cos, sin)
        if maker is not None:
            check(name, work, maker, cos, sin)
            makers[name] = maker
    return {name: rota.contender(maker) for name, maker in makers.items()}


def check(name: str, work: Work, maker: Maker, cos: Tensor, sin: Tensor) -> None:
    """RuntimeError if the rival does not compute the rotation. Of long sequences the first and last 64 tokens are compared."""
    q, k = work.tensors()
    inputs = Inputs(q, k, torch.empty_like(q), torch.empty_like(k))
    ends = [*range(min(64, work.seq)), *range(max(work.seq - 64, 64), work.seq)]
    tables = [t.double() if t.ndim == 3 else t[ends].double() for t in (cos, sin)]
    before = [x[:, :, ends].double() for x in (q, k)]
    truth = apply_rotary_qk(*before, *tables, interleaved=work.interleaved)
    result = maker(inputs)()
    judge(name, (result[0][:, :, ends], result[1][:, :, ends]), truth, work.dtype)
