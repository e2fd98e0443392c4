"""Every model family of transformers that defines a rotation, built small from its default config with random weights, offline."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from rotary.transformers import RotationSpec, probe

from . import recipes
from .small import HIDDEN, TOKENS, VOCABULARY, set_size, shrunk

FOLDER = Path(transformers.__file__).parent / "models"


def families() -> list[str]:
    """Model families whose modeling file defines a function or method that is named as a rotation."""
    definition = re.compile(r"^ *def \w*(?:apply|_)\w*(?:rotary|rope)\w*\(", re.M)
    names = [path.parent.name for path in sorted(FOLDER.glob("*/modeling_*.py")) if definition.search(path.read_text())]
    return list(dict.fromkeys(names))


def modeling(family: str) -> list[ModuleType]:
    """The modeling modules of a family."""
    files = sorted((FOLDER / family).glob("modeling_*.py"))
    return [importlib.import_module(f"transformers.models.{family}.{file.stem}") for file in files]


def candidates(family: str) -> Iterator[type]:
    """Model classes of a family: causal language models first, and heads for other tasks only if there is nothing else."""
    order = ("ForCausalLM", "TextModel", "Model", "ForConditionalGeneration", "Encoder", "")
    kinds = [
        kind
        for module in modeling(family)
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and issubclass(kind, transformers.PreTrainedModel)
        and kind.__module__ == module.__name__
        and not kind.__name__.endswith("PreTrainedModel")
        and getattr(kind, "config_class", None) is not None
    ]
    other = re.compile(r"For(?!CausalLM|ConditionalGeneration)[A-Z]")
    kinds = [kind for kind in kinds if other.search(kind.__name__) is None] or kinds
    yield from sorted(kinds, key=lambda kind: next(i for i, end in enumerate(order) if kind.__name__.endswith(end)))


# Config keys for the number of experts that a router chooses.
EXPERTS = (
    *("num_experts_per_tok", "num_experts_per_token", "num_selected_experts", "moe_topk", "moe_top_k", "moe_k"),
    *("top_k", "top_k_experts"),
)


def build(kind: type, seed: int = 0, *, every_expert: bool = False) -> nn.Module:
    """A small model of that class with random weights. every_expert: its routers choose all, so that rounding cannot change the choice."""
    torch.manual_seed(seed)
    config = shrunk(kind.config_class())
    for key, value in recipes.SIZES.get(_family(kind), {}).items():
        part = getattr(config, key, None)
        if isinstance(part, transformers.PreTrainedConfig):
            for name, size in value.items():
                set_size(part, name, size)
        else:
            set_size(config, key, value)
    if every_expert:
        for part in (config, *(v for v in vars(config).values() if isinstance(v, transformers.PreTrainedConfig))):
            for key in EXPERTS:
                if isinstance(vars(part).get(key), int):
                    set_size(part, key, 4)
    config._attn_implementation = "eager"
    model = kind(config).eval().float()
    with torch.no_grad():  # with default weights attention is nearly uniform, and rotation changes little
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
            elif not name.endswith("bias") and not parameter.any():  # temperatures and gates that start at 0
                parameter.fill_(0.5)
    return model


def _family(kind: type) -> str:
    return kind.__module__.split(".")[2]


def inputs(model: nn.Module, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Arguments to try, by the parameter names of the model's forward."""
    names = inspect.signature(model.forward).parameters
    special = recipes.INPUTS.get(_family(type(model)), dict)()
    if special and special.keys() <= names.keys():
        yield special
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 3, (2, TOKENS), generator=generator)
    embeds = torch.randn(2, TOKENS, HIDDEN, generator=generator)
    positions = torch.arange(TOKENS)[None].expand(2, -1)
    if {"input_ids", "position_ids"} <= names.keys() and _family(type(model)) in several_axes():
        yield {"input_ids": ids, "position_ids": torch.stack((positions, positions // 2, positions % 5))}
    for extra in ({}, {"position_ids": positions}):
        if extra and "position_ids" not in names:
            continue
        if "input_ids" in names:
            yield {"input_ids": ids, **extra}
            yield {"input_ids": ids, "decoder_input_ids": ids, **extra}
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}
        if "inputs_embeds" in names:
            yield {"inputs_embeds": embeds, **extra}
        if "hidden_states" in names:
            yield {"hidden_states": embeds, **extra}
    if "pixel_values" in names:
        pixels = torch.randn(2, 3, 16, 16, generator=generator)
        yield {"pixel_values": pixels}
    for name in ("input_features", "input_values"):
        if name in names:
            yield {name: torch.randn(2, 16, 64, generator=generator)}
            yield {name: torch.randn(2, 64, 16, generator=generator)}
            yield {name: torch.randn(2, 1, 3200, generator=generator)}
            yield {name: torch.randn(2, 3200, generator=generator)}
    grid = torch.tensor([[1, 4, 4]])
    first = next(iter(names))
    if "grid_thw" in names:
        for size in (3 * 2 * 16, 3 * 16, HIDDEN):
            yield {first: torch.randn(16, size, generator=generator), "grid_thw": grid}


@functools.cache
def several_axes() -> frozenset[str]:
    """Families whose tokens have positions on several axes (M-RoPE), by their source."""
    return frozenset(
        family
        for family in families()
        if any("mrope_section" in path.read_text() for path in (FOLDER / family).glob("modeling_*.py"))
    )


def run(model: nn.Module, arguments: dict[str, Any]) -> Tensor:
    """The first floating-point output that has a gradient."""
    torch.manual_seed(2)
    extra = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    output = model(**arguments, **extra)
    values = output.to_tuple() if hasattr(output, "to_tuple") else output if isinstance(output, tuple) else (output,)
    return next(
        value for value in values if isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad
    )


def gradient(model: nn.Module, output: Tensor) -> Tensor:
    """The gradient of a random linear function of the output by all parameters, as one vector."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(3)
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def specs(family: str) -> dict[str, RotationSpec | str]:
    """Each function of a family's modeling files that is named as a rotation, and its spec or the reason why it has none."""
    results: dict[str, RotationSpec | str] = {}
    for module in modeling(family):
        for name, value in list(vars(module).items()):
            if not isinstance(value, FunctionType) or value.__module__ != module.__name__:
                continue
            if re.search("rotary|rope|rot_", name) and len(inspect.signature(value).parameters) >= 3:
                results[name] = probe(value)
    return results
