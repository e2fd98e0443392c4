"""A family patched against itself unpatched: outputs and gradients, greedy tokens, and what rounding to bfloat16 costs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from model_families import build, candidates, families, gradient, inputs, run
from rotary.transformers import Body, Handle, patch

LIMIT, NEW, SEEDS = 1e-5, 32, 8


@dataclass(frozen=True)
class Outcome:
    """What became of one family.

    logits, gradient: relative errors, in float32. greedy: new tokens that agree, None where it does not generate.
    rotated, rounded: in bfloat16, patched over unpatched, the rms error of rotated q and k, and of the output as a mean over seeds;
        None where the model does not run so. reason: why it does not count.
    """

    family: str
    model: str = ""
    bodies: tuple[Body, ...] = ()
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


def off(a: Tensor, b: Tensor) -> float:
    """Relative distance of b from a."""
    return float((a.double() - b.double()).norm() / a.double().norm().clamp(min=1e-30))


def compare(model: nn.Module, given: dict[str, Any]) -> tuple[Handle, float, float, float]:
    """(handle, error of outputs, of the gradient, what negated angles change), patched against unpatched."""
    expected = run(model, given)
    wanted = gradient(model, expected)
    with patch(model) as handle:
        output = run(model, given)
        found = gradient(model, output)
        for replacement in handle.replacements:
            replacement.body = replace(replacement.body, conjugate=not replacement.body.conjugate)
        negated = run(model, given)
    return handle, off(expected, output), off(wanted, found), off(expected, negated)


def greedy(model: nn.Module, given: dict[str, Any]) -> int | None:
    """How many of 32 greedy tokens are the same, a difference between two equally likely ones apart; with the cache."""
    if "input_ids" not in given or not getattr(model, "can_generate", bool)():
        return None
    how: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    how |= {"output_logits": True, "return_dict_in_generate": True, "eos_token_id": None}
    try:
        expected = model.generate(given["input_ids"], **how)
    except Exception:  # whatever keeps a tiny model from generating: it is not about the patch
        return None
    with patch(model):
        found = model.generate(given["input_ids"], **how)
    before = given["input_ids"].shape[1] if found.sequences.shape[1] > NEW + 1 else found.sequences.shape[1] - NEW
    for step in range(NEW):
        here = [answer.sequences[:, before + step] for answer in (expected, found)]
        if not torch.equal(*here):
            top = expected.logits[step].topk(2).values
            return NEW if bool(((top[:, 0] - top[:, 1]) < LIMIT)[here[0] != here[1]].all()) else step
    return NEW


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in that dtype, inv_freq apart: a model loaded in bfloat16 keeps its frequencies."""
    made = copy.deepcopy(model)
    for parameter in made.parameters():
        parameter.data = parameter.data.to(dtype)
    for name, buffer in made.named_buffers():
        if buffer.is_floating_point() and "inv_freq" not in name:
            buffer.data = buffer.data.to(dtype)
    return made


def rounding(kind: type, which: int) -> tuple[float | None, float | None]:
    """(rotated, rounded) of Outcome; which: the inputs that the model takes."""
    ours = theirs = mine = plain = 0.0
    for seed in range(SEEDS):
        try:
            low = cast(build(kind, seed, every_expert=True), torch.bfloat16)
            given = list(inputs(low, 1 + seed))[which]
            short = {key: _as(value, torch.bfloat16) for key, value in given.items()}
            expected = run(low, short).double()
            truth = exactly(low, short)
        except Exception:  # a dtype written into the model, or weights that torch does not copy
            return None, None
        plain += float((expected - truth).norm())
        with patch(low) as handle:
            seen = recorded(handle)
            mine += float((run(low, short).double() - truth).norm())
        for function, args, kwargs, answer in seen if seed == 0 else ():
            with torch.no_grad():
                judge = _tensors(function(*(_as(value, torch.float64) for value in args), **kwargs))
                theirs_too = _tensors(function(*args, **kwargs))
            for y, a, b in zip(judge, _tensors(answer), theirs_too, strict=True):
                ours += float((a.double() - y.double()).pow(2).sum())
                theirs += float((b.double() - y.double()).pow(2).sum())
    rotated = (ours / theirs) ** 0.5 if theirs else 1.0 if not ours else None
    return rotated, mine / plain if plain else None


def exactly(low: nn.Module, given: dict[str, Any]) -> Tensor:
    """The output of the same weights and inputs in float64, or in float32 where the model does not run in float64: exact enough here."""
    for dtype in (torch.float64, torch.float32):
        try:
            return run(cast(low, dtype), {key: _as(value, dtype) for key, value in given.items()}).double()
        except RuntimeError as error:
            failed = error
    raise failed


def recorded(handle: Handle) -> list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]:
    """(function, args, kwargs, what our kernels made of them), filled while the model runs."""
    seen: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
    for replacement in handle.replacements:
        replacement.rotated = _recorder(replacement.function, replacement.rotated, seen)  # type: ignore[method-assign]
    return seen


def _recorder(function: Any, rotated: Any, seen: list[Any]) -> Any:
    def record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        y = rotated(args, kwargs)
        if y is not None:
            seen.append((function, args, kwargs, y))
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
    """The first model of a family that builds, runs, rotates through our kernels, and is changed by negated angles.

    thorough: also generates, and runs in bfloat16.
    """
    reasons: list[str] = []
    for kind in candidates(family):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = build(kind)
        except Exception as error:
            reasons.append(f"{kind.__name__} is not built from its default config made small: {_brief(error)}")
            continue
        for which, given in enumerate(inputs(model)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    handle, logits, grads, negated = compare(model, given)
                except Exception as error:
                    reasons.append(f"{kind.__name__}({', '.join(given)}): {_brief(error)}")
                    continue
                if not handle.calls:
                    reasons.append(
                        f"{kind.__name__}({', '.join(given)}): its rotation was never called through a kernel"
                    )
                elif not negated >= 1e-4:
                    reasons.append(
                        f"{kind.__name__}({', '.join(given)}): so small it hardly rotates, negated angles change {negated:.1g}"
                    )
                else:
                    bodies = tuple(dict.fromkeys(b for *_, b in handle.report().replaced if isinstance(b, Body)))
                    found = Outcome(family, kind.__name__, bodies, handle.calls, logits, grads)
                    if thorough:
                        rotated, rounded = rounding(kind, which)
                        found = replace(found, greedy=greedy(model, given), rotated=rotated, rounded=rounded)
                    return found
    return Outcome(family, reason=_telling(reasons))


def _telling(reasons: list[str]) -> str:
    for words in ("never called", "hardly rotates", "nothing in", ""):
        for reason in reasons:
            if words in reason:
                return reason
    return "no model class with a config of its own"


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:150] if lines else ''}"


def walk(progress: Callable[[str], None] = lambda line: None) -> list[Outcome]:
    transformers.logging.set_verbosity_error()
    found = []
    for family in families():
        found.append(outcome(family))
        progress(f"{family:32} {'ok' if found[-1].passes else 'NO'} {found[-1].model or found[-1].reason}")
    return found
