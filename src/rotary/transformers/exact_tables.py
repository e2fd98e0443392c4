"""Exact cos and sin in place of a model's own, from the inv_freq of its rotary modules.

A module qualifies if its forward(x, position_ids) gives, near position 0, cos and sin of position * inv_freq repeated in both halves, or
if its planes read several coordinates in an order that can be found (coordinates.py). The comparison is made near position 0, because far
from it the model's float32 angles are wrong.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..embedding import RotaryEmbedding
from .coordinates import PlaneOrder, PositionLayout, plane_order, position_layouts, understood
from .findings import Finding
from .handle import Handle
from .rebind import mark_as_patched


def replace_tables(model: nn.Module, handle: Handle, replaced: Counter[Any], wrong: Mapping[int, Finding]) -> None:
    """Bind a forward with exact tables to each rotary module that qualifies; the report gives the reason for each that does not.

    wrong: id of a module -> the finding that its frequencies are not those of its config.
    """
    for module in model.modules():
        if isinstance(module, RotaryEmbedding) or not _is_rotary(module):
            continue
        owner = type(module).__name__
        several, reason = _qualifies(module)
        if reason is None and id(module) in wrong:
            reason = f"{wrong[id(module)].kind}: {wrong[id(module)].text}; trust='module' takes them as they are"
        if reason is not None:
            handle.report().left[owner, "forward"] = reason
            warnings.warn(f"the tables of {owner} stay the model's own: {reason}", stacklevel=3)
            continue
        handle.replace(module, "forward", _exact_forward(type(module).forward, handle))
        replaced[owner, "forward", "cos and sin", "exact angles of coordinates" if several else "exact angles"] += 1


def _is_rotary(module: nn.Module) -> bool:
    """True for a module with a buffer whose name ends in inv_freq, for one layer type or for several."""
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _qualifies(module: nn.Module) -> tuple[bool, str | None]:
    """Whether a module takes several coordinates, and the reason why its tables stay its own, or None."""
    inv_freq = getattr(module, "inv_freq", None)
    if not isinstance(inv_freq, Tensor) or inv_freq.ndim != 1:
        return False, "it has no single inv_freq of shape (dim/2,)"
    if "forward" in module.__dict__:
        return False, "its forward is overridden on the instance"
    reason = _unfit(module, inv_freq)
    if reason is not None:
        return False, reason
    several = understood(module, inv_freq)
    if several is None:
        return False, _not_one_axis(module, inv_freq)
    return (
        True,
        None if several else "it takes several positions per token, and its planes read them in an unknown order",
    )


def _unfit(module: nn.Module, inv_freq: Tensor) -> str | None:
    """The reason why no tables can be computed from these frequencies, or None."""
    if inv_freq.is_meta or not bool(inv_freq.isfinite().all()):
        return "its inv_freq is on the meta device or not finite"
    if inv_freq.dtype not in (torch.float32, torch.float64):
        return f"its inv_freq was cast to {inv_freq.dtype}: exact cosines of rounded frequencies would be wrong"
    if getattr(module, "rope_type", "default") in ("dynamic", "longrope"):
        return f"its frequencies depend on the length (rope_type {module.rope_type!r})"
    return None


def _not_one_axis(module: nn.Module, inv_freq: Tensor) -> str | None:
    """The reason why the tables are not cos and sin of one position times inv_freq, or None."""
    positions = torch.tensor([[0, 1, 2, 5]], device=inv_freq.device)
    x = torch.zeros(1, 4, 2 * inv_freq.shape[0], device=inv_freq.device)
    try:
        with torch.no_grad():
            cos, sin = type(module).forward(module, x, positions)
        angles = positions[..., None] * inv_freq.double()
        for table, half in ((cos, angles.cos()), (sin, angles.sin())):
            expected = torch.cat((half, half), -1) * float(getattr(module, "attention_scaling", 1.0))
            if table.shape != expected.shape or float((table - expected).abs().max()) > 1e-5:
                return "its tables are not cos and sin of position * inv_freq repeated in both halves"
    except Exception as error:  # the model's code may raise anything
        return f"calling forward(x, position_ids) raised {type(error).__name__}"
    return None


class _Exact:
    """Exact modules with the frequencies that a rotary module had at one time: one for positions of one coordinate, and one for each layout
    of several."""

    def __init__(self, module: nn.Module, original: Callable[..., Any], inv_freq: Tensor, scaling: float) -> None:
        self.inv_freq, self.scaling = inv_freq.detach().clone(), scaling
        self._module, self._original = weakref.ref(module), original
        self._one: RotaryEmbedding | None = None
        self._several: dict[tuple[PositionLayout, int], tuple[PlaneOrder, RotaryEmbedding] | None] = {}

    def tables(self, position_ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """(cos, sin) at full width; None where the plane order for such positions is not known."""
        for layout, n in position_layouts(position_ids):
            entry = self._of_coordinates(layout, n)
            if entry is not None:
                order, rope = entry
                cos, sin = rope.cos_sin(order.last(position_ids))
                return order.spread(cos), order.spread(sin)
        if position_ids.ndim > 2:
            return None
        if self._one is None:
            module = self._module()
            if torch.compiler.is_compiling() or module is None or _not_one_axis(module, self.inv_freq) is not None:
                return None
            self._one = RotaryEmbedding.from_inv_freq(self.inv_freq, attention_factor=self.scaling)
        cos, sin = self._one.cos_sin(position_ids)
        return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)

    def _of_coordinates(self, layout: PositionLayout, n: int) -> tuple[PlaneOrder, RotaryEmbedding] | None:
        if (layout, n) not in self._several:
            module = self._module()
            if (
                torch.compiler.is_compiling() or module is None
            ):  # finding the order calls the module, which tracing cannot
                return None
            order = plane_order(module, self._original, self.inv_freq, layout, n)
            self._several[layout, n] = None
            if isinstance(order, PlaneOrder):
                inv_freq = self.inv_freq[list(order.index)]
                rope = RotaryEmbedding.from_inv_freq(inv_freq, axes=order.axes, attention_factor=self.scaling)
                self._several[layout, n] = (order, rope)
        return self._several[layout, n]


def _exact_forward(original: Callable[..., Any], handle: Handle) -> Any:
    """A forward that computes exact tables while the handle is active, and otherwise calls the original."""
    # Keyed by module, because deep copies share this function and may have other frequencies. An entry is used only while the values of
    # inv_freq are those that it was made from: a tensor's identity and version do not change when it is written through .data, through
    # numpy or in inference mode, and the id of a deleted tensor is given to another.
    cache: weakref.WeakKeyDictionary[nn.Module, _Exact] = weakref.WeakKeyDictionary()

    def forward(self: Any, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not handle.active or args or kwargs or position_ids.is_floating_point():
            return original(self, x, position_ids, *args, **kwargs)
        inv_freq, scaling = self.inv_freq, float(getattr(self, "attention_scaling", 1.0))
        entry = cache.get(self)
        # torch.equal waits for the device on a GPU, once per forward pass.
        if entry is None or entry.scaling != scaling or not torch.equal(entry.inv_freq, inv_freq):
            entry = cache[self] = _Exact(self, original, inv_freq, scaling)
        tables = entry.tables(position_ids)
        if tables is None:
            return original(self, x, position_ids)
        return tuple(table.to(x.dtype) for table in tables)

    return mark_as_patched(forward)
