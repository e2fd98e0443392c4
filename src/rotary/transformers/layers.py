"""Layers in the form of the kernels hub: stateless modules whose forward takes the place of a model's rotation function.

    apply_rotary_transformers   queries and keys        transformers maps "rotary_pos_emb" to a layer of this name
    apply_rotary_transformers_one   one tensor          functions of queries alone, as those of Gemma 3n and Gemma 4

`kernelize` of the package kernels puts forward in the place of a function that a model has decorated. Functions that do different things
have the one name "rotary_pos_emb": half or interleaved, partial, in the opposite direction, with tables of another layout. So the function
is called to find out what it does, as by patch() (probe). One that is no known rotation runs unchanged, after a warning. A layer that is
called directly, without a function behind it, finds the pairing by comparing the values of its tables, which waits for a device.

The class names are those that the hub looks up. The hub allows a layer no constructor and no other members.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from .._types import CosSin
from ..functional import apply_rotary
from .halves import equal_halves
from .probe import probe
from .rows import rows_of
from .spec import RotationSpec
from .wrapper import Replacement

_HALF, _INTERLEAVED = RotationSpec(widths="cat"), RotationSpec(widths="repeat", interleaved=True)
_replacements: weakref.WeakKeyDictionary[nn.Module, Replacement | None] = weakref.WeakKeyDictionary()


class apply_rotary_transformers(nn.Module):
    """Rotates queries and keys by a model's own cos and sin, in float32, rounded once, with gradients.

    forward(q, k, cos, sin, unsqueeze_dim=1):

    q, k: (batch, heads, seq, head_dim), or any layout that the tables broadcast against once they have an axis at unsqueeze_dim. k may be
        None: q alone.
    cos, sin: (batch, seq, dim) or (seq, dim), a column per channel. Equal halves mean half pairing, equal neighbours interleaved, and both
        half pairing; dim < head_dim leaves the later channels unchanged.
    unsqueeze_dim: the dimension at which the tables get an axis for the heads.

    Returns (q, k). In the place of a decorated function, the layer computes what that function does, whatever the tables are; under
    torch.compile the function itself runs, so that its formula is fused with the operations around it.

    TypeError for arguments that are no floating tensors; ValueError for shapes that do not fit, for tables with neither equal halves nor
    equal neighbours, since the two channels of a plane need one angle; and under torch.compile without a function, where values cannot be
    compared.

    >>> cos, sin = torch.ones(1, 5, 8), torch.zeros(1, 5, 8)
    >>> q, k = apply_rotary_transformers()(torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), cos, sin)
    >>> q.shape, k.shape
    (torch.Size([1, 4, 5, 8]), torch.Size([1, 2, 5, 8]))
    """

    can_torch_compile = True
    has_backward = True

    def forward(self, q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return _rotated(self, q, k, cos, sin, unsqueeze_dim)


class apply_rotary_transformers_one(nn.Module):
    """Rotates one tensor by a model's own cos and sin: forward(x, cos, sin, unsqueeze_dim=1) -> x; else as apply_rotary_transformers.

    >>> x = torch.randn(1, 4, 5, 8)
    >>> torch.equal(apply_rotary_transformers_one()(x, torch.ones(5, 8), torch.zeros(5, 8), 0), x)
    True
    """

    can_torch_compile = True
    has_backward = True

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return _rotated(self, x, cos, sin, unsqueeze_dim)


LAYERS: tuple[type[nn.Module], ...] = (apply_rotary_transformers, apply_rotary_transformers_one)


def _rotated(layer: nn.Module, *arguments: Any) -> Any:
    """The result of a layer: that of the function behind it, on our kernels; without a function, the rotation that the tables imply.

    kernelize makes a subclass of the layer whose forward is the model's function: an instance of LAYERS has none.
    """
    if isinstance(layer, LAYERS):
        *xs, cos, sin, axis = arguments
        ys = _by_tables(xs, cos, sin, axis)
        return tuple(ys) if len(ys) > 1 else ys[0]
    if torch.compiler.is_compiling():
        return type(layer).forward(layer, *arguments)
    if layer not in _replacements:
        _replacements[layer] = _replacement(layer)
    replacement = _replacements[layer]
    return type(layer).forward(layer, *arguments) if replacement is None else replacement(*arguments)


def _replacement(layer: nn.Module) -> Replacement | None:
    """The function behind a layer, to be computed by this library's kernels, or None where it is no known rotation."""
    layer_class, reference = (
        type(layer),
        weakref.ref(layer),
    )  # a strong reference would keep the layer in _replacements for ever

    def original(*args: Any, **kwargs: Any) -> Any:
        return layer_class.forward(reference(), *args, **kwargs)

    original.__signature__ = inspect.signature(layer_class.forward.__get__(layer))
    spec = probe(original)
    if isinstance(spec, str):
        name = getattr(layer, "__name__", None) or getattr(layer_class, "kernel_layer_name", layer_class.__name__)
        warnings.warn(f"{name} is no known rotation ({spec}): it runs unchanged", stacklevel=4)
        return None
    return Replacement(original, spec, lambda: True)


def _by_tables(xs: list[Any], cos: Any, sin: Any, axis: Any) -> list[Tensor | None]:
    for name, value in (("q", xs[0]), ("cos", cos), ("sin", sin)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor, got {_checks.describe(value)}")
    if cos.shape != sin.shape or cos.ndim < 2 or not cos.shape[-1] or cos.shape[-1] % 2:
        raise ValueError(
            f"cos and sin must both have shape (batch, seq, dim) or (seq, dim), dim even, got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    for x in xs[1:]:
        if x is not None and (not isinstance(x, Tensor) or not x.is_floating_point()):
            raise TypeError(f"k must be a floating tensor or None, got {_checks.describe(x)}")
    axis = None if axis is None else _checks.index("unsqueeze_dim", axis)
    spec, halves = _halved(cos, sin)
    return [None if x is None else _one(x, spec, halves, axis) for x in xs]


def _halved(cos: Tensor, sin: Tensor) -> tuple[RotationSpec, CosSin]:
    if torch.compiler.is_compiling():
        raise ValueError(
            "under torch.compile the values of cos and sin cannot be compared, which would show the pairing: call "
            "rotary.apply_rotary_qk with tables of half width (rotary.tables) and interleaved="
        )
    for spec in (_HALF, _INTERLEAVED):
        halves = equal_halves((cos, sin), spec)
        if halves is not None:
            return spec, halves
    raise ValueError(
        f"neither the halves nor the neighbours of cos {tuple(cos.shape)} and sin are equal, so they show no pairing: double each "
        f"column, or give tables of half width to rotary.apply_rotary_qk"
    )


def _one(x: Tensor, spec: RotationSpec, halves: CosSin, axis: Any) -> Tensor:
    if axis is not None and not -halves[0].ndim <= axis + (axis < 0) <= halves[0].ndim:
        raise ValueError(
            f"unsqueeze_dim {_checks.describe(axis)} is no place for an axis in tables of {halves[0].ndim} dimensions"
        )
    cos, sin = (rows_of(table, x, axis) for table in halves)
    if cos is None or sin is None or 2 * halves[0].shape[-1] > x.shape[-1]:
        raise ValueError(
            f"tables of {tuple(halves[0].shape[:-1])} rows and {2 * halves[0].shape[-1]} channels do not go with "
            f"{_checks.describe(x)} at unsqueeze_dim {axis}"
        )
    return apply_rotary(x, cos[1], sin[1], seq_dim=cos[0], interleaved=spec.interleaved)
