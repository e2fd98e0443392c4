"""What does rotary.config make of every default config of transformers, and which rotation does transformers itself make of it?

    python -m tools.config_page        10 seconds; writes the tables of docs/configs.md

Each part of each config is read once. tests/config compares the two rotations.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rotary.axes import shown
from rotary.config import Arguments, read
from rotary.config.load import load
from rotary.config.parts import text_part

Part = tuple[str, Any]


@functools.cache
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


def readings(config: Any, part: str | None = None) -> dict[str | None, Arguments] | str:
    """What read() makes of a config, or of a part of it, per layer type where they differ; or why it refuses."""
    try:
        return {None: read(config, part=part)}
    except (TypeError, ValueError) as error:
        if "pass layer_type= one of " not in str(error):
            return str(error)
        arguments: dict[str | None, Arguments] = {}
        for layer_type in str(error).rpartition("one of ")[2].split(", "):
            try:
                arguments[layer_type] = read(config, part=part, layer_type=layer_type)
            except ValueError as still:
                if "do not rotate" not in str(still):
                    raise
        return arguments


def modeling(config: Any) -> ModuleType | None:
    try:
        return importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    except ModuleNotFoundError:
        return None


def text(config: Any) -> str | None:
    """model_type of the part that turns text."""
    return text_part(load(config)).get("model_type")


def rotary_modules(config: Any) -> Iterator[torch.nn.Module]:
    """Their rotary modules for a config: those of its modeling file that can be built from it."""
    module = modeling(config)
    if module is None:
        return
    for kind in vars(module).values():
        if not (inspect.isclass(kind) and issubclass(kind, torch.nn.Module) and kind.__module__ == module.__name__):
            continue
        rotary = "Rotary" in kind.__name__ or "Rope" in kind.__name__
        if rotary and "config" in inspect.signature(kind.__init__).parameters:
            try:
                yield kind(config)
            except (AttributeError, KeyError, TypeError, ValueError):  # the module of another part of the model
                continue


def frequencies(module: torch.nn.Module, layer_type: str | None) -> tuple[Tensor | None, float]:
    """(inv_freq, attention factor) of one of their modules; of any layer type, where they are the same for all."""
    if layer_type is None and not hasattr(module, "inv_freq"):
        layer_type = next(iter(getattr(module, "rope_type", {})), None)  # type: ignore[arg-type]
    prefix = "" if layer_type is None else f"{layer_type}_"
    factor = getattr(module, f"{prefix}attention_scaling", getattr(module, "attention_scaling", 1.0))
    return getattr(module, f"{prefix}inv_freq", None), factor


def scores(
    config: Any, module: torch.nn.Module, layer_type: str | None, q: Tensor, k: Tensor, positions: Tensor
) -> Tensor | None:
    """Scores q k^T of their rotation of q and k (1, heads, seq, dim), by the first apply function of the file that takes these tensors.

    Scores, because some functions return the channels of q and k in another order, the same for both. None where no function takes them.
    """
    source = modeling(config)
    assert source is not None
    if layer_type is None and isinstance(kinds := getattr(module, "rope_type", None), dict):
        layer_type = next(iter(kinds), None)
    try:
        tables = module(q, positions, **({} if layer_type is None else {"layer_type": layer_type}))
    except RuntimeError:  # the module of another part of the model
        return None
    tables = (tables,) if isinstance(tables, Tensor) else tables
    interleaved = ("apply_rotary_pos_emb_interleave",) if getattr(config, "rope_interleave", True) else ()
    for name in (*interleaved, "apply_rotary_pos_emb", "apply_rotary_emb"):
        apply = getattr(source, name, None)
        if apply is None:
            continue
        single = "k" not in inspect.signature(apply).parameters and "xk" not in inspect.signature(apply).parameters
        for swapped in (False, True):
            given = [x.transpose(1, 2) if swapped else x for x in (q, k)]
            try:
                got = [apply(x, *tables) for x in given] if single else apply(*given, *tables)
            except (RuntimeError, TypeError):
                continue
            if all(x.shape == y.shape for x, y in zip(given, got, strict=True)):
                got = [x.transpose(1, 2) if swapped else x for x in got]
                return products(*got)
    return None


def products(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT


BEGIN, END = "<!-- families: made by tools/config_page.py -->\n", "<!-- end -->"


def tables() -> str:
    """What becomes of every part, as the tables of docs/configs.md."""
    loaded: dict[str, list[str]] = {}
    by_part: dict[str, list[str]] = {}
    refused: dict[str, set[str]] = {}
    still: set[str] = set()
    for name, part in parts():
        reading = readings(part)
        if isinstance(reading, dict):
            for layer_type, value in sorted(reading.items(), key=str):
                layer = "" if layer_type is None else f"{layer_type}: "
                loaded.setdefault(name, []).append(layer + _described(value))
        elif (named := _named_parts(part, reading)) and any(isinstance(value, dict) for value in named.values()):
            by_part[name] = [
                f"{key}: {_described(next(iter(value.values()))) if isinstance(value, dict) else 'refused'}"
                for key, value in named.items()
            ]
        elif reading.startswith("no rotary key"):
            still.add(name)
        else:
            refused.setdefault(
                re.sub(r"models of type .* are refused: |RotaryEmbedding\(.*?\)", _plainly, reading), set()
            ).add(name)
    lines = [
        f"{len(loaded)} load:",
        "",
        "| model_type | channels that turn, base, pairing, scheme, axes |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {'<br>'.join(dict.fromkeys(value))} |" for name, value in sorted(loaded.items())]
    lines += ["", f"{len(by_part)} composite configs without a text model of that kind load by `part=`:", ""]
    lines += ["| model_type | part: channels that turn, base, pairing, scheme |", "| --- | --- |"]
    lines += [f"| {name} | {'<br>'.join(value)} |" for name, value in sorted(by_part.items())]
    lines += ["", f"{sum(map(len, refused.values()))} are refused:", "", "| why | model_type |", "| --- | --- |"]
    lines += [
        f"| {why} | {', '.join(sorted(names))} |"
        for why, names in sorted(refused.items(), key=lambda item: -len(item[1]))
    ]
    lines += ["", f"{len(still)} have no key about rotation and do not rotate: {', '.join(sorted(still))}."]
    return "\n".join(lines) + "\n"


def _described(value: Arguments) -> str:
    width = f"{value.dim} of {value.head_dim}" if value.dim != value.head_dim else f"{value.dim}"
    scheme = " + ".join(type(scheme).__name__ for scheme in value.scaling)
    axes = f", {shown(value.axes)}" if value.axes else ""
    pairing = "interleaved" if value.interleaved else "half"
    return f"{width}, {value.base:g}, {pairing}{', ' + scheme if scheme else ''}{axes}"


def _named_parts(config: Any, refusal: str) -> dict[str, dict[str | None, Arguments] | str]:
    """What read() makes of each part that a refusal names."""
    _, asked, parts = refusal.partition("pass part= one of its sub-configs that rotate: ")
    return {part: readings(config, part) for part in parts.split(", ")} if asked else {}


def _plainly(match: re.Match[str]) -> str:
    """The same reason for models that differ in sizes alone."""
    return "a plain RotaryEmbedding" if match[0].startswith("Rotary") else ""


def page() -> Path:
    return Path(__file__).parents[1] / "docs" / "configs.md"


if __name__ == "__main__":
    before, _, rest = page().read_text(encoding="utf-8").partition(BEGIN)
    page().write_text(before + BEGIN + tables() + END + rest.partition(END)[2], encoding="utf-8")
