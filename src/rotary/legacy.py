"""Frequencies found in old checkpoints: accepted where they agree with the module's own, refused by value where they do not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .constants import plain_torch

_AGREE = 2.0**-21  # relative: what float32 arithmetic of different libraries makes of one formula


def disagreement(stored: Any, values: tuple[float, ...] | None) -> str | None:
    """What is wrong with a stored tensor, or None where it agrees with values.

    Agreement: relative 2^-21, plus one rounding where the stored dtype is narrower than float32. A tensor on the meta device has no
    values to disagree with.
    """
    if values is None:
        return "this module has none (use_xpos=False)"
    if not isinstance(stored, Tensor) or not stored.is_floating_point():
        return f"it is {stored.dtype if isinstance(stored, Tensor) else type(stored).__name__}, not a floating tensor"
    if tuple(stored.shape) != (len(values),):
        return f"its shape is {tuple(stored.shape)}, expected ({len(values)},)"
    if stored.device.type == "meta":
        return None
    with plain_torch():
        ours = torch.tensor(values, dtype=torch.float64)
        theirs = stored.detach().to("cpu", torch.float64)
        info = torch.finfo(stored.dtype)
        narrow = stored.dtype not in (torch.float32, torch.float64)
        allowed = ours.abs() * (_AGREE + (info.eps / 2 if narrow else 0.0)) + info.smallest_normal * info.eps / 2
        wrong = ~((theirs - ours).abs() <= allowed)  # NaN disagrees
        if not bool(wrong.any()):
            return None
        worst = int(wrong.nonzero()[0])
        return f"entry {worst} is {theirs[worst].item():.9g}, expected {ours[worst].item():.9g}"
