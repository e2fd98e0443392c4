"""Megatron-LM's arguments and NeMo's model configs: rotary_base, rotary_percent, rotary_interleaved, use_rope_scaling, yarn_*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ..._checks import describe, flag
from ...scaling import Linear
from ...scaling.by_parts import mscale
from ..names import Contradiction, same
from ..widths import MOST_LAYERS, first_integer
from .dialect import Config, Dialect, Spelled, check_read, integer, keys, real, respelled, switch

_INTERPOLATION = ("seq_len_interpolation_factor", "rotary_seq_len_interpolation_factor")
_SHARE = frozenset({"rotary_percent", "rotary_percentage", *_INTERPOLATION})
_SWITCHED = keys("use_rope_scaling rope_scaling rope_scaling_factor")
_NEMO = keys("scale_factor low_freq_factor high_freq_factor old_context_len")
_YARN_FIELDS = keys("rotary_scaling_factor original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim")
_PREFIXED = frozenset(f"yarn_{key}" for key in _YARN_FIELDS) | {"yarn_correction_range_round_to_int"}
_ABOUT_SCHEMES = _SHARE | _SWITCHED | _NEMO | _YARN_FIELDS | _PREFIXED
_KEYS = _ABOUT_SCHEMES | keys(
    "rotary_base rotary_interleaved use_rotary_position_embeddings position_embedding_type rope_type no_rope_freq apply_rope_fusion "
    "fused_single_qkv_rope"
)
_ARGUMENTS = ("rotary_scaling_factor", "mscale", "mscale_all_dim")
"""Fields of YaRN without MLA that Megatron-LM's arguments have without the prefix (training/argument_utils.py)."""
_IDLE: dict[str, tuple[Any, ...]] = {
    "rotary_percent": (1,),
    "rotary_percentage": (1,),
    "rotary_scaling_factor": (1,),
    "mscale": (1,),
    "mscale_all_dim": (0,),
    "use_rope_scaling": (False,),
    "rope_scaling": (False,),
    "rope_scaling_factor": (1, 8),
    "yarn_correction_range_round_to_int": (True,),
    **dict.fromkeys(_INTERPOLATION, (1,)),
}
"""Defaults of Megatron-LM's arguments (training/arguments.py), which a dump of them has whatever the scheme is."""
_IDLE_IN_MLA = _IDLE | {
    "rotary_scaling_factor": (1, 40),
    "original_max_position_embeddings": (4096,),
    "beta_fast": (32,),
    "beta_slow": (1,),
}
"""The same with the defaults of MLATransformerConfig (core/transformer/transformer_config.py)."""
_OWN = {
    "rotary_base",
    "rotary_percent",
    "rotary_interleaved",
    "use_rope_scaling",
    "use_rotary_position_embeddings",
    *_INTERPOLATION,
}
_SCALED = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _recognises(config: Config) -> bool:
    if config.get("model_type") is not None or "n_embd" in config:
        return False
    mla = config.get("multi_latent_attention") is not None and "rotary_scaling_factor" in config
    return mla or not _OWN.isdisjoint(config) or "rotary_percentage" in config


def _translate(config: Config) -> Spelled:
    mla = switch(config, "multi_latent_attention")
    scheme = _selected(config, mla)
    interleaved = switch(config, "rotary_interleaved")
    if interleaved and (mla or scheme == "yarn"):
        raise ValueError(
            f"rotary_interleaved with {'multi_latent_attention' if mla else 'YaRN'}, which Megatron-LM refuses; remove one of them"
        )
    rope = _READ_BY[scheme](config)
    share = same(
        "rotary_percent", config.get("rotary_percent"), config.get("rotary_percentage"), "config", "rotary_percentage"
    )
    share = real({"rotary_percent": share}, "rotary_percent", 1.0)
    new: Config = {"rope_theta": real(config, "rotary_base", 10000.0), "rope_scaling": rope}
    notes: tuple[str, ...] = ()
    drop = _KEYS | {"kv_channels"}
    width = first_integer(config, "qk_pos_emb_head_dim") or 64
    if scheme == "rope of MLA" and share != 1.0:
        drop |= {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"}
        new |= {"partial_rotary_factor": share, "head_dim": width}
        notes = (f"only the slice of qk_pos_emb_head_dim = {width} channels rotates; pass that slice to rotate()",)
    elif mla:
        new["qk_rope_head_dim"] = width
    else:
        new |= {"partial_rotary_factor": share, "head_dim": config.get("kv_channels")}
    spelled = respelled(config, drop, no_rope_layers=_layers(config), num_hidden_layers=config.get("num_layers"), **new)
    factors = [real(config, key) for key in _INTERPOLATION if config.get(key) is not None]
    if len(set(map(str, factors))) > 1:
        raise Contradiction(f"conflicting {' and '.join(_INTERPOLATION)}: {factors}; keep one")
    return Spelled(
        spelled,
        interleaved=mla or interleaved,
        schemes=(Linear(factors[0]),) if factors and factors[0] != 1 else (),
        notes=notes,
    )


def _selected(config: Config, mla: bool) -> str:
    """The scheme that the switches of a config select, a key of _READ_BY. ValueError for a rotation that Megatron-LM does not have."""
    embedding = config.get("position_embedding_type", "rope")
    if switch(config, "use_rotary_position_embeddings"):
        embedding = "rope"
    if embedding not in ("rope", "yarn"):
        raise ValueError(
            f"position_embedding_type is {describe(embedding)}: this model has no rotation that RotaryEmbedding makes"
        )
    rope_type = config.get("rope_type")
    if rope_type not in (None, "rope", "yarn"):
        raise ValueError(f"rope_type must be 'rope' or 'yarn' in Megatron-LM, got {describe(rope_type)}")
    if mla:
        if rope_type == "rope" and embedding == "yarn":
            raise Contradiction(
                "rope_type 'rope' contradicts position_embedding_type 'yarn' with multi_latent_attention; keep one"
            )
        return "rope of MLA" if rope_type == "rope" else "yarn of MLA"
    if rope_type == "yarn":
        raise ValueError(
            "rope_type 'yarn' is for multi_latent_attention in Megatron-LM; write position_embedding_type: yarn"
        )
    if embedding == "yarn":
        return "yarn"
    if config.get("scale_factor") is not None:
        return "scale_factor"
    chosen = same(
        "use_rope_scaling", config.get("use_rope_scaling"), config.get("rope_scaling"), "config", "rope_scaling"
    )
    if chosen is None and config.get("rope_scaling_factor") is not None:
        raise ValueError(
            "rope_scaling_factor has no effect without use_rope_scaling; write use_rope_scaling: true or false"
        )
    return "use_rope_scaling" if chosen is not None and flag("use_rope_scaling", chosen) else "rope"


def _rope(config: Config) -> Config:
    check_read(config, _ABOUT_SCHEMES, _SHARE, "position_embedding_type rope", _IDLE)
    return {"rope_type": "default"}


def _rope_of_mla(config: Config) -> Config:
    check_read(config, _ABOUT_SCHEMES, _SHARE - set(_INTERPOLATION), "rope_type rope of MLA", _IDLE_IN_MLA)
    return {"rope_type": "default"}


def _llama3(config: Config) -> Config:
    """The scheme of Megatron-LM's use_rope_scaling, whose other numbers its code fixes."""
    check_read(config, _ABOUT_SCHEMES, _SHARE | _SWITCHED, "use_rope_scaling", _IDLE)
    return _SCALED | {"factor": real(config, "rope_scaling_factor", 8.0)}


def _llama3_of_nemo(config: Config) -> Config:
    """The scheme of NeMo's Llama31Config (collections/llm/gpt/model/llama.py)."""
    check_read(config, _ABOUT_SCHEMES, _SHARE | _NEMO, "scale_factor", _IDLE)
    return {
        "rope_type": "llama3",
        "factor": real(config, "scale_factor"),
        "low_freq_factor": real(config, "low_freq_factor"),
        "high_freq_factor": real(config, "high_freq_factor"),
        "original_max_position_embeddings": integer(config, "old_context_len"),
    }


def _yarn(config: Config) -> Config:
    """YaRN of position_embedding_type: over all of kv_channels, without the keys of interpolation."""
    check_read(config, _ABOUT_SCHEMES, _PREFIXED | frozenset(_ARGUMENTS), "position_embedding_type yarn", _IDLE)
    fields = {key: config.get(f"yarn_{key}") for key in _YARN_FIELDS}
    for key in _ARGUMENTS:
        if config.get(key) is not None and (fields[key] is None or config[key] not in _IDLE[key]):
            fields[key] = same(f"yarn_{key}", fields[key], config[key], "config", key)
    rope = _yarn_of(fields, "yarn_")
    if config.get("yarn_correction_range_round_to_int") is not None:
        rope["truncate"] = config["yarn_correction_range_round_to_int"]
    return rope


def _yarn_of_mla(config: Config) -> Config:
    check_read(config, _ABOUT_SCHEMES, _YARN_FIELDS, "YaRN of multi_latent_attention", _IDLE)
    fields = {key: config.get(key) for key in _YARN_FIELDS}
    rope = _yarn_of(fields | {"rotary_scaling_factor": real(fields, "rotary_scaling_factor", 40.0)}, "")
    if fields["mscale_all_dim"]:  # of the temperature of MLA's softmax; the attention factor is that of cos and sin
        rope["mscale_all_dim"] = fields["mscale_all_dim"]
    return rope


def _yarn_of(fields: Config, prefix: str) -> Config:
    """rope_scaling of YaRN. prefix: of the keys, for messages."""
    factor = real(fields, "rotary_scaling_factor", name=f"{prefix}rotary_scaling_factor")
    first = real(fields, "mscale", 1.0, f"{prefix}mscale", at_least=0.0)
    all_dim = real(fields, "mscale_all_dim", 0.0, f"{prefix}mscale_all_dim", at_least=0.0)
    window = fields["original_max_position_embeddings"]
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": 4096 if window is None else window,
        "beta_fast": real(fields, "beta_fast", 32.0, f"{prefix}beta_fast"),
        "beta_slow": real(fields, "beta_slow", 1.0, f"{prefix}beta_slow"),
        "attention_factor": mscale(factor, first) / mscale(factor, all_dim),
    }


_READ_BY: dict[str, Callable[[Config], Config]] = {
    "rope": _rope,
    "rope of MLA": _rope_of_mla,
    "use_rope_scaling": _llama3,
    "scale_factor": _llama3_of_nemo,
    "yarn": _yarn,
    "yarn of MLA": _yarn_of_mla,
}
"""What a config selects -> the function that makes rope_scaling from it, and refuses every key about schemes that it does not read."""


def _layers(config: Config) -> list[int] | None:
    """no_rope_freq as no_rope_layers, which has 1 for a layer that rotates. A number N means that every N-th layer does not rotate."""
    frequency: Any = config.get("no_rope_freq")
    if frequency is None:
        return None
    if isinstance(frequency, list | tuple):
        pattern = cast("list[Any]", frequency)
        if any(unrotated not in (0, 1) for unrotated in pattern):
            raise TypeError(f"no_rope_freq must have 0 or 1 for each layer, got {describe(frequency)}")
        return [1 - int(unrotated) for unrotated in pattern]
    layers = first_integer(config, "num_layers", most=MOST_LAYERS)
    if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1 or layers is None:
        raise ValueError(
            f"no_rope_freq must be a list or, with num_layers, an integer >= 1; got {describe(frequency)} and {describe(layers)}"
        )
    return [int((layer + 1) % frequency != 0) for layer in range(layers)]


MEGATRON = Dialect(
    "Megatron-LM or NeMo",
    "NVIDIA/Megatron-LM, megatron/training/arguments.py, megatron/core/models/common/embeddings/{rotary,yarn_rotary}_pos_embedding.py, "
    "megatron/core/transformer/{transformer_config,multi_latent_attention}.py",
    _recognises,
    _KEYS,
    _translate,
    stems=("rotary", "rope", "yarn", "seq_len_interpolation"),
)
