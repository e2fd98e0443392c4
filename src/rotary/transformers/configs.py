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
    """What rotary.config reads in a config for layers of one type, None if all are alike.

    any_order: planes may be in another order than the config's, that of their coordinates.
    """

    layer_type: str | None
    arguments: Arguments
    any_order: bool = False


class Configs:
    """The configs of a model's rotary modules: those in its modules, or one for the whole model.

    config: what rotary.config.read accepts, or None for those in the modules. ValueError or TypeError if it cannot be loaded.
    """

    def __init__(self, model: nn.Module, config: Any) -> None:
        self._config: dict[str, Any] | None = None if config is None else load(config)
        self._by_path = {path: own for path, module in model.named_modules() if (own := _config_of(module)) is not None}
        self._readings: dict[tuple[int, str | None], list[Reading] | str] = {}

    def readings(self, rotary: Rotary) -> list[Reading] | str:
        """What the module's config describes, for each layer type that it may be for; or the reason why it cannot be read."""
        config = self._describing(rotary.path)
        if self._config is not None:
            config = self._part_of_config(config)
        if config is None:
            return "no module around it has a config; pass config="
        key = id(config), rotary.layer_type
        if key not in self._readings:
            self._readings[key] = readings(config, rotary.layer_type)
        return self._readings[key]

    def _describing(self, path: str) -> Any:
        """The config of the nearest module around this one, since that is the one that is edited after loading; or the module's own, if
        the other is for another part of a composite model."""
        own = self._by_path.get(path)
        around = next((self._by_path[above] for above in _around(path) if above in self._by_path), None)
        return around if own is None or type(around) is type(own) else own

    def _part_of_config(self, own: Any) -> Any:
        """The part of the caller's config under the keys under which a module's own config is in the model's."""
        root = self._by_path.get("")
        if own is None or root is None or own is root:
            return self._config
        for names in _keys_of_part(root, own):
            part: Any = self._config
            for name in names:
                part = part.get(name) if isinstance(part, Mapping) else None
            if part is not None:
                return part
        return self._config if _model_type(own) == _model_type(self._config) else None


def readings(config: Any, layer_type: str | None) -> list[Reading] | str:
    """What a config describes for layers of that type, or for each type where it is None; or the reason why it cannot be read."""
    try:
        arguments = _read(config, layer_type)
        if arguments.parts or arguments.inv_freq:
            return _of_one_axis(arguments, layer_type)
        return [Reading(layer_type, arguments, any_order=arguments.axes is not None)]
    except Exception as error:  # a model's config may raise anything
        refused = f"its config is not read: {str(error) or type(error).__name__}"
    try:
        # Refused for its positions, or for the order in which planes read them: its frequencies are those of a plain rotation.
        if "is the same rotation" in refused or "mrope_section" in refused:
            return [Reading(layer_type, _read(_for_text_alone(load(config)), layer_type), any_order=True)]
        if layer_type is not None:
            return [Reading(None, _read(config, None))]
        _, per_type, types = refused.partition("pass layer_type= one of ")
        return [Reading(name, _read(config, name)) for name in types.split(", ")] if per_type else refused
    except Exception:
        return refused


def _of_one_axis(tower: Arguments, layer_type: str | None) -> list[Reading] | str:
    """What a vision tower's rotary module has: the frequencies of one axis, or of the whole spectrum that its axes divide (Pixtral)."""
    channels = tower.parts[0].channels if tower.parts else tower.dim // 2 if tower.extent else tower.dim
    if tower.base <= 1.0 or any(part.scaling for part in tower.parts):
        return "its config gives each axis frequencies of its own"
    return [Reading(layer_type, replace(tower, dim=channels, axes=None, parts=(), inv_freq=()), any_order=True)]


def _read(config: Any, layer_type: str | None) -> Arguments:
    # The pairing is not compared; naming one keeps configs that leave it open from being refused.
    return read(config, layer_type=layer_type, interleaved=False)


def _for_text_alone(config: dict[str, Any]) -> dict[str, Any]:
    """A config of the same frequencies without M-RoPE: without its keys, and without a model_type that implies it."""
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
    """The config of a module, None without one."""
    config = getattr(module, "config", None)
    return config if isinstance(config, Mapping) or hasattr(config, "to_dict") else None


def _around(path: str) -> Iterator[str]:
    """Paths of the modules around one, the nearest first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _keys_of_part(config: Any, part: Any) -> Iterator[list[str]]:
    """The keys that lead to a part in a composite config: to the same object, or else to one of the same class."""
    for is_part in (lambda value: value is part, lambda value: type(value) is type(part)):
        for name, value in vars(config).items() if hasattr(config, "__dict__") else ():
            if not hasattr(value, "to_dict"):
                continue
            if is_part(value):
                yield [name]
            yield from ([name, *keys] for keys in _keys_of_part(value, part))


def _model_type(config: Any) -> Any:
    return cast(Any, config).get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
