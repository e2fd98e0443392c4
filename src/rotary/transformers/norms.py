"""NormSpec: what a model's norm module computes, as a value, found by calling a copy of it.

    y = x / sqrt(mean(x^2) + eps) * (offset + weight)      over the last dimension, in float32, without weight where there is none

In half precision models round it twice, x / sqrt(...) before the weight (Llama's form), or once (Gemma's, with offset 1). A module that
computes anything else, such as LayerNorm, is not recognised.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .surroundings import restored

Rounding = Literal["once", "model"]
_CHANNELS = 16  # of the input that a norm without weight is called with
_CLOSE = 4e-6  # relative, in float32: a few roundings of a sum of a few hundred squares
_FEW = 0.02  # the share of values that may differ in bfloat16, by the order of a sum; the wrong rounding changes 0.1 and more


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """An RMSNorm over the last dimension.

    eps: added to the mean of squares. weight: the name of the parameter (head_dim,), or None. weight_offset: added to the weight.
    rounding: of half precisions, "model" before the weight and after it, "once" after it.
    """

    eps: float
    weight: str | None
    weight_offset: float = 0.0
    rounding: Rounding = "once"

    def computes_as(self, other: NormSpec) -> bool:
        """Whether both are one norm, whatever their weights."""
        return (self.eps, self.weight_offset, self.rounding) == (other.eps, other.weight_offset, other.rounding)

    def __str__(self) -> str:
        words = [f"RMSNorm, eps {self.eps:g}", "no weight" if self.weight is None else ""]
        words += ["1 + weight" if self.weight_offset else "", "rounded twice" if self.rounding == "model" else ""]
        return ", ".join(filter(None, words))


def recognise(module: nn.Module) -> NormSpec | str:
    """The spec of a module that is an RMSNorm over the last dimension, or the reason why it is none."""
    weights = [(name, p) for name, p in module.named_parameters() if p.numel()]
    if len(weights) > 1 or any(p.ndim != 1 for _, p in weights) or list(module.children()):
        return "it is no norm with one weight at most"
    name, channels = (weights[0][0], weights[0][1].shape[0]) if weights else (None, _CHANNELS)
    try:
        with restored(), torch.no_grad():
            return _recognise(module, name, channels)
    except Exception as error:  # the model's code may raise anything
        return f"calling it on a copy raised {type(error).__name__}"


def _recognise(module: nn.Module, name: str | None, channels: int) -> NormSpec | str:
    draw = torch.Generator().manual_seed(0)
    weight = None if name is None else 0.5 + torch.rand(channels, generator=draw)
    xs = [scale * torch.randn(5, channels, generator=draw) + scale / 3 for scale in (1.0, 1e-3, 30.0)]
    for offset in (0.0, 1.0) if name else (0.0,):
        for eps in sorted({*_small_numbers(module)}):
            spec = NormSpec(eps=eps, weight=name, weight_offset=offset)
            if all(_close(_called(module, name, weight, x), computed(spec, x, weight)) for x in xs):
                return _rounding(module, spec, weight, draw)
    return "it computes no RMSNorm over its last dimension with an eps among its attributes"


def _rounding(module: nn.Module, spec: NormSpec, weight: Tensor | None, draw: torch.Generator) -> NormSpec | str:
    channels = _CHANNELS if weight is None else weight.shape[0]
    x = torch.randn(1 + 4096 // channels, channels, generator=draw).bfloat16()
    weight = None if weight is None else weight.bfloat16()
    y = _called(module, spec.weight, weight, x)
    if y.dtype != x.dtype:
        return f"in bfloat16 it returns {y.dtype}"
    roundings: tuple[Rounding, ...] = ("once", "model") if spec.weight and not spec.weight_offset else ("once",)
    for rounding in roundings:
        rounded = NormSpec(eps=spec.eps, weight=spec.weight, weight_offset=spec.weight_offset, rounding=rounding)
        if float((computed(rounded, x, weight) != y).float().mean()) <= _FEW:
            return rounded
    return "in bfloat16 it rounds in a way that is not known"


def computed(spec: NormSpec, x: Tensor, weight: Tensor | None) -> Tensor:
    """The norm that a spec describes, in plain operations."""
    work = x.to(torch.promote_types(x.dtype, torch.float32))
    y = work * torch.rsqrt(work.square().mean(-1, keepdim=True) + spec.eps)
    if weight is None:
        return y.to(x.dtype)
    if spec.rounding == "model":
        return weight * y.to(x.dtype)
    return (y * (weight.to(work.dtype) + spec.weight_offset)).to(x.dtype)


def _small_numbers(module: nn.Module) -> Iterator[float]:
    """Numbers among the module's attributes that may be its eps."""
    for value in vars(module).values():
        if isinstance(value, float) and 0 < value < 0.1:
            yield value


def _called(module: nn.Module, name: str | None, weight: Tensor | None, x: Tensor) -> Any:
    """The result of the module's own forward on a copy with this weight, on the CPU, without hooks."""
    duplicate = copy.copy(module)
    parameters: dict[str, Any] = dict(module.named_parameters(recurse=False))
    if name is not None and weight is not None:
        parameters[name] = nn.Parameter(weight)
    buffers = {key: value.detach().cpu() for key, value in module.named_buffers(recurse=False)}
    duplicate.__dict__ = {**module.__dict__, "_parameters": parameters, "_buffers": buffers}
    return type(module).forward(duplicate, x)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= _CLOSE * b.abs().clamp(min=1e-30)).all())
