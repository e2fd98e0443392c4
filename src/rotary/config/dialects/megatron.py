"""Megatron-LM's arguments and NeMo's model configs: rotary_base, rotary_percent, rotary_interleaved, use_rope_scaling, yarn_*."""

from __future__ import annotations

from typing import Any

from ..._checks import describe, flag
from ...scaling import Linear
from ...scaling.by_parts import mscale
from ..names import Contradiction, same
from .dialect import Config, Dialect, Spelled, keys, real, respelled

_INTERPOLATION = ("seq_len_interpolation_factor", "rotary_seq_len_interpolation_factor")
_KEYS = keys(
    "rotary_base rotary_percent rotary_percentage rotary_interleaved seq_len_interpolation_factor use_rope_scaling rope_scaling "
    "rotary_seq_len_interpolation_factor rope_scaling_factor use_rotary_position_embeddings position_embedding_type rope_type "
    "rotary_scaling_factor original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim no_rope_freq apply_rope_fusion "
    "fused_single_qkv_rope yarn_rotary_scaling_factor yarn_original_max_position_embeddings yarn_beta_fast yarn_beta_slow yarn_mscale "
    "yarn_mscale_all_dim yarn_correction_range_round_to_int scale_factor low_freq_factor high_freq_factor old_context_len"
)
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
    mla = bool(config.get("multi_latent_attention"))
    embedding = config.get("position_embedding_type", "rope")
    if config.get("use_rotary_position_embeddings"):
        embedding = "rope"
    if embedding not in ("rope", "yarn"):
        raise ValueError(
            f"position_embedding_type is {describe(embedding)}: this model has no rotation that RotaryEmbedding makes"
        )
    share = same(
        "rotary_percent", config.get("rotary_percent"), config.get("rotary_percentage"), "config", "rotary_percentage"
    )
    share = 1.0 if share is None else real({"rotary_percent": share}, "rotary_percent")
    interleaved = config.get("rotary_interleaved")
    new: Config = {"rope_theta": real(config, "rotary_base", 10000.0), "rope_scaling": _scheme(config, embedding, mla)}
    if mla:
        new["qk_rope_head_dim"] = config.get("qk_pos_emb_head_dim", 64)
        if interleaved:
            raise ValueError(
                "rotary_interleaved with multi_latent_attention, which Megatron-LM refuses; remove one of them"
            )
    else:
        new |= {"partial_rotary_factor": share, "head_dim": config.get("kv_channels")}
    layers = _layers(config)
    spelled = respelled(
        config, _KEYS | {"kv_channels"}, no_rope_layers=layers, num_hidden_layers=config.get("num_layers"), **new
    )
    factors = [real(config, key) for key in _INTERPOLATION if config.get(key) is not None]
    if len(set(map(str, factors))) > 1:
        raise Contradiction(f"conflicting {' and '.join(_INTERPOLATION)}: {factors}; keep one")
    return Spelled(
        spelled,
        interleaved=mla or (interleaved is not None and flag("rotary_interleaved", interleaved)),
        schemes=(Linear(factors[0]),) if factors and factors[0] != 1 else (),
    )


def _scheme(config: Config, embedding: str, mla: bool) -> Config:
    """rope_scaling: YaRN in MLA and where position_embedding_type is yarn, Llama 3's where use_rope_scaling is true."""
    if mla and config.get("rope_type", "yarn") == "yarn":
        return _yarn(config, "", 40.0, "rotary_scaling_factor")
    if embedding == "yarn":
        return _yarn(config, "yarn_", None, "yarn_rotary_scaling_factor")
    switch: Any = same(
        "use_rope_scaling", config.get("use_rope_scaling"), config.get("rope_scaling"), "config", "rope_scaling"
    )
    if switch is None and config.get("rope_scaling_factor") is not None:
        raise ValueError(
            "rope_scaling_factor has no effect without use_rope_scaling; write use_rope_scaling: true or false"
        )
    unused = [
        key for key in ("rotary_scaling_factor", "beta_fast", "beta_slow", "mscale") if config.get(key) is not None
    ]
    unused += [key for key in config if key.startswith("yarn_") and config[key] is not None]
    if config.get("scale_factor") is None:
        unused += [
            key for key in ("low_freq_factor", "high_freq_factor", "old_context_len") if config.get(key) is not None
        ]
    if unused:
        raise ValueError(
            f"{unused[0]} ({describe(config[unused[0]])}) belongs to a scheme that this config does not select; remove it, or write "
            f"position_embedding_type: yarn, or scale_factor"
        )
    if config.get("scale_factor") is not None:  # NeMo, collections/llm/gpt/model/llama.py, Llama31Config
        keys_of = {
            "factor": "scale_factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
        }
        window = {"original_max_position_embeddings": int(real(config, "old_context_len"))}
        return {"rope_type": "llama3"} | {name: real(config, key) for name, key in keys_of.items()} | window
    if switch is None or not flag("use_rope_scaling", switch):
        return {"rope_type": "default"}
    return _SCALED | {"factor": real(config, "rope_scaling_factor", 8.0)}


def _yarn(config: Config, prefix: str, factor: float | None, name: str) -> Config:
    factor = real(config, name, factor)
    window = config.get(f"{prefix}original_max_position_embeddings")
    all_dim = config.get(f"{prefix}mscale_all_dim") or 0.0
    rope: Config = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": 4096 if window is None else window,
    }
    rope |= {key: real(config, f"{prefix}{key}", default) for key, default in (("beta_fast", 32.0), ("beta_slow", 1.0))}
    first = config.get(f"{prefix}mscale")
    rope["attention_factor"] = mscale(factor, 1.0 if first is None else first) / mscale(factor, all_dim)
    if all_dim and not prefix:
        rope["mscale_all_dim"] = (
            all_dim  # for the temperature of MLA's softmax; attention_factor above is that of cos and sin
        )
    if config.get("yarn_correction_range_round_to_int") is not None:
        rope["truncate"] = config["yarn_correction_range_round_to_int"]
    return rope


def _layers(config: Config) -> list[int] | None:
    """no_rope_freq as no_rope_layers, which has 1 for a layer that rotates. A number N means that every N-th layer does not rotate."""
    frequency, layers = config.get("no_rope_freq"), config.get("num_layers")
    if frequency is None:
        return None
    if isinstance(frequency, list):
        return [1 - int(bool(unrotated)) for unrotated in frequency]
    if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1 or not isinstance(layers, int):
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
