"""A model family patched, compared with the same family unpatched: outputs, gradients, greedy tokens, and errors in bfloat16."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from rotary.transformers import Handle, RotationSpec, patch

from .families import build, candidates, families, gradient, inputs, run

LIMIT, NEW, SEEDS = 1e-5, 32, 8


@dataclass(frozen=True)
class Outcome:
    """The comparison for one family.

    logits, gradient: relative errors in float32. greedy: how many new tokens agree, None if the model does not generate.
    rotated, rounded: errors in bfloat16, patched over unpatched: the rms error of rotated q and k, and of the output (mean over
        seeds). None if the model does not run in bfloat16. reason: why the family does not count.
    """

    family: str
    model: str = ""
    specs: tuple[RotationSpec, ...] = ()
    calls: int = 0
    logits: float = 0.0
    gradient: float = 0.0
    greedy: int | None = None
    rotated: float | None = None
    rounded: float | None = None
    reason: str = ""

    @property
    def passes(self) -> bool:
        return (
            not self.reason
            and self.logits <= LIMIT
            and self.gradient <= LIMIT
            and self.greedy in (None, NEW)
            and (self.rotated is None or self.rotated <= 1.0)
            and (self.rounded is None or self.rounded <= 1.05)
        )


def distance(a: Tensor, b: Tensor) -> float:
    """Of b from a, relative to a."""
    return float((a.double() - b.double()).norm() / a.double().norm().clamp(min=1e-30))


def compare(model: nn.Module, arguments: dict[str, Any]) -> tuple[Handle, float, float, float]:
    """(handle, error of the output, error of the gradient, change of the output by negated angles), patched against unpatched."""
    expected = run(model, arguments)
    expected_gradient = gradient(model, expected)
    with patch(model) as handle:
        output = run(model, arguments)
        output_gradient = gradient(model, output)
        for replacement in handle.replacements:
            replacement.spec = replace(replacement.spec, conjugate=not replacement.spec.conjugate)
        negated = run(model, arguments)
    errors = distance(expected, output), distance(expected_gradient, output_gradient)
    return handle, *errors, distance(expected, negated)


def greedy(model: nn.Module, arguments: dict[str, Any]) -> int | None:
    """How many of NEW greedy tokens agree, with the cache. Two tokens with nearly equal logits count as equal."""
    if "input_ids" not in arguments or not getattr(model, "can_generate", bool)():
        return None
    how: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    how |= {"output_logits": True, "return_dict_in_generate": True, "eos_token_id": None}
    prompt = arguments["input_ids"]
    try:
        expected = model.generate(prompt, **how)
    except Exception:  # the unpatched model does not generate
        return None
    with patch(model):
        actual = model.generate(prompt, **how)
    length = actual.sequences.shape[1]
    start = prompt.shape[1] if length > NEW + 1 else length - NEW  # some models return the new tokens alone
    for step in range(NEW):
        tokens = [result.sequences[:, start + step] for result in (expected, actual)]
        if not torch.equal(*tokens):
            top = expected.logits[step].topk(2).values
            equal = (top[:, 0] - top[:, 1]) < LIMIT
            return NEW if bool(equal[tokens[0] != tokens[1]].all()) else step
    return NEW


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in that dtype, except for inv_freq, which stays float32 when a model is loaded in bfloat16."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype)
    for name, buffer in copied.named_buffers():
        if buffer.is_floating_point() and "inv_freq" not in name:
            buffer.data = buffer.data.to(dtype)
    return copied


def rounding(kind: type, which: int) -> tuple[float | None, float | None]:
    """(rotated, rounded) of Outcome. which: the index of the inputs that the model takes."""
    kernels = function = patched = unpatched = 0.0
    for seed in range(SEEDS):
        try:
            low = cast(build(kind, seed, every_expert=True), torch.bfloat16)
            arguments = list(inputs(low, 1 + seed))[which]
            short = {key: _as(value, torch.bfloat16) for key, value in arguments.items()}
            expected = run(low, short).double()
            truth = exactly(low, short)
        except Exception:  # the model's code fixes a dtype, or torch cannot copy its weights
            return None, None
        unpatched += float((expected - truth).norm())
        with patch(low) as handle:
            records = recorded(handle)
            patched += float((run(low, short).double() - truth).norm())
        for record in records if seed == 0 else ():
            errors = _squared_errors(*record)
            kernels, function = kernels + errors[0], function + errors[1]
    rotated = (kernels / function) ** 0.5 if function else 1.0 if not kernels else None
    return rotated, patched / unpatched if unpatched else None


def _squared_errors(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> tuple[float, float]:
    """Of the kernels' result and of the function's own, against the function in float64."""
    of_kernels = of_function = 0.0
    with torch.no_grad():
        exact = _tensors(function(*(_as(value, torch.float64) for value in args), **kwargs))
        own = _tensors(function(*args, **kwargs))
    for y, a, b in zip(exact, _tensors(result), own, strict=True):
        of_kernels += float((a.double() - y.double()).pow(2).sum())
        of_function += float((b.double() - y.double()).pow(2).sum())
    return of_kernels, of_function


def exactly(low: nn.Module, arguments: dict[str, Any]) -> Tensor:
    """The output of the same weights and inputs in float64, or in float32 if the model does not run in float64."""
    for dtype in (torch.float64, torch.float32):
        try:
            return run(cast(low, dtype), {key: _as(value, dtype) for key, value in arguments.items()}).double()
        except RuntimeError as error:
            failure = error
    raise failure


Record = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
"""(function, args, kwargs, result of the kernels)"""


def recorded(handle: Handle) -> list[Record]:
    """A list that is filled while the model runs."""
    records: list[Record] = []
    for replacement in handle.replacements:
        replacement.try_rotate = _recorder(replacement.function, replacement.try_rotate, records)  # type: ignore[method-assign]
    return records


def _recorder(function: Any, try_rotate: Any, records: list[Record]) -> Any:
    def record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        y = try_rotate(args, kwargs)
        if y is not None:
            records.append((function, args, kwargs, y))
        return y

    return record


def _as(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_complex():
        return value.to(torch.complex128) if dtype == torch.float64 else value
    return value.to(dtype) if value.is_floating_point() else value


def _tensors(y: Any) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y)


def outcome(family: str, *, thorough: bool = True) -> Outcome:
    """The first model of a family that can be built and run, rotates through our kernels, and is changed by negated angles.

    thorough: also generate, and run in bfloat16.
    """
    reasons: list[str] = []
    for kind in candidates(family):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = build(kind)
        except Exception as error:  # the model's code may raise anything
            reasons.append(f"{kind.__name__} is not built from its default config made small: {_brief(error)}")
            continue
        for which, arguments in enumerate(inputs(model)):
            result = _outcome(family, model, arguments)
            if isinstance(result, str):
                reasons.append(f"{kind.__name__}({', '.join(arguments)}): {result}")
                continue
            if thorough:
                rotated, rounded = rounding(kind, which)
                result = replace(result, greedy=greedy(model, arguments), rotated=rotated, rounded=rounded)
            return result
    return Outcome(family, reason=_most_telling(reasons))


def _outcome(family: str, model: nn.Module, arguments: dict[str, Any]) -> Outcome | str:
    """The comparison in float32, or the reason why it does not count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            handle, logits, gradient_error, negated = compare(model, arguments)
        except Exception as error:  # these are not its arguments
            return _brief(error)
    if not handle.calls:
        return "its rotation was never called through a kernel"
    if not negated >= 1e-4:
        return f"so small it hardly rotates, negated angles change {negated:.1g}"
    specs = dict.fromkeys(spec for *_, spec in handle.report().replaced if isinstance(spec, RotationSpec))
    return Outcome(family, type(model).__name__, tuple(specs), handle.calls, logits, gradient_error)


def _most_telling(reasons: list[str]) -> str:
    for words in ("never called", "hardly rotates", "nothing in", ""):
        for reason in reasons:
            if words in reason:
                return reason
    return "no model class with a config of its own"


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:150] if lines else ''}"


def walk(progress: Callable[[str], None] = lambda line: None) -> list[Outcome]:
    """The outcomes of all families. progress: called with a line after each."""
    transformers.logging.set_verbosity_error()
    outcomes: list[Outcome] = []
    for family in families():
        result = outcome(family)
        outcomes.append(result)
        progress(f"{family:32} {'ok' if result.passes else 'NO'} {result.model or result.reason}")
    return outcomes
