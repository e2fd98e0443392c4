"""A model family with its norms fused into the rotation, compared with the same family unpatched."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rotary.transformers import Handle, patch
from rotary.transformers.deferred import Deferred

from .families import build, candidates, gradient, inputs, run
from .proof import LIMIT, NEW, cast, distance, greedy


@dataclass(frozen=True)
class Fused:
    """The comparison for one family.

    norms: what was fused, by class and attribute. left: norms that were not, with the reason. calls, fused: of one forward pass.
    logits, gradient: relative errors in float32. rotated: rms error of normalised and rotated q and k in bfloat16 against float64, over
    that of the model's own. reason: why the family does not count.
    """

    family: str
    model: str = ""
    norms: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    fused: int = 0
    logits: float = 0.0
    gradient: float = 0.0
    greedy: int | None = None
    rotated: float | None = None
    reason: str = ""

    @property
    def passes(self) -> bool:
        return (
            not self.reason
            and self.fused > 0
            and self.logits <= LIMIT
            and self.gradient <= LIMIT
            and self.greedy in (None, NEW)
            and (self.rotated is None or self.rotated <= 1.0)
        )


def outcome(family: str, *, thorough: bool = True) -> Fused:
    """The first model of a family in which norms were fused, else the first that runs. thorough: also generate, and run in bfloat16."""
    first: Fused | None = None
    reason = "no model of it is built and run"
    for kind in candidates(family):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = _weighted(build(kind))
        except Exception as error:  # the model's code may raise anything
            reason = f"{kind.__name__} is not built from its default config made small: {type(error).__name__}"
            continue
        for which, arguments in enumerate(inputs(model)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = _compared(family, model, arguments)
            except Exception as error:  # these are not its arguments
                reason = f"{kind.__name__}: {type(error).__name__}"
                continue
            if result.fused and thorough:
                result = replace(result, greedy=greedy(model, arguments), rotated=_rotated(kind, which))
            if result.fused:
                return result
            first = first or result
            break
    return first or Fused(family, reason=reason)


def _weighted(model: nn.Module) -> nn.Module:
    """Weights of norms that are not all alike: with ones and zeros two forms would be one."""
    draw = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" in name:
            parameter.data += 0.3 * torch.rand(parameter.shape, generator=draw).to(parameter)
    return model


def _compared(family: str, model: nn.Module, arguments: dict[str, Any]) -> Fused:
    expected = run(model, arguments)
    expected_gradient = gradient(model, expected)
    with patch(model, fuse="norms") as handle:
        output = run(model, arguments)
        output_gradient = gradient(model, output)
    report = handle.report()
    return Fused(
        family,
        type(model).__name__,
        tuple(f"{owner}.{name}: {spec}" for (owner, name, how, spec) in report.replaced if how == "with the rotation"),
        {f"{owner}.{name}": reason for (owner, name), reason in report.left.items() if "norm" in name},
        handle.calls,
        handle.fused,
        distance(expected, output),
        distance(expected_gradient, output_gradient),
    )


def _rotated(kind: type, which: int) -> float | None:
    """Of the kernel and of the model's own code in bfloat16, the rms error against norm and rotation in float64, one over the other."""
    try:
        low = cast(_weighted(build(kind, 0, every_expert=True)), torch.bfloat16)
        arguments = list(inputs(low, 1))[which]
        short = {
            k: v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            handle = patch(low, fuse="norms")
        with handle:
            sums = _recorded(handle)
            run(low, short)
    except Exception:  # the model's code fixes a dtype
        return None
    return (sums[0] / sums[1]) ** 0.5 if sums[1] else None


def _recorded(handle: Handle) -> list[float]:
    """Squared errors of the kernel's results and of the model's own code, summed while the model runs."""
    sums = [0.0, 0.0]
    for replacement in handle.replacements:
        inner = replacement.try_rotate

        def record(args: tuple[Any, ...], kwargs: dict[str, Any], inner: Any = inner, of: Any = replacement) -> Any:
            before = of.fused
            ys = inner(args, kwargs)
            if of.fused > before:
                with torch.no_grad():
                    own = of.function(*(a.result() if type(a) is Deferred else a for a in args), **kwargs)
                    exact = of.function(*map(_exact, args), **kwargs)
                for y, mine, truth in zip(_tensors(ys), _tensors(own), _tensors(exact), strict=True):
                    sums[0] += float((y.double() - truth).pow(2).sum())
                    sums[1] += float((mine.double() - truth).pow(2).sum())
            return ys

        replacement.try_rotate = record  # type: ignore[method-assign]
    return sums


def _exact(value: Any) -> Any:
    """An argument in float64; a norm that waits, computed there by its definition."""
    if type(value) is not Deferred:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
    spec, weight, x = value.origin.spec, value.origin.weight, value.raw.double()
    y = x / (x.square().mean(-1, keepdim=True) + spec.eps).sqrt()
    return y if weight is None else y * (weight.double() + spec.weight_offset)


def _tensors(y: Any) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y)
