"""check(model): whether a loaded model rotates as its config says.

Frequencies that were never initialised or that a cast rounded, a base that a wrapper overrides, a config that was edited after loading:
none of them raises an error, and the loss is near random. Each rotary module is compared with what rotary.config reads in the config: the
frequencies in its inv_freq, and those that its cos and sin show.
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
from .hypotheses import Comparison
from .likeness import compare, unwritten
from .measured import Measured, Rotary, holders, makers, measure
from .spectra import AGREE, close, spectrum_of
from .surroundings import defaults


def check(model: nn.Module, config: Any = None) -> Findings:
    """Findings: the rotation of each rotary module in a model, compared with its config.

    model: any module; its rotary modules are those with an inv_freq, and those whose forward(x, position_ids) returns cos and sin. They
        are called with four positions in float32, and what the call changes in them is restored.
    config: what rotary.config.read accepts, for the whole model; by default each module is compared with the config in the model that
        describes it.

    A module agrees if frequencies, attention factor, width, and cos and sin at positions 0, 1, 2 and 5 are those of the config within
    float32 arithmetic (a relative 2^-16); for schemes that depend on the length, at some length. Tables do not show the pairing: `patch`
    reports it. TypeError for what is no module; ValueError or TypeError for a given config that cannot be read.

    >>> import torch
    >>> class Rotary(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inv_freq = 10000.0 ** (-torch.arange(32) / 32)
    >>> print(check(Rotary(), {"model_type": "llama", "head_dim": 64, "rope_theta": 500000.0}))
    PROBLEM    Rotary: base: base 10,000; the config has 500,000
    """
    configs = Configs(module("model", model), config)
    with defaults("cpu"):
        findings = [_finding(rotary, configs, _measured(rotary)) for rotary in holders(model)]
        for rotary, measured in makers(model):
            finding = _finding(rotary, configs, measured)
            # A static table that no config describes may be one of sinusoids that the model adds to its embeddings.
            if not rotary.static or finding.kind not in ("unchecked", "not in the config"):
                findings.append(finding)
    if not findings:
        text = "no rotary module was found; if the model rotates, its tables are made elsewhere"
        findings = [Finding("", type(model).__name__, None, "unchecked", text)]
    return Findings(type(model).__name__, tuple(findings))


def check_frequencies(model: nn.Module) -> dict[int, Finding]:
    """id of a module -> what is wrong with its inv_freq, for modules whose inv_freq disagrees with their config. It calls no module, and so
    is cheap."""
    configs = Configs(model, None)
    with defaults("cpu"):
        findings = [(id(rotary.module), _finding(rotary, configs, None)) for rotary in holders(model)]
    return {module: f for module, f in findings if f.kind not in ("agrees", "unchecked", "contradiction")}


def _measured(rotary: Rotary) -> Measured | str:
    """What a module's cos and sin show, or why they cannot be compared."""
    if rotary.inv_freq is None or rotary.inv_freq.is_meta or rotary.inv_freq.ndim != 1:
        return "its frequencies are not one number per plane"
    return measure(rotary)


def _finding(rotary: Rotary, configs: Configs, measured: Measured | str | None) -> Finding:
    comparison = _comparison(rotary, configs, measured)
    return Finding(rotary.path, type(rotary.module).__name__, rotary.layer_type, comparison.kind, comparison.text)


def _comparison(rotary: Rotary, configs: Configs, measured: Measured | str | None) -> Comparison:
    """A rotary module compared with its config. measured: what its cos and sin show, the reason why nothing, or None."""
    inv_freq = rotary.inv_freq
    if inv_freq is not None and inv_freq.is_meta:
        return Comparison("unchecked", "its frequencies are on the meta device")
    if inv_freq is not None and not inv_freq.is_floating_point():
        return Comparison("unchecked", f"its inv_freq is of {inv_freq.dtype}")
    numbers = None if inv_freq is None else _whole(inv_freq).detach().double().cpu()
    blank = None if numbers is None else unwritten(numbers)
    if blank is not None:
        return Comparison("uninitialised", blank)
    if numbers is not None and numbers.ndim != 1:
        return Comparison("unchecked", f"its inv_freq has the shape {tuple(numbers.shape)}, not one number per plane")
    comparison = _with_config(rotary, numbers, configs, measured)
    dtype = None if inv_freq is None else inv_freq.dtype
    if comparison.kind in ("agrees", "unchecked") and dtype in (torch.bfloat16, torch.float16):
        return Comparison("rounded", f"its inv_freq is of {dtype}, which moves angles by up to 0.2 %")
    return comparison


def _whole(tensor: Any) -> Tensor:
    """A distributed tensor as a plain one."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _with_config(
    rotary: Rotary, numbers: Tensor | None, configs: Configs, measured: Measured | str | None
) -> Comparison:
    """A module compared with the readings of its config: with the first that it agrees with, or else with the first."""
    readings = configs.readings(rotary)
    if isinstance(readings, str):
        if isinstance(measured, Measured) and "no rotary key" in readings:
            return Comparison(
                "not in the config", f"it makes cos and sin of {len(measured.inv_freq)} planes; {readings}"
            )
        return Comparison("contradiction" if "conflicting" in readings else "unchecked", readings)
    try:
        comparisons = [_with_reading(rotary, numbers, measured, reading) for reading in readings]
    except (ArithmeticError, TypeError, ValueError) as error:  # a scheme that cannot be made for so many planes
        return Comparison("unchecked", f"its config makes no frequencies: {error}")
    return next((comparison for comparison in comparisons if comparison.kind == "agrees"), comparisons[0])


def _with_reading(
    rotary: Rotary, numbers: Tensor | None, measured: Measured | str | None, reading: Reading
) -> Comparison:
    """The frequencies in a module's inv_freq (numbers), and those of its cos and sin (measured), compared with one reading."""
    arguments, factor = reading.arguments, rotary.factor

    def compared(inv_freq: Tensor) -> Comparison:
        return compare(inv_freq.sort(descending=True).values if reading.any_order else inv_freq, arguments)

    comparison = None if numbers is None else compared(numbers)
    if comparison is not None and comparison.kind != "agrees":
        return comparison
    if isinstance(measured, Measured):
        dtype = measured.rounded_to
        if dtype is not None and close(measured.inv_freq, spectrum_of(arguments)[0], 2.0**-7):
            return Comparison("rounded", f"its cos and sin were rounded to {str(dtype).removeprefix('torch.')}")
        of_tables = compared(measured.inv_freq)
        if of_tables.kind != "agrees":
            if comparison is None:
                return of_tables
            return Comparison("tables", f"its cos and sin are not those of its inv_freq: {of_tables.text}")
        comparison, factor = comparison or of_tables, measured.factor
        wrong = _other_factor(factor, arguments, of_tables.length)
    else:
        assert comparison is not None
        # PhiMoE does not use its attention_scaling where its config has a factor for each list of LongRoPE.
        factor_is_used = all(scheme.window is None for scheme in arguments.scaling)
        wrong = _other_factor(factor, arguments, comparison.length) if factor_is_used else None
    of_layers = "" if reading.layer_type in (None, rotary.layer_type) else f", as layers of type {reading.layer_type}"
    note = f"; its cos and sin were not compared: {measured}" if isinstance(measured, str) else ""
    note += "".join(f"; warning: {line}" for line in arguments.notes if line.startswith(CANCELLED))
    return wrong or Comparison("agrees", comparison.text + of_layers + note)


def _other_factor(factor: float | None, arguments: Arguments, length: int | None) -> Comparison | None:
    """The problem of an attention factor that is not the config's; None if it is, or if the module has none."""
    expected = spectrum_of(arguments, length)[1]
    if factor is None or abs(factor - expected) <= AGREE * expected:
        return None
    return Comparison("attention factor", f"cos and sin are multiplied by {factor:.6g}; the config has {expected:.6g}")
