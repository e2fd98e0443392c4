"""GGUF metadata: a dict of plain values, as ReaderField.contents() of the gguf package gives them, or a .gguf file.

Three tensors belong to the rotation: rope_freqs.weight (Llama 3.1) and rope_factors_long/short.weight (LongRoPE). Reading a file adds
them to the metadata as lists under these names; a dict may have them too, with None for a tensor that the file does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from ..._checks import describe
from ...scaling import Gains, Scheme
from ...scaling.by_parts import mscale
from ..names import Contradiction, same
from .dialect import Config, Dialect, Spelled, check_read, keys, numbers_of, real, respelled
from .gguf_pairing import (
    EVERY_FOURTH_UNROTATED,
    FULL_UNROTATED,
    LOCAL_BASE,
    NEOX,
    NONE,
    NORM,
    SECTIONS,
    SLIDING_UNSCALED,
    TWO_WIDTHS,
)

TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_ROPE = keys(
    "dimension_count dimension_count_swa dimension_sections freq_base freq_base_swa scale_linear scaling.type scaling.factor scaling.alpha "
    "scaling.attn_factor scaling.original_context_length scaling.finetuned scaling.yarn_log_multiplier scaling.yarn_ext_factor "
    "scaling.yarn_attn_factor scaling.yarn_beta_fast scaling.yarn_beta_slow"
)
_TENTHS = {"deepseek2", "deepseek2-ocr", "deepseek32", "glm-dsa"}
"""Architectures whose yarn_log_multiplier is a tenth of mscale_all_dim."""
_LLAMA3_BASE = {500000.0: 8192}
"""Base -> the longest context of models of architecture llama that have this base and no scaling; Llama 3.1 adds a tensor."""

_SCALING = frozenset(key for key in _ROPE if key.startswith("scaling."))
_LENGTHS = {"scaling.type", "scaling.original_context_length", "scaling.finetuned"}
"""Keys of scaling that describe a model and change no angle."""
_FACTORS = {"scaling.factor", "scale_linear"}


def _arch(config: Config) -> str | None:
    arch = config.get("general.architecture")
    return arch if isinstance(arch, str) else None


def _owned(config: Config) -> frozenset[str]:
    """The keys about rotation of the config's architecture."""
    arch = _arch(config)
    return frozenset({*TENSORS, *(f"{arch}.rope.{key}" for key in _ROPE)})


def _translate(config: Config) -> Spelled:
    arch = _arch(config)
    if arch is None:
        raise ValueError("missing general.architecture, which names the other keys")
    rope = {
        key.removeprefix(f"{arch}.rope."): value for key, value in config.items() if key.startswith(f"{arch}.rope.")
    }
    metadata = {key.removeprefix(f"{arch}."): value for key, value in config.items() if key.startswith(f"{arch}.")}
    if arch in NONE or arch in SECTIONS or rope.get("dimension_sections") or arch in TWO_WIDTHS:
        why = "it does not rotate" if arch in NONE else "its planes are divided among several coordinates (M-RoPE)"
        why = "its two layer types have heads of different widths; read its config.json" if arch in TWO_WIDTHS else why
        raise ValueError(f"GGUF architecture {arch!r} is refused: {why}")
    notes: list[str] = []
    head_dim, dim = _widths(rope, metadata)
    scheme = _scheme(arch, rope, metadata, config, notes)
    base = real(rope, "freq_base", 10000.0, f"{arch}.rope.freq_base")
    new: Config = {
        "max_position_embeddings": metadata.get("context_length"),
        "num_hidden_layers": metadata.get("block_count"),
        "hidden_size": metadata.get("embedding_length"),
        "sliding_window": metadata.get("attention.sliding_window"),
    }
    if metadata.get("attention.kv_lora_rank") is not None:
        new["qk_rope_head_dim"] = dim
    else:
        new |= {"head_dim": head_dim, "rotary_dim": dim if dim != head_dim else None}
    local = rope.get("freq_base_swa", LOCAL_BASE.get(arch))
    if local is None and arch in SLIDING_UNSCALED and metadata.get("attention.sliding_window"):
        local = base
    for key, value in (("rope.dimension_count", dim), ("attention.key_length", head_dim)):
        sliding = metadata.get(f"{key}_swa")
        if sliding not in (None, value):
            raise ValueError(
                f"{arch}.{key}_swa {describe(sliding)} differs from {arch}.{key} {describe(value)}; read each kind of layer from a dict of "
                f"its own"
            )
    factors = _factors(arch, base, rope, metadata, config, notes)
    if local is not None and factors:
        raise ValueError(f"{TENSORS[0]} in an architecture with two bases: which layers it belongs to is not known")
    if local is not None:
        new["rope_parameters"] = {
            "full_attention": {**scheme, "rope_theta": base},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    else:
        new |= {"rope_theta": base, "rope_scaling": scheme}
    if arch in EVERY_FOURTH_UNROTATED:
        new |= {"no_rope_layers": [], "no_rope_layer_interval": 4, "attn_temperature_tuning": arch == "llama4"}
    if arch in FULL_UNROTATED and metadata.get("attention.sliding_window"):
        notes.append("layers of type 'full_attention' do not rotate")
    interleaved = True if arch in NORM else False if arch in NEOX else None
    unknown = "" if interleaved is not None else f"llama.cpp's pairing of GGUF architecture {arch!r} is not listed here"
    spelled = respelled({}, frozenset(), **new)
    return Spelled(spelled, interleaved, unknown, factors, tuple(notes))


def _widths(rope: Config, metadata: Config) -> tuple[int | None, int | None]:
    """(channels of a head, channels that turn)"""
    head_dim = metadata.get("attention.key_length")
    heads: Any = metadata.get("attention.head_count")
    if head_dim is None and isinstance(heads, int) and heads and isinstance(metadata.get("embedding_length"), int):
        head_dim = metadata["embedding_length"] // heads
    dim = rope.get("dimension_count")
    return head_dim, head_dim if dim is None else dim


def _scheme(arch: str, rope: Config, metadata: Config, config: Config, notes: list[str]) -> Config:
    """rope_scaling. llama.cpp takes "linear" for a missing type, and 1 for a missing factor or 0 (src/llama-model.cpp, load_hparams)."""
    scaling_type = rope.get("scaling.type")
    name = f"{arch}.rope.scaling.factor"
    stated = same(name, rope.get("scaling.factor"), rope.get("scale_linear"), "metadata", f"{arch}.rope.scale_linear")
    factor = real({"factor": stated}, "factor", 1.0, name, at_least=0.0) or 1.0
    window = rope.get("scaling.original_context_length")
    if config.get(TENSORS[1]) is not None or config.get(TENSORS[2]) is not None:
        _check_scaling(arch, rope, {"scaling.attn_factor"}, f"the tensors {TENSORS[1]} and {TENSORS[2]}")
        if scaling_type not in (None, "longrope", "linear", "none"):
            raise Contradiction(
                f"{arch}.rope.scaling.type {describe(scaling_type)} contradicts the tensors {TENSORS[1]} and {TENSORS[2]}"
            )
        return _longrope(rope, config)
    scaling_type = "linear" if scaling_type is None else scaling_type
    # A linear scaling by 1 with a trained window of its own is how LongRoPE's metadata looks to a reader that has no tensors.
    extended = window not in (None, metadata.get("context_length"))
    if scaling_type == "longrope" or (scaling_type == "linear" and factor == 1.0 and extended):
        raise ValueError(
            f"the factors of LongRoPE are tensors of the file, {TENSORS[1]} and {TENSORS[2]}, and this dict has none; pass the .gguf file"
        )
    if scaling_type == "yarn":
        _check_scaling(arch, rope, (_SCALING | _FACTORS) - {"scaling.alpha"}, "scaling.type 'yarn'")
        return _yarn(arch, rope, metadata, factor, notes)
    if scaling_type not in ("none", "linear"):
        raise ValueError(
            f"unknown {arch}.rope.scaling.type {describe(scaling_type)}; known: none, linear, yarn, longrope"
        )
    if rope.get(
        "scaling.alpha"
    ):  # whatever the type: Hunyuan's converter writes "none" (llama.cpp, src/models/hunyuan-vl.cpp)
        _check_scaling(arch, rope, {"scaling.alpha"}, "scaling.alpha")
        return {"rope_type": "dynamic", "alpha": real(rope, "scaling.alpha", name=f"{arch}.rope.scaling.alpha")}
    _check_scaling(arch, rope, _FACTORS if scaling_type == "linear" else set(), f"scaling.type {scaling_type!r}")
    return {"rope_type": "default"} if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _check_scaling(arch: str, rope: Config, read: Set[str], selected: str) -> None:
    """ValueError for a key of scaling that is not read; a factor of 0 or 1 changes nothing, and neither does an alpha of 0."""
    idle = dict.fromkeys((f"{arch}.rope.{key}" for key in _FACTORS), (0, 1)) | {f"{arch}.rope.scaling.alpha": (0,)}
    full = {f"{arch}.rope.{key}": value for key, value in rope.items()}
    check_read(
        full,
        (f"{arch}.rope.{key}" for key in (_SCALING | _FACTORS) - _LENGTHS),
        (f"{arch}.rope.{key}" for key in read),
        selected,
        idle,
    )


def _yarn(arch: str, rope: Config, metadata: Config, factor: float, notes: list[str]) -> Config:
    window = rope.get("scaling.original_context_length", metadata.get("context_length"))
    result: Config = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window}
    for key in ("beta_fast", "beta_slow"):
        if rope.get(f"scaling.yarn_{key}") is not None:
            result[key] = rope[f"scaling.yarn_{key}"]
    if rope.get("scaling.yarn_ext_factor", 1.0) not in (1, 1.0, -1, -1.0):
        raise ValueError(
            f"{arch}.rope.scaling.yarn_ext_factor must be 1, the only supported value, got "
            f"{describe(rope['scaling.yarn_ext_factor'])}"
        )
    amplitude = real(rope, "scaling.attn_factor", 1.0) * real(rope, "scaling.yarn_attn_factor", 1.0)
    log_multiplier = real(rope, "scaling.yarn_log_multiplier", 0.0)
    if log_multiplier and arch in _TENTHS:
        # The converter of DeepSeek's models writes 0.1 x mscale_all_dim (llama.cpp, convert_hf_to_gguf.py). With mscale equal to it cos and
        # sin have amplitude 1, and the softmax has the factor.
        result |= {"mscale": round(10 * log_multiplier, 6), "mscale_all_dim": round(10 * log_multiplier, 6)}
    elif log_multiplier:
        result["attention_factor"] = mscale(factor) / mscale(factor, log_multiplier)
    beta = metadata.get("attention.temperature_scale")
    if beta:
        length = metadata.get("attention.temperature_length")
        if length not in (None, window):
            raise Contradiction(
                f"{arch}.attention.temperature_length {describe(length)} differs from original_context_length {describe(window)}; "
                f"write one window as both"
            )
        result["llama_4_scaling_beta"] = beta
    if amplitude != 1.0:
        result["attn_factor"] = amplitude
    if arch == "gpt-oss":
        # openai/gpt-oss, gpt_oss/torch/model.py: the ramp ends between planes, for which the metadata has no key
        result["truncate"] = False
        notes.append(
            "truncate is False, as gpt-oss was trained; the metadata has no key for it, and llama.cpp rounds to whole planes"
        )
    return result


def _longrope(rope: Config, config: Config) -> Config:
    if config.get(TENSORS[1]) is None or config.get(TENSORS[2]) is None:
        raise ValueError(f"{TENSORS[1]} and {TENSORS[2]} belong together, and one is missing")
    window = rope.get("scaling.original_context_length")
    amplitude = real(rope, "scaling.attn_factor", 1.0)
    return {
        "rope_type": "longrope",
        "long_factor": numbers_of(config, TENSORS[1]),
        "short_factor": numbers_of(config, TENSORS[2]),
        "attention_factor": amplitude,
    } | {"original_max_position_embeddings": window}


def _factors(
    arch: str, base: float, rope: Config, metadata: Config, config: Config, notes: list[str]
) -> tuple[Scheme, ...]:
    """The scheme of rope_freqs.weight, which divides each frequency; ValueError where it is missing and needed."""
    if config.get(TENSORS[0]) is not None:
        return (Gains([1.0 / factor for factor in numbers_of(config, TENSORS[0])]),)
    if not config.keys().isdisjoint(TENSORS):
        return ()
    trained, longest = _LLAMA3_BASE.get(base), metadata.get("context_length")
    if (
        arch == "llama"
        and trained is not None
        and isinstance(longest, int)
        and longest > trained
        and "scaling.type" not in rope
    ):
        raise ValueError(
            f"context_length {longest:,} exceeds the {trained:,} tokens that Llama 3 was trained for with base {base:g}; "
            f"Llama 3.1 scales it by a tensor of the file, {TENSORS[0]}, and this dict has none; pass the .gguf file, or "
            f"{TENSORS[0]!r}: None where the file has no such tensor"
        )
    notes.append(f"read without the tensors of the file; pass the .gguf file if it has {', '.join(TENSORS)}")
    return ()


def dialect(config: Mapping[str, Any]) -> Dialect:
    """The dialect of GGUF with the keys of one architecture."""
    return Dialect(
        "GGUF",
        "ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, gguf-py/gguf/constants.py, src/llama-model.cpp, src/llama-context.cpp",
        recognises,
        _owned(dict(config)),
        _translate,
        stems=("rope",),
    )


def recognises(config: Config) -> bool:
    """Whether a config is GGUF metadata: it has general.architecture, or keys that end in .rope.freq_base and the like."""
    return "general.architecture" in config or any(".rope." in key for key in map(str, config))
