"""The implementations that rotate on a CPU, each at its best: its own layout, tables and pairing, the tables made beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from rotary_embedding_torch import apply_rotary_emb
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from rotary import apply_rotary_qk
from rotary.cli.bench import Contender, Pair, Work, half_width, judge

Rival = Callable[[Work, Tensor, Tensor, Tensor, Tensor], Contender | None]
"""(work, q, k, cos, sin of half width) -> what is timed, or None where it does not do this work."""


def wide(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Pair:
    """(1 or batch, seq, dim) in the dtype of the model, every value twice, as models of transformers hand them down."""
    cos, sin = (torch.cat((t, t), -1).to(dtype) for t in (cos, sin))
    return (cos, sin) if cos.ndim == 3 else (cos[None], sin[None])


def transformers(
    work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, apply: Any = apply_rotary_pos_emb
) -> Contender:
    """Partial rotary as its models write it: slice, rotate, concatenate."""
    tables, dim = wide(cos, sin, work.dtype), work.dim
    if dim == work.head_dim:
        return lambda: apply(q, k, *tables)

    def partial() -> Pair:
        turned = apply(q[..., :dim], k[..., :dim], *tables)
        return tuple(torch.cat((y, x[..., dim:]), -1) for x, y in zip((q, k), turned, strict=True))  # type: ignore[return-value]

    return partial


def transformers_compiled(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Contender:
    return transformers(work, q, k, cos, sin, torch.compile(apply_rotary_pos_emb, dynamic=False))


def half_width_compiled(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Contender | None:
    if work.dim != work.head_dim:
        return None
    apply = torch.compile(half_width, dynamic=False)
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    return lambda: apply(q, k, cos, sin)


def torchtune(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Contender | None:
    """Its module's forward, written anew: (batch, seq, heads, dim), pairs of neighbours, float32, once for q and once for k."""
    if work.dim != work.head_dim:
        return None
    cache = (
        torch.stack((cos, sin), -1)[..., None, :, :] if cos.ndim == 3 else torch.stack((cos, sin), -1)[None, :, None]
    )
    given = [x.transpose(1, 2) for x in (q, k)]

    def turn(x: Tensor) -> Tensor:
        pairs = x.float().reshape(*x.shape[:-1], -1, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        return (
            torch.stack((a * cache[..., 0] - b * cache[..., 1], b * cache[..., 0] + a * cache[..., 1]), -1)
            .flatten(3)
            .type_as(x)
        )

    return lambda: tuple(turn(x).transpose(1, 2) for x in given)


def rotary_embedding_torch(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Contender | None:
    """Its apply function with angles made beforehand, as its own cache would; it takes their cos and sin in every call."""
    if cos.ndim == 3:
        return None
    angles = torch.atan2(sin.double(), cos.double()).float().repeat_interleave(2, -1)
    return lambda: (apply_rotary_emb(angles, q), apply_rotary_emb(angles, k))


def complex_product(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Contender | None:
    """Meta's: neighbours viewed as complex numbers in float32, times cos + i sin."""
    if work.dim != work.head_dim:
        return None
    turn = torch.complex(cos, sin)[..., None, :, :]

    def turned(x: Tensor) -> Tensor:
        return (
            torch.view_as_real(torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * turn)
            .flatten(3)
            .type_as(x)
        )

    return lambda: (turned(q), turned(k))


def onnx_runtime(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Contender | None:
    """RotaryEmbedding of com.microsoft, outputs bound to memory of their own: into allocated, so in its favour. float32, contiguous."""
    if work.dtype != torch.float32 or work.transposed or cos.ndim == 3 or work.dim != work.head_dim:
        return None
    names = ("q", "k")
    attributes = {"interleaved": 0, "num_heads": 0, "rotary_embedding_dim": 0}
    nodes = [
        helper.make_node(
            "RotaryEmbedding", [n, "positions", "cos", "sin"], [n + "_out"], domain="com.microsoft", **attributes
        )
        for n in names
    ]
    shapes = {"q": list(q.shape), "k": list(k.shape)}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in names]
    inputs += [helper.make_tensor_value_info("positions", TensorProto.INT64, [1])]
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(cos.shape)) for n in ("cos", "sin")]
    outputs = [helper.make_tensor_value_info(n + "_out", TensorProto.FLOAT, shapes[n]) for n in names]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "rotate", inputs, outputs), opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # a spinning pool would slow the others down
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    held = {"q": torch.empty_like(q), "k": torch.empty_like(k)}
    positions = torch.zeros(1, dtype=torch.int64)
    bound = {"q": q, "k": k, "cos": cos, "sin": sin, "positions": positions}
    for name, t in bound.items():
        binding.bind_input(name, "cpu", 0, np.int64 if t is positions else np.float32, list(t.shape), t.data_ptr())
    for name, t in held.items():
        binding.bind_output(name + "_out", "cpu", 0, np.float32, list(t.shape), t.data_ptr())

    def run() -> Pair:
        assert bound  # which keeps their memory alive
        session.run_with_iobinding(binding)
        return held["q"], held["k"]

    return run


HALF: dict[str, Rival] = {
    "transformers": transformers,
    "transformers, torch.compile": transformers_compiled,
    "half-width formula, torch.compile": half_width_compiled,
    "ONNX Runtime": onnx_runtime,
}
INTERLEAVED: dict[str, Rival] = {
    "torchtune's formula": torchtune,
    "rotary-embedding-torch": rotary_embedding_torch,
    "complex product": complex_product,
}


def ours(work: Work, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> dict[str, Contender]:
    own_q, own_k = q.clone(), k.clone()
    return {
        "rotary, in place": lambda: apply_rotary_qk(own_q, own_k, cos, sin, inplace=True),
        "rotary": lambda: apply_rotary_qk(q, k, cos, sin),
        "rotary, interleaved": lambda: apply_rotary_qk(q, k, cos, sin, interleaved=True),
    }


def contenders(work: Work, *, without: tuple[str, ...] = ()) -> dict[str, Contender]:
    """The floor, ours, and every rival that does this work, each judged against ours in float64."""
    q, k = work.tensors()
    cos, sin = work.tables()
    held_q, held_k = torch.empty_like(q), torch.empty_like(k)
    found: dict[str, Contender] = {
        "copy_ into allocated": lambda: (held_q.copy_(q), held_k.copy_(k)),
        "clone": lambda: (q.clone(), k.clone()),
        **ours(work, q, k, cos, sin),
    }
    exact = [t.double() for t in (q, k, cos, sin)]
    for interleaved, rivals in ((False, HALF), (True, INTERLEAVED)):
        truth = apply_rotary_qk(*exact, interleaved=interleaved)
        for name, rival in rivals.items():
            made = None if name in without else rival(work, q, k, cos, sin)
            if made is not None:
                judge(name, made(), truth, work.dtype)
                found[name] = made
    return found
