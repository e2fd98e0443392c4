"""Remote-code configs whose keys have names of their own.

Nomic, StableLM-epoch, OpenELM, Phi-3-small, Bamba, MiMo-V2-Flash, the first Phi-3-128k, Kimi-K2. The pairing is half, except that
NomicBERT's config states its own and Kimi-K2 is DeepSeek-V3, interleaved.
"""

from __future__ import annotations

from typing import Any

from ..._checks import describe, flag
from ..names import Contradiction
from .dialect import Config, Dialect, Spelled, block, could_be, keys, real, respelled

_SHARED = keys(
    "rope_theta rope_scaling rope_scaling/* rope_parameters rope_parameters/* partial_rotary_factor original_max_position_embeddings"
)


def _has(model_types: tuple[str, ...], *names: str) -> Any:
    """A function that recognises a config with one of these keys, unless its model_type is another family's."""
    return lambda config: any(config.get(name) is not None for name in names) and could_be(config, *model_types)


def _type(*names: str) -> Any:
    """A function that recognises a config by its model_type."""
    return lambda config: config.get("model_type") in names


def _as_half(config: Config, drop: frozenset[str], **new: Any) -> Config:
    """respelled() without model_type, for families that transformers does not have: read() then takes half pairing."""
    return respelled(config, drop | {"model_type"}, **new)


_NOMIC = keys(
    "rotary_emb_base rotary_emb_fraction rotary_emb_interleaved rotary_emb_scale_base rotary_scaling_factor max_trained_positions"
)


def _is_nomic(config: Config) -> bool:
    own = any(config.get(f"rotary_emb_{key}") is not None for key in ("fraction", "interleaved", "scale_base"))
    scaled = config.get("model_type") == "nomic_bert" and config.get("rotary_scaling_factor") is not None
    return scaled or (own and could_be(config, "nomic_bert"))


def _nomic(config: Config) -> Spelled:
    scale_base = config.get("rotary_emb_scale_base")
    if scale_base is not None:
        raise ValueError(
            f"rotary_emb_scale_base ({describe(scale_base)}) asks for xPos, which is not read from configs; make the module yourself: "
            f"RotaryEmbedding(dim, use_xpos=True, scale_base=..., base=...)"
        )
    interleaved = config.get("rotary_emb_interleaved")
    new: Config = {"rope_theta": config.get("rotary_emb_base")}
    if config.get("rotary_emb_fraction") is not None:
        new["partial_rotary_factor"] = real(config, "rotary_emb_fraction")
    if config.get("rotary_scaling_factor") is not None:
        # modeling_hf_nomic_bert.py, NomicBertDynamicNTKRotaryEmbedding: the base grows with contexts beyond max_trained_positions
        new["rope_scaling"] = {"rope_type": "dynamic", "factor": real(config, "rotary_scaling_factor")}
        new["max_position_embeddings"] = config.get("max_trained_positions") or 2048
    return Spelled(
        respelled(config, _NOMIC, **new),
        interleaved=False if interleaved is None else flag("rotary_emb_interleaved", interleaved),
    )


_EPOCH = keys("rope_pct rotary_scaling_factor")


def _stablelm_epoch(config: Config) -> Spelled:
    scaling = config.get("rotary_scaling_factor")
    if scaling not in (None, 1, 1.0):
        raise ValueError(f"rotary_scaling_factor must be 1 or absent in a StableLM config, got {describe(scaling)}")
    theta = None if config.get("rope_theta") is not None or config.get("rope_parameters") else 10000.0
    return Spelled(
        _as_half(config, _EPOCH, rope_theta=theta, partial_rotary_factor=real(config, "rope_pct")), interleaved=False
    )


_OPENELM = keys("rope_freq_constant rope_max_length")


def _openelm(config: Config) -> Spelled:
    window = config.get("max_context_length")
    theta = real(config, "rope_freq_constant", 10000.0)
    return Spelled(_as_half(config, _OPENELM, rope_theta=theta, max_position_embeddings=window), interleaved=False)


_PHI3_SMALL = keys("rope_embedding_base rope_position_scale")


def _phi3_small(config: Config) -> Spelled:
    scale, scaling = real(config, "rope_position_scale", 1.0), block(config, "rope_scaling") or None
    if scale != 1.0:
        if scaling is not None:
            raise Contradiction(f"conflicting rope_position_scale {scale!r} and rope_scaling; keep one")
        scaling = {"rope_type": "linear", "factor": scale}
    theta = real(config, "rope_embedding_base", 1000000.0)
    return Spelled(
        _as_half(config, _PHI3_SMALL | {"rope_scaling"}, rope_theta=theta, rope_scaling=scaling), interleaved=False
    )


_BAMBA = keys("attn_rotary_emb")


def _bamba(config: Config) -> Spelled:
    return Spelled(respelled(config, _BAMBA, rotary_dim=config["attn_rotary_emb"]))


_MIMO = keys("swa_rope_theta")


def _mimo(config: Config) -> Spelled:
    """rope_theta belongs to full attention, swa_rope_theta to sliding attention, and one partial_rotary_factor to both."""
    if config.get("rope_scaling") or config.get("rope_parameters"):
        raise ValueError(
            "swa_rope_theta together with rope_scaling or rope_parameters: no known model has both; write rope_parameters per layer type"
        )
    share = real(config, "partial_rotary_factor", 0.334)
    bases = {"full_attention": real(config, "rope_theta", 5e6), "sliding_attention": real(config, "swa_rope_theta")}
    rope = {
        kind: {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": share}
        for kind, base in bases.items()
    }
    if config.get("swa_head_dim") not in (None, config.get("head_dim")):
        raise ValueError(
            f"swa_head_dim {config['swa_head_dim']!r} differs from head_dim; pass head_dim= for each layer type, without it"
        )
    return Spelled(
        respelled(config, _MIMO | {"rope_theta", "partial_rotary_factor", "rope_scaling"}, rope_parameters=rope)
    )


def _is_early_phi3(config: Config) -> bool:
    scaling = config.get("rope_scaling")
    if config.get("model_type") not in ("phi3", "phi3_v", "phimoe") or not isinstance(scaling, dict):
        return False
    return "yarn" in (scaling.get("type"), scaling.get("rope_type")) and "short_factor" in scaling


def _early_phi3(config: Config) -> Spelled:
    scaling = {key: value for key, value in block(config, "rope_scaling").items() if key != "type"} | {
        "rope_type": "longrope"
    }
    note = (
        "rope_scaling of type yarn with factor lists is read as LongRoPE, as transformers reads it; the attention factor is LongRoPE's "
        "(the first code of Phi-3 had 0.1 ln(factor) + 1 for this type)"
    )
    return Spelled(respelled(config, frozenset({"rope_scaling"}), rope_scaling=scaling), notes=(note,))


_DEEPSEEK = keys("qk_rope_head_dim rope_interleave")


def _kimi(config: Config) -> Spelled:
    return Spelled(respelled(config, frozenset({"model_type"}), model_type="deepseek_v3"))


OWN_KEYS = (
    Dialect(
        "StableLM-epoch",
        "stabilityai/stablelm-3b-4e1t (Hugging Face), modeling_stablelm_epoch.py; vllm-project/vllm, models/stablelm.py",
        _has(("stablelm", "stablelm_epoch"), "rope_pct"),
        _EPOCH | _SHARED,
        _stablelm_epoch,
    ),
    Dialect(
        "Nomic remote code",
        "nomic-ai/nomic-bert-2048 (Hugging Face), modeling_hf_nomic_bert.py; vllm-project/vllm, models/bert_with_rope.py",
        _is_nomic,
        _NOMIC | _SHARED,
        _nomic,
    ),
    Dialect(
        "OpenELM",
        "apple/OpenELM-3B (Hugging Face), modeling_openelm.py",
        _has(("openelm",), "rope_freq_constant", "rope_max_length"),
        _OPENELM | _SHARED,
        _openelm,
    ),
    Dialect(
        "Phi-3-small",
        "microsoft/Phi-3-small-8k-instruct (Hugging Face), positional_embedding.py; vllm-project/vllm, models/phi3_small.py",
        _has(("phi3small",), "rope_embedding_base", "rope_position_scale"),
        _PHI3_SMALL | _SHARED,
        _phi3_small,
    ),
    Dialect(
        "Bamba",
        "huggingface/transformers, models/bamba; vllm-project/vllm, models/bamba.py",
        _has(("bamba",), "attn_rotary_emb"),
        _BAMBA | _SHARED,
        _bamba,
    ),
    Dialect(
        "MiMo-V2-Flash",
        "XiaomiMiMo/MiMo-V2-Flash (Hugging Face), modeling_mimo_v2_flash.py; huggingface/transformers, models/mimo_v2_flash",
        lambda config: config.get("model_type") == "mimo_v2_flash" and config.get("swa_rope_theta") is not None,
        _MIMO | _SHARED,
        _mimo,
    ),
    Dialect(
        "Phi-3, first published",
        "huggingface/transformers, models/phi3/configuration_phi3.py, which reads it as longrope",
        _is_early_phi3,
        _SHARED,
        _early_phi3,
    ),
    Dialect(
        "Kimi-K2",
        "moonshotai/Kimi-K2-Instruct (Hugging Face), modeling_deepseek.py: DeepSeek-V3's code under another name",
        _type("kimi_k2"),
        _DEEPSEEK | _SHARED,
        _kimi,
    ),
)
