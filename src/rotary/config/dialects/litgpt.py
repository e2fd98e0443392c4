"""LitGPT's Config, as a dict or as the model_config.yaml of its checkpoints."""

from __future__ import annotations

from ..._checks import describe
from ...scaling import Linear
from ...scaling.by_parts import mscale
from .dialect import Config, Dialect, Spelled, block, check_read, keys, only, real, respelled

_KEYS = keys(
    "rope_base rotary_percentage rope_condense_ratio rope_adjustments rope_adjustments/* rope_interleave rope_local_base_freq "
    "rope_indices latent_attention/qk_rope_head_dim latent_attention/qk_nope_head_dim"
)
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len")
_YARN = ("factor", "beta_fast", "beta_slow", "original_max_seq_len", "mscale", "mscale_all_dim")


def _recognises(config: Config) -> bool:
    if config.get("model_type") is not None:
        return False
    own = {"rope_base", "rotary_percentage", "rope_condense_ratio", "rope_adjustments"}
    return "n_embd" in config and (not own.isdisjoint(config) or {"block_size", "norm_class_name"} <= config.keys())


def _adjusted(config: Config) -> tuple[Config, tuple[str, ...]]:
    """rope_scaling for rope_adjustments, with notes."""
    adjustments = block(config, "rope_adjustments")
    if not adjustments:
        return {"rope_type": "default"}, ()
    factor = real(adjustments, "factor", name="rope_adjustments.factor")
    if "low_freq_factor" in adjustments or "high_freq_factor" in adjustments:
        only(adjustments, "rope_adjustments", *_LLAMA3)
        window = {"original_max_position_embeddings": _required(adjustments, "original_max_seq_len")}
        return {"rope_type": "llama3", "factor": factor} | window | {
            key: _required(adjustments, key) for key in _LLAMA3[1:3]
        }, ()
    if "beta_fast" in adjustments or "beta_slow" in adjustments:
        only(adjustments, "rope_adjustments", *_YARN)
        first, second = (
            real(adjustments, key, 0.0, f"rope_adjustments.{key}", at_least=0.0) for key in ("mscale", "mscale_all_dim")
        )
        # litgpt/model.py, build_rope_cache: cos and sin are multiplied by m(mscale) / m(mscale_all_dim), by the one m of a key that is
        # alone, and without either by nothing: not by YaRN's 0.1 ln factor + 1.
        amplitude = 1.0
        if first or second:
            amplitude = mscale(factor, first or second or 1.0) / (mscale(factor, second) if first and second else 1.0)
        rope = {"rope_type": "yarn", "factor": factor, "attention_factor": amplitude}
        rope |= {key: _required(adjustments, key) for key in ("beta_fast", "beta_slow")}
        note = (
            "read as YaRN, which the checkpoint was trained with; LitGPT's own build_rope_cache blends the two spectra the other way "
            "round (litgpt/model.py, 2025)"
        )
        return rope | {"original_max_position_embeddings": _required(adjustments, "original_max_seq_len")}, (note,)
    only(adjustments, "rope_adjustments", "factor")
    return {"rope_type": "linear", "factor": factor}, ()


def _required(adjustments: Config, key: str) -> object:
    if adjustments.get(key) is None:
        raise ValueError(f"missing rope_adjustments.{key}")
    return adjustments[key]


def _translate(config: Config) -> Spelled:
    rope, notes = _adjusted(config)
    base, share = real(config, "rope_base", 10000.0), real(config, "rotary_percentage", 0.25)
    condense = real(config, "rope_condense_ratio", 1.0)
    new: Config = {"rope_theta": base, "rope_scaling": rope, "partial_rotary_factor": share}
    drop = _KEYS | {"head_size", "block_size", "n_layer"}
    local = config.get("rope_local_base_freq")
    if local is None:
        check_read(config, {"rope_indices"}, (), "one base; rope_local_base_freq is that of the second", {})
    else:
        share_of_all = {"partial_rotary_factor": share}
        sliding = {"rope_type": "default", "rope_theta": real(config, "rope_local_base_freq")} | share_of_all
        new = {
            "rope_parameters": {
                "full_attention": rope | {"rope_theta": base} | share_of_all,
                "sliding_attention": sliding,
            }
        }
        notes = (
            *notes,
            f"layers whose rope_indices {describe(config.get('rope_indices'))} is 1 are sliding_attention, the others full_attention",
        )
    latent = block(config, "latent_attention")
    if latent:
        check_read(config, {"rotary_percentage"}, (), "latent_attention", {"rotary_percentage": (0.25, 1)})
        new["qk_rope_head_dim"] = latent.get("qk_rope_head_dim")
        new.pop("partial_rotary_factor", None)
    elif config.get("head_size") is not None:
        new["head_dim"] = config["head_size"]
    interleave = config.get("rope_interleave")
    spelled = respelled(
        config, drop, max_position_embeddings=config.get("block_size"), num_hidden_layers=config.get("n_layer"), **new
    )
    return Spelled(
        spelled if interleave is None else spelled | {"rope_interleave": interleave},
        interleaved=False if interleave is None else None,
        schemes=() if condense == 1.0 else (Linear(condense),),
        notes=notes,
    )


LITGPT = Dialect(
    "LitGPT",
    "Lightning-AI/litgpt, litgpt/config.py and litgpt/model.py (build_rope_cache)",
    _recognises,
    _KEYS,
    _translate,
    stems=("rope", "rotary", "condense"),
)
