"""Exact tables in place of a model's own: its rotary modules, where they are of the known kind, answer from fixed-point angles."""

from __future__ import annotations

import types
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ..embedding import RotaryEmbedding


def patch(model: nn.Module, handle: Any, replaced: Counter[Any]) -> None:
    """Rebind forward of each rotary module that does, near position 0, what its inv_freq says; the others are reported."""
    for module in model.modules():
        inv_freq = getattr(module, "inv_freq", None)
        if not isinstance(inv_freq, Tensor) or inv_freq.ndim != 1 or isinstance(module, RotaryEmbedding):
            continue
        owner = type(module).__name__
        reason = _unknown(module, inv_freq)
        if reason is not None:
            handle.report().left[owner, "forward"] = reason
            continue
        bound = types.MethodType(_forward(type(module).forward, handle), module)
        module.__dict__["forward"] = bound
        handle._methods.append((module, "forward", bound))
        replaced[owner, "forward", "cos and sin", "exact angles"] += 1


def _unknown(module: nn.Module, inv_freq: Tensor) -> str | None:
    """Why this module's tables are not those of its inv_freq at integer positions, the halves alike."""
    if inv_freq.is_meta or not bool(inv_freq.isfinite().all()):
        return "its inv_freq holds no numbers"
    if getattr(module, "rope_type", "default") in ("dynamic", "longrope"):
        return f"its frequencies depend on the length (rope_type {module.rope_type!r})"
    positions = torch.tensor([[0, 1, 2, 5]], device=inv_freq.device)
    x = torch.zeros(1, 4, 2 * inv_freq.shape[0], device=inv_freq.device)
    try:
        with torch.no_grad():
            cos, sin = type(module).forward(module, x, positions)
        angles = positions[..., None] * inv_freq.double()
        for table, wanted in ((cos, angles.cos()), (sin, angles.sin())):
            wanted = torch.cat((wanted, wanted), -1) * float(getattr(module, "attention_scaling", 1.0))
            if table.shape != wanted.shape or float((table - wanted).abs().max()) > 1e-5:
                return "its tables are not cos and sin of position x inv_freq, the halves alike"
    except Exception as error:  # whatever a stranger's forward raises
        return f"it is not called as forward(x, position_ids) ({type(error).__name__})"
    return None


def _forward(original: Any, handle: Any) -> Any:
    made: weakref.WeakKeyDictionary[nn.Module, tuple[Any, RotaryEmbedding]] = weakref.WeakKeyDictionary()

    def forward(self: Any, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not handle.active or args or kwargs or position_ids.is_floating_point():
            return original(self, x, position_ids, *args, **kwargs)
        inv_freq, scaling = self.inv_freq, float(getattr(self, "attention_scaling", 1.0))
        key = (id(inv_freq), -1 if inv_freq.is_inference() else inv_freq._version, scaling)
        known = made.get(self)
        if known is None or known[0] != key:
            known = made[self] = (key, RotaryEmbedding.from_inv_freq(inv_freq.detach(), attention_factor=scaling))
        cos, sin = known[1].cos_sin(position_ids)
        return tuple(torch.cat((t, t), -1).to(x.dtype) for t in (cos, sin))

    forward.__rotary__ = True  # type: ignore[attr-defined]
    return forward
