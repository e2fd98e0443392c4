"""patch(model): run the rotations inside one model on this library's kernels, until handle.remove().

A module whose methods call a rotation function becomes an instance of a subclass with copies of these methods. Library functions, classes
and other models are unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

from torch import nn

from .. import _checks
from . import exact_tables, fused_norms
from .check import check_frequencies
from .findings import Finding
from .handle import Handle
from .patched_class import has_replaced_methods
from .patched_model import release_copy
from .patcher import Patcher, named_as_rotation
from .rebind import is_patched, methods

TableSource = Literal["model", "exact"]
Trust = Literal["config", "module"]


def patch(
    model: nn.Module,
    *,
    tables: TableSource | None = None,
    trust: Trust = "config",
    fuse: Literal["norms"] | None = None,
    angles: TableSource | None = None,
) -> Handle:
    """Run the rotations inside a model on this library's kernels, in training too; nothing else changes.

    model: any module whose methods rotate by a function of queries, keys, cos and sin, as those of transformers do. The result is
        the same function of the model's own cos and sin, computed in float32 and rounded once.
    tables: "model" (the default) keeps the model's own cos and sin. "exact" also replaces them by exact ones, computed from the
        inv_freq of each rotary module whose forward(x, position_ids) gives cos and sin of position * inv_freq repeated in both halves,
        or of several coordinates, as the towers of Qwen-VL have them.
    trust: "config" (the default) compares the inv_freq of rotary modules with the config of the model: a warning names those that are no
        numbers or disagree, as after a cast or a load that left them unset, and their tables stay the model's own. "module" takes
        frequencies as they are. `check` compares more, and reports what it compared.
    fuse: "norms" computes RMSNorms of queries and keys per head together with the rotation behind them, in one pass, with a gradient
        (rotary.fused). The report names them, and gives the reason for each other norm: one over a whole projection, a LayerNorm, one
        whose result is used elsewhere too. Under torch.compile and autocast, and with hooks, a norm is computed by the model.
    angles: the former name of tables, deprecated; it goes in 0.4.

    Copies of the model, deep and shallow, and replicas of DataParallel stay patched and share the handle; a deep copy may be patched
    itself, and then has a handle of its own. Pickles and save_pretrained contain no patch. Until remove() a patched module is an instance
    of a subclass with the name of its class.

    A function that writes into its arguments, a call with an optional argument that has not its default value, and a method that is
    overridden on the instance run unchanged; where that leaves nothing to replace, a warning says so.

    ValueError if no rotation in the model is recognised (the message has the reasons), or if the model is patched already; TypeError
    for what is no module, and if both tables and angles are given.

    >>> import torch
    >>> class Attention(torch.nn.Module):
    ...     def forward(self, q, k, cos, sin):
    ...         return rotate(q, k, cos, sin)
    >>> def rotate(q, k, cos, sin):
    ...     half = q.shape[-1] // 2
    ...     turn = lambda x: x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
    ...     return turn(q), turn(k)
    >>> with patch(Attention()) as handle:
    ...     print(handle.report())
    replaced     1 x Attention.forward: rotate, half, tables cat, promotes
    """
    source = _table_source(tables, angles)
    _checks.module("model", model)
    _checks.one_of("trust", trust, ("config", "module"))
    if fuse is not None and not (isinstance(fuse, str) and fuse == "norms"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"fuse must be 'norms' or None, got {_checks.describe(fuse)}")
    wrong = check_frequencies(model) if trust == "config" else {}
    release_copy(model)
    handle = Handle(model)
    try:
        patcher = _patched(model, handle)
        if fuse == "norms":
            fused_norms.defer_norms(model, handle, patcher.callers, patcher.replaced)
        if source == "exact":
            exact_tables.replace_tables(model, handle, patcher.replaced, wrong)
        report = handle.report()
        report.replaced.update(patcher.replaced)
        if not patcher.replaced and not patcher.recognised:
            reasons = "; ".join(f"{function}: {reason}" for (_, function), reason in report.left.items())
            raise ValueError(
                f"nothing in {type(model).__name__} rotates in a recognised way{': ' + reasons if reasons else ''}"
            )
        if not patcher.replaced:
            warnings.warn(f"nothing in {type(model).__name__} was replaced:\n{report}", stacklevel=2)
        _warn_of(wrong)
    except BaseException:  # a warning may be an error, and the model's own code raises anything
        handle.remove()
        raise
    return handle


def _patched(model: nn.Module, handle: Handle) -> Patcher:
    """The patcher that has replaced the rotations in every method of the model."""
    patcher = Patcher(handle)
    for module in model.modules():
        if has_replaced_methods(type(module)) or any(map(is_patched, module.__dict__.values())):
            raise ValueError(f"{type(module).__name__} is patched already; remove that handle first")
        for name, method, static in methods(type(module)):
            patcher.replace_calls(module, name, method, static)
            if named_as_rotation(name):
                patcher.replace_method(module, name, method, static)
        patcher.report_super(module)
    return patcher


def _warn_of(wrong: Mapping[int, Finding]) -> None:
    """Warn of frequencies that disagree with their config: once for all modules of one class with one fault."""
    texts = dict.fromkeys(f"{finding.owner}: {finding.kind}: {finding.text}" for finding in wrong.values())
    if texts:
        warnings.warn(f"frequencies that are not those of the config: {'; '.join(texts)}", stacklevel=3)


def _table_source(tables: TableSource | None, angles: TableSource | None) -> TableSource:
    name, source = "tables", tables
    if angles is not None:
        if tables is not None:
            raise TypeError("patch() takes tables= or its former name angles=, not both")
        warnings.warn(
            "patch(angles=) is now patch(tables=); the old name goes in 0.4", DeprecationWarning, stacklevel=3
        )
        name, source = "angles", angles
    return "model" if source is None else _checks.one_of(name, source, ("model", "exact"))
