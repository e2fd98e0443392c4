"""Every model family of transformers that defines a rotation, built small from its own config with random weights, offline."""

from __future__ import annotations

import contextlib
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

import model_recipes as recipes
from rotary.transformers import Body, probe

FOLDER = Path(transformers.__file__).parent / "models"
TOKENS, VOCABULARY, HIDDEN, HEADS, HEAD_DIM, LAYERS = 12, 99, 64, 4, 16, 2
# Sizes by the names that configs use, where they have them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size", "dim", "hidden_dim", "width"), HIDDEN
    ),
    **dict.fromkeys(("out_hidden_size", "encoder_hidden_size", "projection_dim", "conv_dim", "lru_width"), HIDDEN),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), HEADS
    ),
    **dict.fromkeys(("encoder_num_attention_heads", "decoder_num_attention_heads", "mamba_num_heads"), HEADS),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "depth"), LAYERS
    ),
    **dict.fromkeys(("encoder_num_hidden_layers", "decoder_num_hidden_layers"), LAYERS),
    **dict.fromkeys(
        ("head_dim", "attention_head_dim", "global_head_dim", "v_head_dim", "kv_channels", "index_head_dim"), HEAD_DIM
    ),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "swa_head_dim", "linear_key_head_dim"), HEAD_DIM),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim", "mlp_dim"), 2 * HIDDEN
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size"), HIDDEN),
    **dict.fromkeys(("shared_expert_intermediate_size", "ffn_hidden_size", "dense_intermediate_size"), HIDDEN),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k", "moe_k", "num_selected_experts"), 2),
    **dict.fromkeys(
        ("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "moe_num_shared_experts"), 1
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 32),
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    "rotary_dim": 8,
    "sliding_window": 8,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "mamba_d_state": 16,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "index_n_heads": 2,
    "index_topk": 64,
    "num_nextn_predict_layers": 0,
    "patch_size": 4,
    "image_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 1,
    "num_mel_bins": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
}


def families() -> list[str]:
    """Folders whose modeling file defines a rotation, as it stands in its text; the walk is over these."""
    found = re.compile(r"^ *def \w*(?:apply|_)\w*(?:rotary|rope)\w*\(", re.M)
    names = [path.parent.name for path in sorted(FOLDER.glob("*/modeling_*.py")) if found.search(path.read_text())]
    return list(dict.fromkeys(names))


def shrunk(config: Any) -> Any:
    """The config with every size it has made small, its parts too, and lists that go with the layers cut."""
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig):
            shrunk(value)
        elif key in SIZES and isinstance(value, int) and not isinstance(value, bool):
            _set(config, key, SIZES[key])
        elif key.endswith("_token_id") and isinstance(value, int):
            _set(config, key, min(value, VOCABULARY - 1))
        elif isinstance(value, list) and re.search(r"layer|_types|pattern", key) and len(value) > LAYERS:
            _set(config, key, _cut(value))
    held = vars(config)
    for key in ("num_key_value_heads", "num_kv_heads", "encoder_num_key_value_heads", "decoder_num_key_value_heads"):
        if key in held:
            _set(config, key, HEADS if "kv_lora_rank" in held else 2)
    for key in (
        "head_dim",
        "n_routed_experts",
        "n_shared_experts",
        "moe_intermediate_size",
        "num_experts",
        "topk_group",
        "num_experts_per_tok",
        "n_group",
    ):
        if key in held and held[key] is None:
            _set(config, key, SIZES[key])
    rope = held.get("rope_parameters")
    for parameters in [rope, *rope.values()] if isinstance(rope, dict) else []:
        if isinstance(parameters, dict):
            _fit(parameters, held)
    return config


def _set(config: Any, key: str, value: Any) -> None:
    with contextlib.suppress(
        AttributeError, ValueError, TypeError
    ):  # a property, or a value that must agree with others
        setattr(config, key, value)


def _cut(values: list[Any]) -> list[Any]:
    """As many as there are layers, of different kinds where there are any."""
    kinds = list(dict.fromkeys(v for v in values if isinstance(v, str)))
    return (kinds[:LAYERS] + values)[:LAYERS] if len(kinds) > 1 else values[:LAYERS]


def _fit(parameters: dict[str, Any], config: dict[str, Any]) -> None:
    dim = config.get("head_dim") or HEAD_DIM
    planes = int(dim * (parameters.get("partial_rotary_factor") or 1.0)) // 2
    for key in ("short_factor", "long_factor"):
        if key in parameters:
            parameters[key] = (parameters[key] * planes)[:planes]
    if (
        "rope_theta" in parameters and "mrope" not in parameters
    ):  # modeling files have defaults of their own, for larger heads
        third = planes // 3
        parameters.setdefault("mrope_section", [planes - 2 * third, third, third])
    for key in ("mrope_section", "xdrope_section"):
        if parameters.get(key):
            count = len(parameters[key])
            parts = [-(-planes // count)] * count  # some want the first two alike
            parts[-1] -= sum(parts) - planes
            parameters[key] = parts


def modeling(family: str) -> list[ModuleType]:
    found = []
    for path in sorted((FOLDER / family).glob("modeling_*.py")):
        found.append(importlib.import_module(f"transformers.models.{family}.{path.stem}"))
    return found


def candidates(family: str) -> Iterator[type]:
    """Model classes of a family, those that make text from text first, heads for other tasks last."""
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


CHOSEN = (
    *(
        "num_experts_per_tok",
        "num_experts_per_token",
        "num_selected_experts",
        "moe_topk",
        "moe_top_k",
        "moe_k",
        "top_k",
    ),
    "top_k_experts",
)


def build(kind: type, seed: int = 0, *, every_expert: bool = False) -> nn.Module:
    """A model of that class with random weights; every_expert: its routers choose all, so that no rounding changes the choice."""
    torch.manual_seed(seed)
    config = shrunk(kind.config_class())
    for key, value in recipes.SIZES.get(_family(kind), {}).items():
        part = getattr(config, key, None)
        if isinstance(part, transformers.PreTrainedConfig):
            for name, size in value.items():
                _set(part, name, size)
        else:
            _set(config, key, value)
    if every_expert:
        for part in (config, *(v for v in vars(config).values() if isinstance(v, transformers.PreTrainedConfig))):
            for key in CHOSEN:
                if isinstance(vars(part).get(key), int):
                    _set(part, key, 4)
    config._attn_implementation = "eager"
    model = kind(config).eval().float()
    with torch.no_grad():  # norms of 1 and weights of 0.02 hardly attend: make what rotates matter
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
            elif not name.endswith("bias") and not parameter.any():  # temperatures and gates, which start closed
                parameter.fill_(0.5)
    return model


def _family(kind: type) -> str:
    return kind.__module__.split(".")[2]


def inputs(model: nn.Module, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Arguments to try, by the names of what its forward takes."""
    names = inspect.signature(model.forward).parameters
    given = recipes.INPUTS.get(_family(type(model)), dict)()
    if given and given.keys() <= names.keys():
        yield given
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
    """Families whose text has positions of several axes (M-RoPE), as it stands in their text."""
    return frozenset(
        family
        for family in families()
        if any("mrope_section" in path.read_text() for path in (FOLDER / family).glob("modeling_*.py"))
    )


def run(model: nn.Module, given: dict[str, Any]) -> Tensor:
    torch.manual_seed(2)
    extra = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    output = model(**given, **extra)
    values = output.to_tuple() if hasattr(output, "to_tuple") else output if isinstance(output, tuple) else (output,)
    return next(
        value for value in values if isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad
    )


def gradient(model: nn.Module, output: Tensor) -> Tensor:
    model.zero_grad()
    generator = torch.Generator().manual_seed(3)
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def bodies(family: str) -> dict[str, Body | str]:
    """Each function of a family's modeling files that is named as a rotation is, and what it does or why it is not known."""
    found: dict[str, Body | str] = {}
    for module in modeling(family):
        for name, value in vars(module).items():
            ours = isinstance(value, FunctionType) and value.__module__ == module.__name__
            if ours and re.search("rotary|rope|rot_", name) and len(inspect.signature(value).parameters) >= 3:
                found[name] = probe(value)
    return found
