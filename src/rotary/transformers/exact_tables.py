"""Exact cos and sin in place of a model's own, from the inv_freq of its rotary modules.

A module qualifies if its forward(x, position_ids) gives, near position 0, cos and sin of position * inv_freq repeated in both halves.
Far from position 0 the model's float32 angles are wrong, so the comparison can only be made near it.
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
from .findings import Finding
from .handle import Handle
from .rebind import mark_as_patched


def replace_tables(model: nn.Module, handle: Handle, replaced: Counter[Any], wrong: Mapping[int, Finding]) -> None:
    """Bind a forward with exact tables to each rotary module that qualifies; the report says why the others do not.

    wrong: by id, the modules whose frequencies are not those of their config.
    """
    for module in model.modules():
        if isinstance(module, RotaryEmbedding) or not _is_rotary(module):
            continue
        owner, inv_freq = type(module).__name__, getattr(module, "inv_freq", None)
        if not isinstance(inv_freq, Tensor) or inv_freq.ndim != 1:
            reason = "it has no inv_freq of shape (dim/2,), but perhaps several"
        elif "forward" in module.__dict__:
            reason = "its forward is overridden on the instance"
        else:
            reason = _disqualified(module, inv_freq)
        if reason is None and id(module) in wrong:
            reason = f"{wrong[id(module)].kind}: {wrong[id(module)].text}; trust='module' takes them as they are"
        if reason is not None:
            handle.report().left[owner, "forward"] = reason
            warnings.warn(f"the tables of {owner} stay the model's own: {reason}", stacklevel=4)
            continue
        handle.replace(module, "forward", _exact_forward(type(module).forward, handle))
        replaced[owner, "forward", "cos and sin", "exact angles"] += 1


def _is_rotary(module: nn.Module) -> bool:
    """True if a module makes tables, as far as names tell: an inv_freq of its own, for one layer type or for several."""
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _disqualified(module: nn.Module, inv_freq: Tensor) -> str | None:
    """The reason why this module's tables cannot be computed from its inv_freq, or None."""
    if inv_freq.is_meta or not bool(inv_freq.isfinite().all()):
        return "its inv_freq is on the meta device or not finite"
    if inv_freq.dtype not in (torch.float32, torch.float64):
        return f"its inv_freq was cast to {inv_freq.dtype}: exact cosines of rounded frequencies would be wrong"
    if getattr(module, "rope_type", "default") in ("dynamic", "longrope"):
        return f"its frequencies depend on the length (rope_type {module.rope_type!r})"
    positions = torch.tensor([[0, 1, 2, 5]], device=inv_freq.device)
    if any(_accepts(module, inv_freq, positions.expand(axes, 1, 4)) for axes in (2, 3, 4)):
        return "it takes several positions per token (M-RoPE), which are not served"
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


def _accepts(module: nn.Module, inv_freq: Tensor, positions: Tensor) -> bool:
    """True if forward takes positions (axes, 1, seq) as coordinates of one row: tables for one row come back."""
    x = torch.zeros(1, 4, 2 * inv_freq.shape[0], device=inv_freq.device)
    try:
        with torch.no_grad():
            cos, _ = type(module).forward(module, x, positions)
    except Exception:  # the model's code may raise anything
        return False
    return isinstance(cos, Tensor) and cos.shape[0] == 1


def _exact_forward(original: Callable[..., Any], handle: Handle) -> Any:
    """A forward that computes exact tables while the handle is active, and otherwise calls the original."""
    # By module, because deep copies share this function and may have other frequencies. With the frequencies that the entry was made
    # from: identity and version miss writes through .data, numpy and in inference mode, and an id is used again.
    cache: weakref.WeakKeyDictionary[nn.Module, tuple[Tensor, float, RotaryEmbedding]] = weakref.WeakKeyDictionary()

    def forward(self: Any, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not handle.active or args or kwargs or position_ids.is_floating_point():
            return original(self, x, position_ids, *args, **kwargs)
        inv_freq, scaling = self.inv_freq, float(getattr(self, "attention_scaling", 1.0))
        entry = cache.get(self)
        if (
            entry is None or entry[1] != scaling or not torch.equal(entry[0], inv_freq)
        ):  # on a GPU this waits for the device
            exact = RotaryEmbedding.from_inv_freq(inv_freq.detach(), attention_factor=scaling)
            entry = cache[self] = (inv_freq.detach().clone(), scaling, exact)
        cos, sin = entry[2].cos_sin(position_ids)
        return tuple(torch.cat((table, table), -1).to(x.dtype) for table in (cos, sin))

    return mark_as_patched(forward)
