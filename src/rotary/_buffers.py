"""Base class whose buffers are read-only copies of constructor arguments, and the same values found in old checkpoints.

No computation reads these buffers, so casting, moving or overwriting them cannot change a result. This file overrides private methods
of nn.Module: _apply (.to, .half, .cuda, to_empty) and _load_from_state_dict, both overridden widely and stable since torch 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ._torch import plain_torch, tracing

Values = Mapping[str, tuple[float, ...] | None]

_AGREE = 2.0**-21  # relative: what float32 arithmetic of different libraries makes of one formula

_FREQS = "freqs"  # what rotary-embedding-torch calls inv_freq, a parameter, which a model may have trained


class MirrorModule(nn.Module):
    """Non-persistent float32 buffers that show constructor arguments; None for missing values.

    They are rebuilt from the arguments after every .to(), .half() or move. Old checkpoints that hold them are accepted where they
    agree, and refused by name and value where not.
    """

    inv_freq: Tensor
    _mirrored: Values
    _fixed: ClassVar[frozenset[str]] = frozenset()
    """Attributes that cannot be assigned once the buffers are registered, which ends the construction."""

    def _register_mirrors(self, values: Values, device: torch.device | str | None) -> None:
        """Register the buffers; once, during construction."""
        self._mirrored = values
        for name, numbers in values.items():
            # A missing value is never saved anyway, and accelerate's cpu_offload moves all buffers that are not persistent.
            self.register_buffer(name, _mirror(numbers, device), persistent=numbers is None)

    def reset_parameters(self) -> None:
        """Rebuild the buffers from the arguments on their device: for meta-device initialisation. There are no parameters."""
        for name, numbers in self._mirrored.items():
            super().__setattr__(name, cast(Any, _mirror(numbers, self.inv_freq.device)))

    def __setattr__(self, name: str, value: Any) -> None:
        """Constructor arguments cannot be assigned: the results would not follow. A buffer takes what agrees with the arguments."""
        if name in self._fixed and "_mirrored" in self.__dict__:
            raise AttributeError(
                f"{name} was fixed when the module was constructed, and assigning it would change no result; make another module: "
                f"rope.replace() changes arguments of the constructor, and the builders (from_inv_freq, axial) take theirs anew"
            )
        if name in self.__dict__.get("_mirrored", ()) and not _without_values(value):
            complaint = disagreement(value, self._mirrored[name])
            if complaint is not None:
                raise ValueError(
                    f"{name} mirrors the arguments of {self!r}, and no computation reads it: {complaint}; construct another module, "
                    f"by replace() or from_inv_freq()"
                )
            if isinstance(value, nn.Parameter):
                raise TypeError(f"{name} is a buffer that mirrors the arguments; a parameter would have no effect")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_mirrored", ()):
            raise AttributeError(f"{name} mirrors the arguments of the module and cannot be deleted")
        super().__delattr__(name)

    def __prepare_scriptable__(self) -> Any:
        """torch.jit.script asks for what it should compile instead of the module."""
        raise TypeError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script: use torch.compile or torch.export"
        )

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
        for name, numbers in {**self._mirrored, _FREQS: self._mirrored["inv_freq"]}.items():
            if prefix + name in kept:
                complaint = disagreement(kept.pop(prefix + name), numbers)
                if complaint is not None:
                    remedy = "; from_inv_freq() makes a module of frequencies of their own" if name == _FREQS else ""
                    error_msgs.append(
                        f"{prefix}{name} of the checkpoint does not belong to {self!r}: {complaint}{remedy}"
                    )
        super()._load_from_state_dict(kept, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def _mirror(numbers: tuple[float, ...] | None, device: torch.device | str | None) -> Tensor | None:
    with torch.inference_mode(False):
        return None if numbers is None else torch.tensor(numbers, dtype=torch.float32, device=device)


def _without_values(value: Any) -> bool:
    """True for tensors whose values cannot be compared: on the meta device, fake, or inside a functorch transform."""
    return isinstance(value, Tensor) and (value.is_meta or tracing())


def disagreement(stored: Any, numbers: tuple[float, ...] | None) -> str | None:
    """What is wrong with a tensor stored in a checkpoint, or None where it agrees with the module's own numbers.

    Agreement: relative 2^-21, plus one rounding where the stored dtype is narrower than float32. A tensor on the meta device has no
    values to disagree with.
    """
    if numbers is None:
        return None if stored is None else "this module has none (use_xpos=False)"
    if not isinstance(stored, Tensor) or not stored.is_floating_point():
        return f"it is {stored.dtype if isinstance(stored, Tensor) else type(stored).__name__}, not a floating tensor"
    if tuple(stored.shape) != (len(numbers),):
        return f"its shape is {tuple(stored.shape)}, expected ({len(numbers)},)"
    if stored.device.type == "meta":
        return None
    with plain_torch():
        own = torch.tensor(numbers, dtype=torch.float64)
        other = (stored if stored.layout is torch.strided else stored.to_dense()).detach().to("cpu", torch.float64)
        info = torch.finfo(stored.dtype)
        narrow = stored.dtype not in (torch.float32, torch.float64)
        allowed = own.abs() * (_AGREE + (info.eps / 2 if narrow else 0.0)) + info.smallest_normal * info.eps / 2
        wrong = ~((other - own).abs() <= allowed)  # NaN disagrees
        if not bool(wrong.any()):
            return None
        worst = int(wrong.nonzero()[0])
        return f"entry {worst} is {other[worst].item():.9g}, expected {own[worst].item():.9g}"
