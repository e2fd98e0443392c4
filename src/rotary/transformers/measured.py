"""The rotary modules of a model, and the frequencies that their cos and sin show, measured by calling them."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..embedding import RotaryEmbedding
from .likeness import half_precision_of
from .surroundings import defaults, unchanged

POSITIONS = (0, 1, 2, 5)
"""[token] The positions at which cos and sin are measured: near 0, since far from it the float32 angles of any model are wrong."""

_FREQUENCIES = re.compile(r"(?:(\w+)_)?inv_freq")
_COPIES = re.compile(r"(\w+_)?(original|long|short)")
"""Prefixes of the copies of frequencies that transformers' modules have besides those in use."""


class Rotary(NamedTuple):
    """One set of frequencies of a module.

    path: of the module in its model. layer_type: of the layers that they are for, None for all. inv_freq, factor: the module's own, None
    without any. static: whether it has a table of all positions instead, which may also be one that a model adds to its embeddings.
    """

    path: str
    module: nn.Module
    layer_type: str | None
    inv_freq: Tensor | None
    factor: float | None
    static: bool = False


class Measured(NamedTuple):
    """What cos and sin show.

    inv_freq: (planes,) [rad/token], on the CPU in float64. factor: that by which cos and sin are multiplied. rounded_to: the half precision
    in which all their values are exact, if there is one.
    """

    inv_freq: Tensor
    factor: float
    rounded_to: torch.dtype | None = None


def holders(model: nn.Module) -> Iterator[Rotary]:
    """The sets of frequencies in attributes of the name inv_freq, or X_inv_freq for layers of type X."""
    for path, module in model.named_modules():
        attributes = {
            **vars(module),
            **dict(module.named_parameters(recurse=False)),
            **dict(module.named_buffers(recurse=False)),
        }
        for name, tensor in attributes.items():
            match = _FREQUENCIES.fullmatch(name)
            if match is None or not isinstance(tensor, Tensor) or (match[1] and _COPIES.fullmatch(match[1])):
                continue
            factor = getattr(module, f"{match[1]}_attention_scaling", getattr(module, "attention_scaling", None))
            yield Rotary(path, module, match[1], tensor, float(factor) if isinstance(factor, (int, float)) else None)


def makers(model: nn.Module) -> Iterator[tuple[Rotary, Measured]]:
    """Other modules whose cos and sin can be measured, and what these show: from a table of all positions among their attributes, or by
    calling forward(x, positions). Only modules without children and parameters are called, since others compute more than tables."""
    holding = {id(rotary.module) for rotary in holders(model)}
    for path, module in model.named_modules():
        if id(module) in holding or type(module).__module__.startswith("torch."):
            continue
        table = _of_static_tables(module)
        if table is not None:
            yield Rotary(path, module, None, None, None, static=True), table
            continue
        rotary = Rotary(path, module, None, None, None)
        alone = next(module.children(), None) is None and next(module.parameters(recurse=False), None) is None
        measured = measure(rotary) if alone and len(_required(module)) == 2 else None
        if isinstance(measured, Measured):
            yield rotary, measured


def measure(rotary: Rotary) -> Measured | str:
    """What a module's cos and sin show at POSITIONS, or the reason why nothing. What the calls change in the module is restored."""
    reason = "its forward makes no cos and sin of position * frequency"
    for call in _calls(rotary):
        with unchanged(rotary.module), torch.no_grad(), defaults(_device(rotary)):
            try:
                tables = _tables(call())
            except Exception as error:  # the model's code may raise anything, or take other arguments
                reason = f"calling its forward for them raised {type(error).__name__}"
                continue
        measured = None if tables is None else _measured(*tables)
        if measured is not None:
            return measured
        reason = "its forward makes no cos and sin of position * frequency"
    return reason


def _required(module: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _of_static_tables(module: nn.Module) -> Measured | None:
    """What a table of all positions among a module's constants shows: sin and cos side by side, one of each, or a complex one."""
    constants = [*vars(module).values(), *module.buffers(recurse=False)]
    constants += [p for p in module.parameters(recurse=False) if not p.requires_grad]
    tables = [_first_rows(t) for t in constants if isinstance(t, Tensor) and not t.is_meta]
    halves = [t for rows in tables for t in rows]
    return next((m for cos, sin in itertools.permutations(halves, 2) if (m := _measured(cos, sin)) is not None), None)


def _first_rows(table: Tensor) -> tuple[Tensor, ...]:
    """What may be cos or sin in a constant, (positions, width) each in float64: the whole, and its halves."""
    table = table.detach().squeeze()
    if (
        not 2 <= table.ndim <= 3
        or len(table) <= max(POSITIONS)
        or not (table.is_floating_point() or table.is_complex())
    ):
        return ()
    rows = table[list(POSITIONS)].cpu()
    if rows.is_complex():
        return (rows.real.double(), rows.imag.double()) if rows.ndim == 2 else ()
    rows = rows.double()
    if rows.ndim == 3:
        return rows.unbind(-1) if rows.shape[-1] == 2 else ()
    return (rows, *rows.chunk(2, -1)) if rows.shape[-1] % 2 == 0 else (rows,)


def _calls(rotary: Rotary) -> Iterator[Callable[[], Any]]:
    """The ways to call a module for its tables at POSITIONS."""
    device = _device(rotary)
    width = 64 if rotary.inv_freq is None else 2 * rotary.inv_freq.shape[-1]
    forward: Any = rotary.module.forward
    names, required = list(inspect.signature(forward).parameters), len(_required(rotary.module))
    x = torch.zeros(1, max(POSITIONS) + 1, width, device=device)
    rows = list(POSITIONS)
    module = rotary.module
    if isinstance(module, RotaryEmbedding):
        yield lambda: module.cos_sin(torch.tensor(POSITIONS))
    elif names[1:2] == ["seq_len"]:  # transformers before 4.38: tables of all positions
        yield lambda: tuple(table.squeeze()[rows] for table in forward(x, len(x[0])))
    elif required == 1 and "position_ids" not in names:  # as in wav2vec2: tables of all positions, stacked
        yield lambda: tuple(table.squeeze()[rows] for table in forward(x))
    else:
        layers = {"layer_type": rotary.layer_type} if rotary.layer_type is not None and "layer_type" in names else {}
        positions = torch.tensor([POSITIONS], device=device)
        x = x[:, : len(rows)]
        yield lambda: forward(x, positions, **layers)
        yield lambda: forward(x, positions.expand(3, 1, -1), **layers)  # M-RoPE, with equal coordinates


def _device(rotary: Rotary) -> torch.device:
    """The device of the module's frequencies, or else of its buffers."""
    tensors = [t for t in (rotary.inv_freq, *rotary.module.buffers(recurse=False)) if t is not None]
    return tensors[0].device if tensors else torch.device("cpu")


def _tables(result: Any) -> tuple[Tensor, Tensor] | None:
    """(cos, sin), (positions, width) each in float64 on the CPU, of two tables or a complex one."""
    if isinstance(result, Tensor) and result.is_complex():
        result = result.real, result.imag
    if not isinstance(result, tuple) or len(result) != 2:
        return None
    tables: list[Tensor] = []
    for table in cast("tuple[Any, Any]", result):
        if not isinstance(table, Tensor) or not table.is_floating_point() or not table.numel():
            return None
        if table.numel() != len(POSITIONS) * table.shape[-1]:
            return None
        tables.append(table.detach().double().cpu().reshape(len(POSITIONS), -1))
    return (tables[0], tables[1]) if tables[0].shape == tables[1].shape else None


def _measured(cos: Tensor, sin: Tensor) -> Measured | None:
    """Frequencies and factor of tables (positions, width) that are factor * cos and sin of position * frequency; None if they are not."""
    for cos_of_planes, sin_of_planes in _planes(cos, sin):
        measured = _frequencies(cos_of_planes, sin_of_planes)
        if measured is not None:
            return measured
    return None


def _planes(cos: Tensor, sin: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(cos, sin) with one column per plane: halves or every second column of tables that have each column twice, and all columns."""
    half = cos.shape[-1] // 2
    if cos.shape[-1] % 2 == 0 and cos.shape == sin.shape:
        if torch.equal(cos[:, :half], cos[:, half:]) and torch.equal(sin[:, :half], sin[:, half:]):
            yield cos[:, :half], sin[:, :half]
        if torch.equal(cos[:, ::2], cos[:, 1::2]) and torch.equal(sin[:, ::2], sin[:, 1::2]):
            yield cos[:, ::2], sin[:, ::2]
    yield cos, sin


def _frequencies(cos: Tensor, sin: Tensor) -> Measured | None:
    """The frequencies of tables with one column per plane, from position 1; None if other positions disagree with them."""
    if cos.shape != sin.shape or bool(sin[0].any()):
        return None
    factor = float(cos[0].mean())
    angles = torch.atan2(sin[1], cos[1])
    positions = torch.tensor(POSITIONS, dtype=torch.float64)[:, None]
    wrong = (cos - factor * (positions * angles).cos()).abs() + (sin - factor * (positions * angles).sin()).abs()
    dtype = half_precision_of(torch.cat((cos, sin)).abs())
    tolerance = (
        1e-4 if dtype is None else 2.0**-5
    )  # the largest position, 5, times the error of an angle from bfloat16, 2^-8
    rotates = factor > 0 and bool(angles.any()) and float(wrong.max()) <= tolerance * factor
    return Measured(angles, factor, dtype) if rotates else None
