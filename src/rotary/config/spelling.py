"""spelled(config): a config of any source and dialect, in the words of transformers; overridden(config, {...}): with some keys replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .._checks import describe
from .dialects import TRANSFORMERS, Spelled, recognise
from .families import FAMILIES
from .load import Config, check_names, load, rotary_keys
from .parts import part_of

__all__ = ["Spelled", "overridden", "spelled"]

_BLOCKS = ("rope_scaling", "rope_parameters")
_ALSO_INSIDE = ("rope_theta", "partial_rotary_factor")


def spelled(source: Any, part: str | None = None) -> Spelled:
    """The config in the words of transformers, with the name of its dialect; of a composite config one part, by default the text model.

    source, part: as read() takes them. ValueError or TypeError for a source that is no config, for a composite one with several parts that
    rotate and no text model, and for a key about rotation that its dialect does not have.
    """
    config = load(source)
    dialect = recognise(config)
    if part is not None or dialect is TRANSFORMERS:
        config = part_of(config, part)
        dialect = recognise(config)
    if dialect is TRANSFORMERS and not _rotates(config):  # read() refuses it with the reason; check() needs it as it is
        return Spelled(config, dialect=dialect.name)
    return dialect.read(config)


def _rotates(config: Config) -> bool:
    """Whether a config of transformers is of a family that is read, or has a key about rotation."""
    name: Any = config.get("model_type")
    return "refused" not in FAMILIES[name] if name in FAMILIES else bool(rotary_keys(config))


def overridden(config: Any, hf_overrides: Mapping[str, Any]) -> Config:
    """The config with some keys replaced, as vLLM's hf_overrides (--hf-overrides) replaces them, for read() and from_config().

    config: as read() takes it. hf_overrides: {"rope_parameters": {...}} or {"max_position_embeddings": 131072}; for a key of a sub-config a
    dict under the name of that, {"text_config": {...}}. The value of any other key is replaced as a whole, blocks too: a new
    rope_scaling must be complete, except that the base and partial_rotary_factor of the old one stay. rope_scaling replaces
    rope_parameters and the reverse, since vLLM keeps one of the two. TypeError for what is no config or no dict.

    Source: vllm-project/vllm, vllm/transformers_utils/config.py (get_config), vllm/config/model.py (_apply_dict_overrides).

    >>> overridden({"model_type": "llama", "rope_theta": 1e4}, {"rope_theta": 5e5})
    {'model_type': 'llama', 'rope_theta': 500000.0}
    """
    if not isinstance(hf_overrides, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"hf_overrides must be a dict, got {describe(hf_overrides)}; call a function of vLLM's yourself, on the config"
        )
    check_names(hf_overrides, "hf_overrides")
    return _replaced(load(config), hf_overrides)


def _replaced(config: Config, overrides: Mapping[str, Any]) -> Config:
    result = dict(config)
    for key, value in overrides.items():
        old = result.get(key)
        if key.endswith("_config") and isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = _replaced(dict(cast("Mapping[str, Any]", old)), cast("Mapping[str, Any]", value))
            continue
        if key in _BLOCKS:
            _replace_block(result, value)
        elif key in _ALSO_INSIDE:
            for name in _BLOCKS:
                block = result.get(name)
                if isinstance(block, Mapping) and key in block:
                    result[name] = {k: v for k, v in cast("Mapping[str, Any]", block).items() if k != key}
        result[key] = value
    return result


def _replace_block(config: Config, value: Any) -> None:
    """Remove both blocks of rope parameters. Their base and partial_rotary_factor move to the top level, where the new block has none."""
    new = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
    for name in _BLOCKS:
        old = config.pop(name, None)
        if not isinstance(old, Mapping) or any(isinstance(item, Mapping) for item in new.values()):
            continue
        for key in _ALSO_INSIDE:
            if old.get(key) is not None and key not in new:
                config.setdefault(key, old[key])
