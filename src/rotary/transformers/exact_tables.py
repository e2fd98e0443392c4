"""Exact cos and sin in place of a model's own, from the inv_freq of its rotary modules.

A module qualifies if its forward(x, position_ids) gives, near position 0, cos and sin of position * inv_freq repeated in both halves, or
if its planes read several coordinates in an order that can be found (coordinates.py). The comparison is made near position 0, because far
from it the model's float32 angles are wrong. frequency_tables.py makes the tables.
"""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._angles.turns import turns_of_powers_of_two
from .._torch import jit_tracing, tracing
from ..embedding import RotaryEmbedding
from .coordinates import plane_orders
from .findings import Finding
from .frequency_tables import FrequencyTables, Reading
from .handle import Handle
from .rebind import mark_as_patched
from .surroundings import defaults


def replace_tables(model: nn.Module, handle: Handle, replaced: Counter[Any], wrong: Mapping[int, Finding]) -> None:
    """Bind a forward with exact tables to each rotary module that qualifies; the report gives the reason for each that does not.

    wrong: id of a module -> the finding that its frequencies are not those of its config.
    """
    for module in model.modules():
        if isinstance(module, RotaryEmbedding) or not _is_rotary(module):
            continue
        owner = type(module).__name__
        reading = _reading(module)
        if isinstance(reading, Reading) and id(module) in wrong:
            reading = f"{wrong[id(module)].kind}: {wrong[id(module)].text}; trust='module' takes them as they are"
        if isinstance(reading, str):
            handle.report().left[owner, "forward"] = reading
            warnings.warn(f"the tables of {owner} stay the model's own: {reading}", stacklevel=3)
            continue
        handle.replace(module, "forward", _exact_forward(type(module).forward, reading, handle))
        angles = "exact angles of coordinates" if reading.orders else "exact angles"
        replaced[owner, "forward", "cos and sin", angles] += 1


def _is_rotary(module: nn.Module) -> bool:
    """True for a module with a buffer whose name ends in inv_freq, for one layer type or for several."""
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _reading(module: nn.Module) -> Reading | str:
    """How a module reads its arguments, or the reason why its tables stay its own."""
    inv_freq = getattr(module, "inv_freq", None)
    if not isinstance(inv_freq, Tensor) or inv_freq.ndim != 1:
        return "it has no single inv_freq of shape (dim/2,)"
    if "forward" in module.__dict__:
        return "its forward is overridden on the instance"
    reason = _unfit(module, inv_freq)
    if reason is not None:
        return reason
    orders = plane_orders(module, inv_freq)
    if orders == {}:
        return "it takes several positions per token, and its planes read them in an unknown order"
    reason = _not_one_axis(module, inv_freq)
    if orders is None and reason is not None:
        return reason
    shape = (1, 4)
    if reason is not None:
        layout, n = next(iter(orders or {}))
        shape = {"first": (n, 1, 4), "last": (1, 4, n), "rows": (4, n)}[layout]
    return Reading(orders or {}, reason is None, _follows_x(module, inv_freq, shape), turns_of_powers_of_two(1.0))


def _unfit(module: nn.Module, inv_freq: Tensor) -> str | None:
    """The reason why no tables can be computed from these frequencies, or None. A traced program cannot read whether they are finite."""
    if inv_freq.is_meta or not (tracing() or bool(inv_freq.isfinite().all())):
        return "its inv_freq is on the meta device or not finite"
    if inv_freq.dtype not in (torch.float32, torch.float64):
        return f"its inv_freq was cast to {inv_freq.dtype}: exact cosines of rounded frequencies would be wrong"
    if getattr(module, "rope_type", "default") in ("dynamic", "longrope"):
        return f"its frequencies depend on the length (rope_type {module.rope_type!r})"
    return None


def _not_one_axis(module: nn.Module, inv_freq: Tensor) -> str | None:
    """The reason why the tables are not cos and sin of one position times inv_freq, or None."""
    positions = torch.tensor([[0, 1, 2, 5]], device=inv_freq.device)
    try:
        cos, sin = _called(module, inv_freq, positions, torch.float32)
        angles = positions[..., None] * inv_freq.double()
        for table, half in ((cos, angles.cos()), (sin, angles.sin())):
            expected = torch.cat((half, half), -1) * _factor(module)
            if table.shape != expected.shape or float((table - expected).abs().max()) > 1e-5:
                return "its tables are not cos and sin of position * inv_freq repeated in both halves"
    except Exception as error:  # the model's code may raise anything
        return f"calling forward(x, position_ids) raised {type(error).__name__}"
    return None


def _follows_x(module: nn.Module, inv_freq: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the tables for positions of this shape have x's dtype. Those of OLMo and ERNIE 4.5 are float32, whatever x is."""
    positions = torch.zeros(shape, dtype=torch.int64, device=inv_freq.device)
    try:
        return _called(module, inv_freq, positions, torch.bfloat16)[0].dtype == torch.bfloat16
    except Exception:  # the model's code may raise anything; then it is not called with such an x either
        return True


def _called(module: nn.Module, inv_freq: Tensor, positions: Tensor, dtype: torch.dtype) -> Any:
    """The tables of the module's own forward for positions of four tokens, and an x of that dtype."""
    x = torch.zeros(1, 4, 2 * inv_freq.shape[0], dtype=dtype, device=inv_freq.device)
    with torch.no_grad(), defaults(inv_freq.device):
        return type(module).forward(module, x, positions)


def _factor(module: nn.Module) -> float:
    return float(getattr(module, "attention_scaling", 1.0))


def _exact_forward(original: Callable[..., Any], reading: Reading, handle: Handle) -> Any:
    """A forward that computes exact tables while the handle is active, and otherwise calls the original."""
    # Keyed by module, because deep copies share this function and may have other frequencies. An entry is used only while the values of
    # inv_freq are those that it was made from: a tensor's identity and version do not change when it is written through .data, through
    # numpy or in inference mode, and the id of a deleted tensor is given to another.
    cache: weakref.WeakKeyDictionary[nn.Module, FrequencyTables] = weakref.WeakKeyDictionary()
    names = list(inspect.signature(original).parameters)[1:3]

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        x, position_ids = _two(names, args, kwargs)
        if not handle.active or not isinstance(position_ids, Tensor) or not reading.takes(position_ids):
            return original(self, *args, **kwargs)
        inv_freq, factor = self.inv_freq, _factor(self)
        # torch.jit.trace sees plain tensors, and has no operation for the bits of a float.
        if torch.compiler.is_compiling() or (tracing() and not jit_tracing()):
            if _unfit(self, inv_freq) is not None:
                return original(self, *args, **kwargs)
            tables = reading.traced(inv_freq, factor, position_ids)
        else:
            entry = cache.get(self)
            if entry is None or not entry.are_of(inv_freq, factor):
                if _unfit(self, inv_freq) is not None:  # a model may be cast or emptied after the patch
                    return original(self, *args, **kwargs)
                entry = cache[self] = FrequencyTables(inv_freq, factor)
            tables = entry.at(position_ids, reading.order(position_ids))
        return tuple(table.to(x.dtype) for table in tables) if reading.follows_x else tables

    return mark_as_patched(forward)


def _two(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """(x, position_ids) of a call with these two arguments and no others, by position or by name; else None for both."""
    values = [*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs)]
    if len(values) != 2 or len(args) + len(kwargs) != 2 or not isinstance(values[0], Tensor):
        return None, None
    return values[0], values[1]
