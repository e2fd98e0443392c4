"""Base class whose buffers are read-only copies of constructor arguments, and the same values found in old checkpoints.

No computation reads these buffers, so casting, moving or overwriting them cannot change a result. This file overrides private methods
of nn.Module: _apply (.to, .half, .cuda, to_empty) and _load_from_state_dict, both overridden widely and stable since torch 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._torch import plain_torch

Values = Mapping[str, tuple[float, ...] | None]

_AGREE = 2.0**-21  # relative: what float32 arithmetic of different libraries makes of one formula


class MirrorModule(nn.Module):
    """Non-persistent float32 buffers that show constructor arguments; None for missing values.

    They are rebuilt from the arguments after every .to(), .half() or move. Old checkpoints that hold them are accepted where they
    agree, and refused by name and value where not.
    """

    inv_freq: Tensor
    _mirrored: Values

    def _register_mirrors(self, values: Values, device: torch.device | str | None) -> None:
        """Register the buffers; once, during construction."""
        self._mirrored = values
        for name, numbers in values.items():
            self.register_buffer(name, _mirror(numbers, device), persistent=False)

    def reset_parameters(self) -> None:
        """Rebuild the buffers from the arguments on their device: for meta-device initialisation. There are no parameters."""
        for name, numbers in self._mirrored.items():
            setattr(self, name, _mirror(numbers, self.inv_freq.device))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq is not before:
            self.reset_parameters()
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: list[str],
    ) -> None:
        kept = dict(state_dict)
        for name, numbers in self._mirrored.items():
            if prefix + name in kept:
                complaint = disagreement(kept.pop(prefix + name), numbers)
                if complaint is not None:
                    error_msgs.append(f"{prefix}{name} of the checkpoint does not belong to {self!r}: {complaint}")
        super()._load_from_state_dict(kept, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def _mirror(numbers: tuple[float, ...] | None, device: torch.device | str | None) -> Tensor | None:
    with torch.inference_mode(False):
        return None if numbers is None else torch.tensor(numbers, dtype=torch.float32, device=device)


def disagreement(stored: Any, numbers: tuple[float, ...] | None) -> str | None:
    """What is wrong with a tensor stored in a checkpoint, or None where it agrees with the module's own numbers.

    Agreement: relative 2^-21, plus one rounding where the stored dtype is narrower than float32. A tensor on the meta device has no
    values to disagree with.
    """
    if numbers is None:
        return "this module has none (use_xpos=False)"
    if not isinstance(stored, Tensor) or not stored.is_floating_point():
        return f"it is {stored.dtype if isinstance(stored, Tensor) else type(stored).__name__}, not a floating tensor"
    if tuple(stored.shape) != (len(numbers),):
        return f"its shape is {tuple(stored.shape)}, expected ({len(numbers)},)"
    if stored.device.type == "meta":
        return None
    with plain_torch():
        own = torch.tensor(numbers, dtype=torch.float64)
        other = stored.detach().to("cpu", torch.float64)
        info = torch.finfo(stored.dtype)
        narrow = stored.dtype not in (torch.float32, torch.float64)
        allowed = own.abs() * (_AGREE + (info.eps / 2 if narrow else 0.0)) + info.smallest_normal * info.eps / 2
        wrong = ~((other - own).abs() <= allowed)  # NaN disagrees
        if not bool(wrong.any()):
            return None
        worst = int(wrong.nonzero()[0])
        return f"entry {worst} is {other[worst].item():.9g}, expected {own[worst].item():.9g}"
