"""Every default config of transformers, each part of each once, and the rotation that transformers itself makes of it.

`python tests/config/walk.py` rewrites the tables of docs/configs.md from it.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rotary.config import Arguments, read

Part = tuple[str, Any]


def parts() -> list[Part]:
    """(model_type, config) of each config class that some default config holds."""
    transformers.logging.set_verbosity_error()
    seen: dict[tuple[str, str], Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model_type in CONFIG_MAPPING:
            try:
                whole = CONFIG_MAPPING[model_type]()
            except Exception:  # a default config that transformers itself refuses
                continue
            for part in _parts(whole):
                seen.setdefault((part.model_type, type(part).__name__), part)
    return [(model_type or name, part) for (model_type, name), part in seen.items()]


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for value in vars(config).values():
        if isinstance(value, transformers.PreTrainedConfig):
            yield from _parts(value)


def readings(config: Any) -> dict[str | None, Arguments] | str:
    """What read() makes of a config, per layer type where they differ; or why it refuses."""
    try:
        return {None: read(config)}
    except (TypeError, ValueError) as error:
        if "pass layer_type= one of " not in str(error):
            return str(error)
        found: dict[str | None, Arguments] = {}
        for layer_type in str(error).rpartition("one of ")[2].split(", "):
            try:
                found[layer_type] = read(config, layer_type=layer_type)
            except ValueError as still:
                if "do not rotate" not in str(still):
                    raise
        return found


def modeling(config: Any) -> ModuleType | None:
    try:
        return importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    except ModuleNotFoundError:
        return None


def rotary_modules(config: Any) -> Iterator[torch.nn.Module]:
    """Their rotary modules for a config: those of its modeling file that can be built from it."""
    module = modeling(config)
    for name, value in vars(module).items() if module else ():
        ours = inspect.isclass(value) and value.__module__ == module.__name__
        if ours and ("Rotary" in name or "Rope" in name) and "config" in inspect.signature(value.__init__).parameters:
            try:
                yield value(config)
            except (AttributeError, KeyError, TypeError, ValueError):  # the module of another part of the model
                continue


def frequencies(module: torch.nn.Module, layer_type: str | None) -> tuple[Tensor | None, float]:
    """(inv_freq, attention factor) of one of their modules."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    factor = getattr(module, f"{prefix}attention_scaling", getattr(module, "attention_scaling", 1.0))
    return getattr(module, f"{prefix}inv_freq", None), factor


def rotation(config: Any, module: torch.nn.Module, layer_type: str | None, interleaved: bool) -> Callable[..., Any]:
    """q, k (1, heads, seq, dim), positions (1, seq) -> their rotated q and k."""
    source = modeling(config)
    assert source is not None
    names = ["apply_rotary_pos_emb_interleave"] if interleaved else []
    apply = next(getattr(source, n) for n in [*names, "apply_rotary_pos_emb", "apply_rotary_emb"] if hasattr(source, n))
    options = {} if layer_type is None else {"layer_type": layer_type}

    def rotated(q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        tables = module(q, positions, **options)
        if isinstance(tables, Tensor):  # complex
            q, k = apply(q.transpose(1, 2), k.transpose(1, 2), tables)
            return q.transpose(1, 2), k.transpose(1, 2)
        if "k" not in inspect.signature(apply).parameters:
            return apply(q, *tables), apply(k, *tables)
        return apply(q, k, *tables)

    return rotated
