"""check(model): is the rotation inside a model that somebody else loaded what its config says?

Uninitialised or cast frequencies, a base that a wrapper wrote down, a config that was edited after loading: nothing raises, and the loss
is near random. Each rotary module is compared with what rotary.config reads in the config: its frequencies as it holds them, and those
that its cos and sin show.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import module
from ..config import Arguments
from ..config.extras import CANCELLED
from .configs import Configs, Reading
from .findings import Finding, Findings
from .hypotheses import Look
from .likeness import compare, unwritten
from .measured import Measured, Rotary, holders, makers, measure
from .spectra import AGREE, close, frequencies


def check(model: nn.Module, config: Any = None) -> Findings:
    """Compare the rotation of each rotary module in a model with its config.

    model: any module; its rotary modules are those that hold an inv_freq, and those whose forward(x, position_ids) turns out to make
        cos and sin. They are called with four positions in float32, and are as before afterwards.
    config: what rotary.config.read accepts, for the whole model; by default each module is compared with the config that the model
        holds for it.

    A module agrees if frequencies, attention factor, width, and cos and sin at positions 0, 1, 2 and 5 are those of the config within
    float32 arithmetic (a relative 2^-16); for schemes that depend on the length, at some length. Pairing is not seen here: `patch`
    reports it. ValueError or TypeError if a config that is given cannot be read.

    >>> import torch
    >>> class Rotary(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inv_freq = 10000.0 ** (-torch.arange(32) / 32)
    >>> print(check(Rotary(), {"model_type": "llama", "head_dim": 64, "rope_theta": 500000.0}))
    PROBLEM    Rotary: base: base 10,000; the config has 500,000
    """
    configs = Configs(module("model", model), config)
    found = [_judged(rotary, configs, _measured(rotary)) for rotary in holders(model)]
    for rotary, measured in makers(model):
        finding = _judged(rotary, configs, measured)
        if not rotary.static or finding.kind not in (
            "unchecked",
            "not in the config",
        ):  # else it may be added, not turned by
            found.append(finding)
    if not found:
        text = "no rotary module was found; if the model rotates, its tables are made elsewhere"
        found = [Finding("", type(model).__name__, None, "unchecked", text)]
    return Findings(type(model).__name__, tuple(found))


def check_frequencies(model: nn.Module) -> dict[int, Finding]:
    """The cheap part: the problems of the frequencies that modules hold, by the id of the module. Nothing is called."""
    configs = Configs(model, None)
    judged = [(id(rotary.module), _judged(rotary, configs, None)) for rotary in holders(model)]
    return {module: f for module, f in judged if f.kind not in ("agrees", "unchecked", "contradiction")}


def _measured(rotary: Rotary) -> Measured | str:
    if rotary.inv_freq is None or rotary.inv_freq.is_meta or rotary.inv_freq.ndim != 1:
        return "its frequencies are not one number per plane"
    return measure(rotary)


def _judged(rotary: Rotary, configs: Configs, measured: Measured | str | None) -> Finding:
    look = _look(rotary, configs, measured)
    return Finding(rotary.path, type(rotary.module).__name__, rotary.layer_type, look.kind, look.text)


def _look(rotary: Rotary, configs: Configs, measured: Measured | str | None) -> Look:
    held = rotary.inv_freq
    if held is not None and held.is_meta:
        return Look("unchecked", "its frequencies are on the meta device")
    if held is not None and not held.is_floating_point():
        return Look("unchecked", f"its inv_freq is of {held.dtype}")
    numbers = None if held is None else _whole(held).detach().double().cpu()
    blank = None if numbers is None else unwritten(numbers)
    if blank is not None:
        return Look("uninitialised", blank)
    if numbers is not None and numbers.ndim != 1:
        return Look("unchecked", f"its inv_freq has the shape {tuple(numbers.shape)}, not one number per plane")
    look = _beside_config(rotary, numbers, configs, measured)
    if look.kind in ("agrees", "unchecked") and held is not None and held.dtype in (torch.bfloat16, torch.float16):
        return Look("rounded", f"its inv_freq is of {held.dtype}, which moves angles by up to 0.2 %")
    return look


def _whole(held: Any) -> Tensor:
    """A distributed tensor as a plain one."""
    return held.full_tensor() if hasattr(held, "full_tensor") else held


def _beside_config(rotary: Rotary, numbers: Tensor | None, configs: Configs, measured: Measured | str | None) -> Look:
    readings = configs.readings(rotary)
    if isinstance(readings, str):
        if isinstance(measured, Measured) and "no rotary key" in readings:
            return Look("not in the config", f"it makes cos and sin of {len(measured.inv_freq)} planes; {readings}")
        return Look("contradiction" if "conflicting" in readings else "unchecked", readings)
    try:
        looks = [_beside(rotary, numbers, measured, reading) for reading in readings]
    except (ArithmeticError, TypeError, ValueError) as error:  # a scheme that cannot be made for so many planes
        return Look("unchecked", f"its config makes no frequencies: {error}")
    return next((look for look in looks if look.kind == "agrees"), looks[0])


def _beside(rotary: Rotary, numbers: Tensor | None, measured: Measured | str | None, reading: Reading) -> Look:
    """What the frequencies that a module holds, and those that it was measured to turn by, look like beside one reading."""
    arguments, factor = reading.arguments, rotary.factor

    def compared(inv_freq: Tensor) -> Look:
        return compare(inv_freq.sort(descending=True).values if reading.any_order else inv_freq, arguments)

    look = None if numbers is None else compared(numbers)
    if look is not None and look.kind != "agrees":
        return look
    if isinstance(measured, Measured):
        rounded = measured.grain is not None and close(measured.inv_freq, frequencies(arguments)[0], 2.0**-7)
        if rounded:
            return Look("rounded", f"its cos and sin have the grain of {str(measured.grain).removeprefix('torch.')}")
        shown = compared(measured.inv_freq)
        if shown.kind != "agrees":
            held = "" if look is None else "its cos and sin are not those of its inv_freq: "
            return Look(shown.kind if look is None else "tables", held + shown.text)
        look, factor = look or shown, measured.factor
        wrong = _other_factor(factor, arguments, shown.length)
    else:
        assert look is not None
        # PhiMoE does not use the factor that it holds where its config has one for each list of LongRoPE
        held_is_used = all(scheme.window is None for scheme in arguments.scaling)
        wrong = _other_factor(factor, arguments, look.length) if held_is_used else None
    of_layers = "" if reading.layer_type in (None, rotary.layer_type) else f", as layers of type {reading.layer_type}"
    note = f"; its cos and sin were not compared: {measured}" if isinstance(measured, str) else ""
    note += "".join(f"; warning: {said}" for said in arguments.notes if said.startswith(CANCELLED))
    return wrong or Look("agrees", look.text + of_layers + note)


def _other_factor(factor: float | None, arguments: Arguments, length: int | None) -> Look | None:
    asked = frequencies(arguments, length)[1]
    if factor is None or abs(factor - asked) <= AGREE * asked:
        return None
    return Look("attention factor", f"cos and sin are multiplied by {factor:.6g}; the config has {asked:.6g}")
