"""Every model family of transformers that defines a rotation, built small from its own config with random weights, offline.

`python tests/model_families.py` runs them all, patched against unpatched, and rewrites the table of docs/models.md.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from rotary.transformers import Body, Handle, patch, probe

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


# What the rule cannot know: which layers attend, and sizes that go together.
RECIPES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [0, 1]},
    "granitemoehybrid": {"layers_block_type": ["attention", "attention"], "layer_types": ["attention", "attention"],
                         "position_embedding_type": "rope", "num_local_experts": 4},
    "jamba": {"attn_layer_period": 1, "attn_layer_offset": 0},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1},
    "zamba2": {"use_mem_rope": True, "layers_block_type": ["hybrid", "hybrid"], "hybrid_layer_ids": [0, 1], "attention_hidden_size": 128,
               "attention_head_dim": 32, "mamba_headdim": 32, "n_mamba_heads": 4, "mamba_ngroups": 1, "num_key_value_heads": 4},
    "esm": {"position_embedding_type": "rotary", "vocab_size": 99, "pad_token_id": 1, "mask_token_id": 2},
    "esmc": {"d_model": 64, "n_heads": 4},
    "step3p7": {"sliding_window": 8},
    "wav2vec2_conformer": {"position_embeddings_type": "rotary"},
    "wav2vec2_bert": {"position_embeddings_type": "rotary", "feature_projection_input_dim": 16},
    "seamless_m4t": {"position_embeddings_type": "rotary"},
    "longcat_flash": {"qk_head_dim": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "num_layers": 2, "zero_expert_num": 2},
    "mistral4": {"qk_head_dim": 32, "head_dim": 32},
    "dots3_note": {"head_dim": 16},
    "bailing_hybrid": {"v_head_dim": 16, "group_norm_size": 1},
    "nemotron_h": {"layers_block_type": ["attention", "attention"], "hybrid_override_pattern": "**"},
}  # fmt: skip


class Outcome(NamedTuple):
    """What became of one family. error: relative, of outputs and of the gradient vector; reason: where it does not count."""

    family: str
    model: str = ""
    bodies: tuple[Body, ...] = ()
    calls: int = 0
    logits: float = 0.0
    gradient: float = 0.0
    reason: str = ""


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
        and re.search(r"For(?!CausalLM|ConditionalGeneration)[A-Z]", kind.__name__) is None
    ]
    yield from sorted(kinds, key=lambda kind: next(i for i, end in enumerate(order) if kind.__name__.endswith(end)))


def build(kind: type) -> nn.Module:
    torch.manual_seed(0)
    config = shrunk(kind.config_class())
    for key, value in RECIPES.get(kind.__module__.split(".")[2], {}).items():
        _set(config, key, value)
    config._attn_implementation = "eager"
    model = kind(config).eval().float()
    with torch.no_grad():  # norms of 1 and weights of 0.02 hardly attend: make what rotates matter
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
    return model


def inputs(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Arguments to try, by the names of what its forward takes."""
    names = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY - 3, (2, TOKENS), generator=generator)
    embeds = torch.randn(2, TOKENS, HIDDEN, generator=generator)
    positions = torch.arange(TOKENS)[None].expand(2, -1)
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


def off(a: Tensor, b: Tensor) -> float:
    """Relative distance of b from a."""
    return float((a.double() - b.double()).norm() / a.double().norm().clamp(min=1e-30))


def compare(model: nn.Module, given: dict[str, Any]) -> tuple[Handle, float, float, float]:
    """(handle, error of outputs, of the gradient, what negated angles change), patched against unpatched."""
    expected = run(model, given)
    wanted = gradient(model, expected)
    with patch(model) as handle:
        output = run(model, given)
        found = gradient(model, output)
        for replacement in handle.replacements:
            replacement.body = replace(replacement.body, conjugate=not replacement.body.conjugate)
        negated = run(model, given)
    return handle, off(expected, output), off(wanted, found), off(expected, negated)


def outcome(family: str) -> Outcome:
    """The first model of a family that builds, runs, rotates through our kernels, and is changed by negated angles."""
    reasons: list[str] = []
    for kind in candidates(family):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = build(kind)
        except Exception as error:
            reasons.append(f"{kind.__name__} is not built from its default config made small: {_brief(error)}")
            continue
        for given in inputs(model):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    handle, logits, grads, negated = compare(model, given)
            except Exception as error:
                reasons.append(f"{kind.__name__}({', '.join(given)}): {_brief(error)}")
                continue
            bodies = tuple(dict.fromkeys(body for *_, body in handle.report().replaced if isinstance(body, Body)))
            if not handle.calls:
                reasons.append(f"{kind.__name__}({', '.join(given)}): its rotation was never called through a kernel")
            elif not negated >= 1e-4:
                reasons.append(
                    f"{kind.__name__}({', '.join(given)}): so small it hardly rotates, negated angles change {negated:.1g}"
                )
            else:
                return Outcome(family, kind.__name__, bodies, handle.calls, logits, grads)
    return Outcome(family, reason=_telling(reasons))


def _telling(reasons: list[str]) -> str:
    for words in ("never called", "hardly rotates", "nothing in", ""):
        for reason in reasons:
            if words in reason:
                return reason
    return "no model class with a config of its own"


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"


def bodies(family: str) -> dict[str, Body | str]:
    """Each function of a family's modeling files that is named as a rotation is, and what it does or why it is not known."""
    found: dict[str, Body | str] = {}
    for module in modeling(family):
        for name, value in vars(module).items():
            ours = isinstance(value, FunctionType) and value.__module__ == module.__name__
            if ours and re.search("rotary|rope|rot_", name) and len(inspect.signature(value).parameters) >= 3:
                found[name] = probe(value)
    return found


Progress = Callable[[str], None]


def walk(progress: Progress = lambda line: None) -> list[Outcome]:
    transformers.logging.set_verbosity_error()
    found = []
    for family in families():
        found.append(outcome(family))
        progress(f"{family:32} {found[-1].model or found[-1].reason}")
    return found


PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- made by tests/model_families.py -->\n", "<!-- end -->"
LIMIT = 1e-5


def passes(found: Outcome) -> bool:
    return not found.reason and found.logits <= LIMIT and found.gradient <= LIMIT


def tables(results: list[Outcome]) -> str:
    """The page's tables."""
    counted: dict[str, list[str]] = {}
    unknown: list[str] = []
    for family in families():
        for name, body in bodies(family).items():
            if isinstance(body, str):
                unknown.append(f"| {family}.{name} | {body} |")
            else:
                counted.setdefault(str(body), []).append(family)
    lines = [f"{sum(map(passes, results))} of {len(results)} families pass.", ""]
    lines += [
        "| family | model | what it does | output, relative | gradient, relative |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    lines += [
        f"| {r.family} | {r.model} | {'; '.join(map(str, r.bodies))} | {r.logits:.1e} | {r.gradient:.1e} |"
        for r in results
        if not r.reason
    ]
    lines += [
        "",
        f"{sum(bool(r.reason) for r in results)} are not shown to pass:",
        "",
        "| family | why |",
        "| --- | --- |",
    ]
    lines += [f"| {r.family} | {r.reason.replace('|', '/')} |" for r in results if r.reason]
    lines += [
        "",
        "What the functions do, by what they were seen to do:",
        "",
        "| body | functions | families |",
        "| --- | ---: | --- |",
    ]
    lines += [
        f"| {body} | {len(names)} | {', '.join(dict.fromkeys(names)) if len(names) <= 12 else 'llama and many more'} |"
        for body, names in sorted(counted.items(), key=lambda item: -len(item[1]))
    ]
    lines += [
        "",
        "Functions that are not known, and are left alone:",
        "",
        "| function | why |",
        "| --- | --- |",
        *unknown,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = walk(lambda line: print(line, flush=True))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(results) + END + rest.partition(END)[2], encoding="utf-8")
    print(f"{sum(map(passes, results))} of {len(results)} families pass")
