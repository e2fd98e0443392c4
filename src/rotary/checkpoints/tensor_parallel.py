"""How Meta's files consolidated.00.pth, .01.pth, ... divide their tensors, and the axis along which each is joined.

Each file has every name. Projections from the hidden state are cut along their rows, projections back to it along their columns. Norms
are copies, and biases of projections back, which are added after the sum. The embedding of Llama 1 and 2 is cut along its columns, that
of Llama 3 along its rows; its shape shows which.

Source: meta-llama/llama, llama/model.py, and meta-llama/llama3, llama/model.py (ColumnParallelLinear, RowParallelLinear,
ParallelEmbedding, VocabParallelEmbedding of fairscale, fairscale/nn/model_parallel/layers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Axis = Literal[0, 1] | None
"""The axis along which pieces are joined; None for copies, of which the first is taken."""

_ROWS = frozenset(["wq", "wk", "wv", "w1", "w3", "output"])
_COLUMNS = frozenset(["wo", "w2"])
_COPIES = frozenset(["attention_norm", "ffn_norm", "norm", "rope", "q_norm", "k_norm"])
_EMBEDDING = "tok_embeddings"


def axis_of(name: str, pieces: Sequence[Tensor], config: Mapping[str, Any]) -> Axis:
    """The axis of that tensor. config: with hidden_size. ValueError for a name without a rule, shapes that do not fit, unlike copies."""
    first = pieces[0]
    layouts = {(tuple(piece.shape), piece.dtype) for piece in pieces}
    if len(layouts) != 1:
        raise ValueError(
            f"{name} has other shapes or dtypes in other files: {', '.join(map(str, sorted(layouts, key=str)))}"
        )
    words = set(name.split("."))
    bias = name.endswith(".bias")
    if words & _COPIES or (bias and words & _COLUMNS):
        if any(not _same_bits(first, piece) for piece in pieces[1:]):
            raise ValueError(
                f"{name} differs between the files, which should have copies of it; are they of one model?"
            )
        return None
    if not words & (_ROWS | _COLUMNS | {_EMBEDDING}):
        raise ValueError(f"{name}: no rule for the axis along which {len(pieces)} tensor-parallel files divide it")
    width = config.get("hidden_size")
    if bias and words & _ROWS and first.ndim == 1:
        return 0
    if first.ndim != 2:
        raise ValueError(f"{name} {tuple(first.shape)} cannot be joined: it should be a matrix; is the file complete?")
    if type(width) is not int:
        raise ValueError(f"{name} cannot be joined: dim (hidden_size) is missing in the config; pass config= with it")
    rows, columns = first.shape
    if words & _COLUMNS:
        return _fitting(name, first, 1, rows == width, width)
    if _EMBEDDING in words and columns * len(pieces) == width:
        return 1
    return _fitting(name, first, 0, columns == width, width)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype are copies; torch.equal() takes no float8, and NaN for unequal."""
    x, y = (tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (a, b))
    return torch.equal(x, y)


def _fitting(name: str, piece: Tensor, axis: Literal[0, 1], fits: bool, width: int) -> Axis:
    if not fits:
        whole = "rows" if axis else "columns"
        raise ValueError(
            f"{name} {tuple(piece.shape)} should have dim = {width} {whole} in each file; does the config belong to these files?"
        )
    return axis


def check_numbers(names: Sequence[str]) -> None:
    """ValueError unless the files are consolidated.00.pth, .01.pth, ... without a gap."""
    expected = [f"consolidated.{i:02d}.pth" for i in range(len(names))]
    missing = [name for name in expected if name not in names]
    if missing:
        raise ValueError(f"{missing[0]} is missing, and each of {', '.join(names)} has a part of every tensor alone")
