"""Export to ONNX with the rotation as one node, RotaryEmbedding of opset 23.

    torch.onnx.export(model, args, dynamo=True, opset_version=23, custom_translation_table=rotary.onnx.translation_table())

Without the table the exporter writes the plain formula, a dozen nodes for q and k, with the same numbers. cos and sin are computed in
the graph as they are here, exactly, from integer positions; the node gets them as inputs.

The node takes one dtype for x, cos and sin. Half precisions are cast to float32 before it and rounded once after it, as here. Where the
rotation does not fit the node the formula is written: float64, an odd head_dim, and below opset 23, which a warning says.

Source: onnx/onnx, docs/Operators.md, RotaryEmbedding-23.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["translation_table"]

FIRST_OPSET = 23
"""The opset that has RotaryEmbedding."""


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """A dict for custom_translation_table of torch.onnx.export(..., dynamo=True): operators of this library -> functions that make nodes.

    It has two operators: the formula, to which every function of this library is exported from a module; and that of rotary.operators,
    which a program of torch.export.export holds. The dict is new at each call and may be joined with others.

    ImportError where onnxscript is missing, which torch's exporter needs.
    """
    try:
        importlib.import_module("onnxscript")
    except ImportError:
        raise ImportError("export to ONNX needs onnxscript: pip install 'rotary[onnx]'") from None
    return {torch.ops.rotary.rotate_by_formula.default: _rotate, torch.ops.rotary.rotate.default: _rotate}


def _rotate(
    xs: Sequence[Any], tables: Sequence[Any], seq_dim: int, interleaved: bool = False, conjugate: bool = False
) -> Sequence[Any]:
    """The nodes for one call of the operator, called by the exporter: its arguments and results are values of ONNX, not tensors."""
    options = {"interleaved": interleaved, "conjugate": conjugate}
    return [
        _Rotation(x, cos, seq_dim).nodes(cos, sin, **options)
        for x, cos, sin in zip(xs, tables[::2], tables[1::2], strict=True)
    ]


class _Rotation:
    """Nodes for the rotation of one x. A size that is not known at export (None) is computed by nodes, from the shape of x."""

    def __init__(self, x: Any, table: Any, seq_dim: int) -> None:
        opsets = importlib.import_module("onnxscript.onnx_opset")
        recorder = importlib.import_module("onnxscript.evaluator").default()
        self.op: Any = opsets.opset18
        self.op23: Any = opsets.opset23
        self.opset: int = getattr(getattr(recorder, "opset", None), "version", FIRST_OPSET)
        self.x = x
        self.seq_dim = seq_dim
        self.sizes: list[int | None] = [size if isinstance(size, int) else None for size in x.shape]
        self.dim: int = 2 * table.shape[-1]
        self.dtype: Any = table.dtype
        self.table_shape: list[Any] = list(table.shape)

    def nodes(self, cos: Any, sin: Any, interleaved: bool, conjugate: bool) -> Any:
        """The rotated x, computed in the dtype of the tables and rounded once."""
        if not self.dim:  # no channel turns, and runtimes refuse a node of no planes
            return self.op.Identity(self.x)
        sin = self.op.Neg(sin) if conjugate else sin
        x = self.x if self.x.dtype == self.dtype else self.op.Cast(self.x, to=int(self.dtype))
        y = self._as_node(x, cos, sin, interleaved) if self._fits() else self._formula(x, cos, sin, interleaved)
        return y if self.x.dtype == self.dtype else self.op.Cast(y, to=int(self.x.dtype))

    def _fits(self) -> bool:
        if self.opset < FIRST_OPSET:
            warnings.warn(
                f"opset {self.opset} has no RotaryEmbedding, so that the plain formula is exported; pass opset_version={FIRST_OPSET}",
                stacklevel=2,
            )
            return False
        head_dim = self.sizes[-1]
        return self.dtype.name != "DOUBLE" and head_dim is not None and head_dim % 2 == 0

    # --- the node -----------------------------------------------------------------------------------------------------------

    def _as_node(self, x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
        """The rotation as one node, which takes (batch, heads, seq, head_dim), or (batch, seq, heads x head_dim) and num_heads.

        x with its heads behind the sequence takes the second form where the number of heads is known at export, since it needs no
        transposition; otherwise heads are moved in front of the sequence, and back.
        """
        op, heads_behind = self.op, self.sizes[self.seq_dim + 1 : -1]
        attributes = {"interleaved": int(interleaved)}
        if self.dim != self.sizes[-1]:
            attributes["rotary_embedding_dim"] = self.dim
        rows = [self._per_row(table) for table in (cos, sin)]
        if heads_behind and None not in heads_behind and self.seq_dim <= 1:
            heads = math.prod(size or 0 for size in heads_behind)
            flat = [*([1] if self.seq_dim == 0 else [0]), *([-1] if self.seq_dim == 0 else [0])]
            flat.append(heads * (self.sizes[-1] or 0))
            y = self.op23.RotaryEmbedding(self._reshaped(x, flat), *rows, num_heads=heads, **attributes)
            return op.Reshape(y, op.Shape(self.x))
        last = [*range(self.seq_dim), *range(self.seq_dim + 1, len(self.sizes) - 1), self.seq_dim]
        order = [*last, len(self.sizes) - 1]
        if heads_behind:
            x = op.Transpose(x, perm=order)
        y = self._heads_first(x, rows, attributes)
        return op.Transpose(y, perm=[order.index(i) for i in range(len(order))]) if heads_behind else y

    def _heads_first(self, x: Any, rows: list[Any], attributes: dict[str, int]) -> Any:
        """The node for x (..., seq, head_dim), whose first dimension is the batch unless it is the sequence."""
        op, ndim = self.op, len(self.sizes)
        if ndim == 4 and self.seq_dim != 0:
            return self.op23.RotaryEmbedding(x, *rows, **attributes)
        shape = op.Shape(x)
        batch = op.Constant(value_ints=[1]) if self.seq_dim == 0 else op.Shape(x, start=0, end=1)
        four = op.Concat(batch, op.Constant(value_ints=[-1]), op.Shape(x, start=ndim - 2), axis=0)
        y = self.op23.RotaryEmbedding(op.Reshape(x, four), *rows, **attributes)
        return op.Reshape(y, shape)

    def _per_row(self, table: Any) -> Any:
        """A table as the node takes it: (batch, seq, dim/2), with the batch of x."""
        op = self.op
        if len(self.table_shape) == 2:
            table = op.Unsqueeze(table, op.Constant(value_ints=[0]))
        elif self.table_shape[0] == self.x.shape[0]:
            return table
        if self.seq_dim == 0 or self.sizes[0] == 1:
            return table
        ones = op.Constant(value_ints=[1, 1])
        return op.Expand(table, op.Concat(op.Shape(self.x, start=0, end=1), ones, axis=0))

    # --- the formula --------------------------------------------------------------------------------------------------------

    def _formula(self, x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
        """The rotation in plain nodes: the first dim channels turn, the others pass through."""
        op, dim = self.op, self.dim
        cos, sin = self._spread(cos), self._spread(sin)
        if interleaved:
            a, b = self._slice(x, 0, dim, 2), self._slice(x, 1, dim, 2)
        else:
            a, b = self._slice(x, 0, dim // 2), self._slice(x, dim // 2, dim)
        turned = [op.Sub(op.Mul(a, cos), op.Mul(b, sin)), op.Add(op.Mul(b, cos), op.Mul(a, sin))]
        if interleaved:
            last = op.Constant(value_ints=[-1])
            shape = op.Concat(op.Shape(x, end=-1), op.Constant(value_ints=[dim]), axis=0)
            y = op.Reshape(op.Concat(*(op.Unsqueeze(t, last) for t in turned), axis=-1), shape)
        else:
            y = op.Concat(*turned, axis=-1)
        return y if self.sizes[-1] == dim else op.Concat(y, self._slice(x, dim, 2**31 - 1), axis=-1)

    def _spread(self, table: Any) -> Any:
        """The table with dimensions of size 1 for those of x that it does not have."""
        ndim, batched = len(self.sizes), len(self.table_shape) == 3
        if batched and self.seq_dim == 0:
            table, batched = self.op.Squeeze(table, self.op.Constant(value_ints=[0])), False
        own = {self.seq_dim, ndim - 1} | ({0} if batched else set[int]())
        return self.op.Unsqueeze(table, self.op.Constant(value_ints=[i for i in range(ndim) if i not in own]))

    def _slice(self, x: Any, start: int, end: int, step: int = 1) -> Any:
        limits = [self.op.Constant(value_ints=[n]) for n in (start, end, -1, step)]
        return self.op.Slice(x, *limits)

    def _reshaped(self, x: Any, sizes: list[int]) -> Any:
        return self.op.Reshape(x, self.op.Constant(value_ints=sizes))
