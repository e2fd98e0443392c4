"""use_kernels(): register the layers of this library with the package kernels, under the names that transformers looks up."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from .. import _checks
from . import layers

FUNCTION = "rotary_pos_emb"
"""The name under which transformers decorates its rotation functions."""

_NEEDED = "use_kernels() needs the package kernels: pip install 'rotary[kernels]'"


@dataclass(frozen=True)
class Repository:
    """A layer of this library, in the form in which kernelize takes the repository of one."""

    layer_name: str

    def load(self) -> type[nn.Module]:
        layer: type[nn.Module] = getattr(layers, self.layer_name)
        return layer

    def __str__(self) -> str:
        return f"rotary.transformers.layers, layer {self.layer_name}"


class KernelMapping:
    """What use_kernels() returns, a context manager: leaving it, or remove(), restores the former mapping."""

    def __init__(self, devices: tuple[str, ...], name: str, layer: str) -> None:
        try:
            kernels: Any = importlib.import_module("kernels")
        except ImportError as error:
            raise ImportError(_NEEDED) from error
        repository, mode = Repository(layer), kernels.Mode
        modes = dict.fromkeys(
            (mode.INFERENCE, mode.TRAINING, mode.INFERENCE | mode.TORCH_COMPILE, mode.TRAINING | mode.TORCH_COMPILE),
            repository,
        )
        self.devices: tuple[str, ...] = devices
        self.name: str = name
        self.layer: str = layer
        self._undo: contextlib.ExitStack = contextlib.ExitStack()
        of_devices = dict.fromkeys(devices, modes)
        self._undo.enter_context(_Entered(kernels.use_kernel_mapping({name: of_devices})))
        _add_to_transformers(name, of_devices, self._undo)

    def remove(self) -> None:
        """Restore the former mapping. Models that were kernelized keep their layer until they are kernelized again."""
        self._undo.close()

    def __enter__(self) -> KernelMapping:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"use_kernels({', '.join(map(repr, self.devices))}): {self.name} -> {self.layer}"


class _Entered(contextlib.AbstractContextManager[None]):
    """A context manager of the package kernels as an AbstractContextManager, which it is not in every version."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _add_to_transformers(name: str, of_devices: dict[str, Any], undo: contextlib.ExitStack) -> None:
    """Put the layer into the mapping that transformers registers at use_kernels=True, in the place of another for these devices."""
    try:
        hub: Any = importlib.import_module("transformers.integrations.hub_kernels")
    except ImportError:
        return
    if not hasattr(hub, "get_kernel_mapping_transformers"):  # transformers without kernels, or for other versions of it
        return
    mapping = hub.get_kernel_mapping_transformers()
    former = mapping.get(name)
    mapping[name] = {**(former or {}), **of_devices}

    def put_back() -> None:
        if former is None:
            mapping.pop(name, None)
        else:
            mapping[name] = former

    undo.callback(put_back)


def use_kernels(
    *devices: str, name: str = FUNCTION, layer: str = layers.apply_rotary_transformers.__name__
) -> KernelMapping:
    """Register this library's layer with the package kernels, whose `kernelize` then puts it in the place of a model's rotation.

        with use_kernels():
            model = kernelize(model, mode=Mode.TRAINING)

    It is for inference and training, and lasts until remove() or the end of the block, in this thread or task, as every mapping of kernels;
    remove several in the reverse order. A model that was kernelized keeps the layer: kernelize it again to get its own function back. The
    function of a family is one object for all models of the process, so that all of them change together; patch() changes one model.

    devices: the types to register for, "cpu" and "cuda" by default.
    name: that with which the function was decorated, "rotary_pos_emb" in transformers.
    layer: a class of rotary.transformers.layers: apply_rotary_transformers_one for functions of one tensor.

    ImportError without the package kernels (the extra rotary[kernels]); ValueError for an unknown layer, or a device type that kernels
    does not know; TypeError where a device or the name is no string.
    """
    _checks.one_of("layer", layer, tuple(kind.__name__ for kind in layers.LAYERS))
    for device in devices:
        if not isinstance(device, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"devices must be types of devices such as 'cuda', got {_checks.describe(device)}")
    _checks.text("name", name, FUNCTION)
    return KernelMapping(devices or ("cpu", "cuda"), name, layer)
