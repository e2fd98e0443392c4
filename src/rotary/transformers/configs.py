"""Which config describes a rotary module of a model, and what rotary.config reads in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

from torch import nn

from ..config import Arguments, read
from ..config.load import load
from .measured import Rotary


class Reading(NamedTuple):
    """What a config says of layers of one type, None if all are alike. any_order: planes may be in the order of their coordinates."""

    layer_type: str | None
    arguments: Arguments
    any_order: bool = False


class Configs:
    """The configs in a model, or one that is given for the whole of it.

    given: what rotary.config.read accepts, or None for those that the modules hold. ValueError or TypeError if it cannot be loaded.
    """

    def __init__(self, model: nn.Module, given: Any) -> None:
        self._given: dict[str, Any] | None = None if given is None else load(given)
        self._held = {path: held for path, module in model.named_modules() if (held := _config_of(module)) is not None}
        self._readings: dict[tuple[int, str | None], list[Reading] | str] = {}

    def readings(self, rotary: Rotary) -> list[Reading] | str:
        """What the module's config says, by layer type where several are possible; or why it says nothing."""
        config = self._describing(rotary.path)
        if self._given is not None:
            config = self._part_of_given(config)
        if config is None:
            return "no module around it has a config; pass config="
        key = id(config), rotary.layer_type
        if key not in self._readings:
            self._readings[key] = readings(config, rotary.layer_type)
        return self._readings[key]

    def _describing(self, path: str) -> Any:
        """The config of the nearest module around this one, since editing it is how configs change after loading; or the module's own,
        if the other is for another part of a composite model."""
        own = self._held.get(path)
        around = next((self._held[above] for above in _around(path) if above in self._held), None)
        return around if own is None or type(around) is type(own) else own

    def _part_of_given(self, held: Any) -> Any:
        """The part of the given config that stands where a held one stands in the model's."""
        root = self._held.get("")
        if held is None or root is None or held is root:
            return self._given
        for names in _places(root, held):
            part: Any = self._given
            for name in names:
                part = part.get(name) if isinstance(part, Mapping) else None
            if part is not None:
                return part
        return self._given if _model_type(held) == _model_type(self._given) else None


def readings(config: Any, layer_type: str | None) -> list[Reading] | str:
    """What a config says of layers of that type, or of each type where it is None; or why it is refused."""
    try:
        found = _read(config, layer_type)
        if found.parts or found.inv_freq:
            return _of_one_axis(found, layer_type)
        return [Reading(layer_type, found, any_order=found.axes is not None)]
    except Exception as error:  # a model's config may raise anything
        refused = f"its config is not read: {str(error) or type(error).__name__}"
    try:
        # refused for how positions are made, or how planes are dealt out to them: the frequencies are plain ones
        if "is the same rotation" in refused or "mrope_section" in refused:
            return [Reading(layer_type, _read(_for_text_alone(load(config)), layer_type), any_order=True)]
        if layer_type is not None:
            return [Reading(None, _read(config, None))]
        _, asked, types = refused.partition("pass layer_type= one of ")
        return [Reading(name, _read(config, name)) for name in types.split(", ")] if asked else refused
    except Exception:
        return refused


def _of_one_axis(found: Arguments, layer_type: str | None) -> list[Reading] | str:
    """What a tower's rotary module holds: the frequencies of one axis, or of the whole spectrum that is dealt out (Pixtral)."""
    channels = found.parts[0].channels if found.parts else found.dim // 2 if found.extent else found.dim
    if found.base <= 1.0 or any(part.scaling for part in found.parts):
        return "its config gives each axis frequencies of its own"
    return [Reading(layer_type, replace(found, dim=channels, axes=None, parts=(), inv_freq=()), any_order=True)]


def _read(config: Any, layer_type: str | None) -> Arguments:
    # The pairing is not compared: where a config leaves it open, any will do.
    return read(config, layer_type=layer_type, interleaved=False)


def _for_text_alone(config: dict[str, Any]) -> dict[str, Any]:
    """The same frequencies as a config without M-RoPE and without a model_type that stands for it."""
    plain: dict[str, Any] = {key: value for key, value in config.items() if key not in ("model_type", "mrope_section")}
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(plain.get(key), Mapping):
            plain[key] = _without_mrope(plain[key])
    return plain


def _without_mrope(rope: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in rope.items():
        if isinstance(value, Mapping):
            plain[key] = _without_mrope(cast("Mapping[str, Any]", value))
        elif not key.startswith("mrope"):
            plain[key] = "default" if value == "mrope" else value
    return plain


def _config_of(module: nn.Module) -> Any:
    held = getattr(module, "config", None)
    return held if isinstance(held, Mapping) or hasattr(held, "to_dict") else None


def _around(path: str) -> Iterator[str]:
    """Paths of the modules around one, the nearest first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _places(config: Any, part: Any) -> Iterator[list[str]]:
    """The keys under which a part stands in a composite config: the same object, or else one of the same class."""
    for wanted in (lambda value: value is part, lambda value: type(value) is type(part)):
        for name, value in vars(config).items() if hasattr(config, "__dict__") else ():
            if not hasattr(value, "to_dict"):
                continue
            if wanted(value):
                yield [name]
            yield from ([name, *rest] for rest in _places(value, part))


def _model_type(config: Any) -> Any:
    return cast(Any, config).get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
