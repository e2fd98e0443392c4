"""A module whose buffers show what it was made of and hold nothing: nobody reads them, so nothing that happens to them matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import legacy

Shown = Mapping[str, tuple[float, ...] | None]


class Mirrors(nn.Module):
    """Buffers that mirror numbers in float32, None where there are none: not persistent, float32 under every cast, made anew whenever
    they were moved or cast. Old checkpoints that hold them are accepted where they agree, and refused by name where not.
    """

    inv_freq: Tensor
    _shown: Shown

    def _show(self, shown: Shown, device: torch.device | str | None) -> None:
        """Register the buffers; once, when the module is made."""
        self._shown = shown
        for name, values in shown.items():
            self.register_buffer(name, _mirror(values, device), persistent=False)

    def reset_parameters(self) -> None:
        """Rebuild the buffers from the arguments where they lie: for meta-device initialisation. There are no parameters."""
        for name, values in self._shown.items():
            setattr(self, name, _mirror(values, self.inv_freq.device))

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
        for name, values in self._shown.items():
            if prefix + name in kept:
                complaint = legacy.disagreement(kept.pop(prefix + name), values)
                if complaint is not None:
                    error_msgs.append(f"{prefix}{name} of the checkpoint does not belong to {self!r}: {complaint}")
        super()._load_from_state_dict(kept, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def _mirror(values: tuple[float, ...] | None, device: torch.device | str | None) -> Tensor | None:
    with torch.inference_mode(False):
        return None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
