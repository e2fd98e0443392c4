"""ONNX Runtime's kernel for RotaryEmbedding (com.microsoft), inputs and outputs bound to memory beforehand: into allocated memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from rotary.cli.clock import Contender
from rotary.cli.work import Inputs, Pair, Work

_TYPES = {torch.float32: (TensorProto.FLOAT, np.float32), torch.float16: (TensorProto.FLOAT16, np.float16)}


@dataclass(frozen=True)
class Session:
    """A compiled graph of two nodes, q and k, and the tables that it reads."""

    session: Any
    element: Any
    cos: Tensor
    sin: Tensor

    def contender(self, s: Inputs) -> Contender:
        binding = self.session.io_binding()
        positions = torch.zeros(1, dtype=torch.int64)
        bound = {"q": s.q, "k": s.k, "cos": self.cos, "sin": self.sin, "positions": positions}
        for name, t in bound.items():
            kind = np.int64 if t is positions else self.element
            binding.bind_input(name, "cpu", 0, kind, list(t.shape), t.data_ptr())
        for name, t in {"q_out": s.out_q, "k_out": s.out_k}.items():
            binding.bind_output(name, "cpu", 0, self.element, list(t.shape), t.data_ptr())

        def run() -> Pair:
            assert bound  # which keeps their memory alive
            self.session.run_with_iobinding(binding)
            return s.out_q, s.out_k

        return run


def session(
    work: Work, cos: Tensor, sin: Tensor, *, threads: int | None = None, spinning: bool = False
) -> Session | None:
    """None for what its kernel does not do: other dtypes; and, as it is called here, other layouts, partial rotary and rows of tables.

    threads: torch's number of threads by default. spinning: its threads go on running for a while after a call, ready for the next, which
    slows whatever runs on the other cores meanwhile.
    """
    if work.dtype not in _TYPES or work.transposed or cos.ndim == 3 or work.dim != work.head_dim:
        return None
    kind, element = _TYPES[work.dtype]
    cos, sin = cos.to(work.dtype), sin.to(work.dtype)
    names = ("q", "k")
    attributes: Any = {"interleaved": int(work.interleaved), "num_heads": 0, "rotary_embedding_dim": 0}
    nodes = [
        helper.make_node(
            "RotaryEmbedding", [n, "positions", "cos", "sin"], [n + "_out"], domain="com.microsoft", **attributes
        )
        for n in names
    ]
    heads = {"q": work.heads, "k": work.key_heads}
    shapes = {n: [work.batch, heads[n], work.seq, work.head_dim] for n in names}
    inputs = [helper.make_tensor_value_info(n, kind, shapes[n]) for n in names]
    inputs += [helper.make_tensor_value_info("positions", TensorProto.INT64, [1])]
    inputs += [helper.make_tensor_value_info(n, kind, list(cos.shape)) for n in ("cos", "sin")]
    outputs = [helper.make_tensor_value_info(n + "_out", kind, shapes[n]) for n in names]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "rotate", inputs, outputs), opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Session(runtime, element, cos, sin)
