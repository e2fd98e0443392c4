"""Remote-code configs whose rotation is partly fixed by their code (ChatGLM, Baichuan) or in a block (DBRX, MPT, InternLM 1)."""

from __future__ import annotations

from typing import Any

from ..._checks import describe
from ..names import same
from .dialect import Config, Dialect, Spelled, block, check_read, could_be, keys, only, real, respelled

_CHATGLM = keys("rope_ratio original_rope kv_channels")


def _chatglm(config: Config) -> Spelled:
    """Half of kv_channels turns, interleaved, with base 10000 x rope_ratio. original_rope chooses between two codes for one rotation."""
    if config.get("position_encoding_2d") is not None or "inner_hidden_size" in config:
        raise ValueError(
            "the first ChatGLM-6B rotates by two coordinates per token (position_encoding_2d), but RotaryEmbedding takes one"
        )
    new: Config = {
        "head_dim": config.get("kv_channels"),
        "rope_theta": 10000.0 * real(config, "rope_ratio", 1.0),
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": config.get("seq_length"),
    }
    return Spelled(respelled(config, _CHATGLM | {"model_type", "seq_length"}, **new), interleaved=True)


def _is_chatglm(config: Config) -> bool:
    return config.get("model_type") == "chatglm" or (config.get("rope_ratio") is not None and could_be(config))


def _baichuan(config: Config) -> Spelled:
    """7B (hidden_size 4096) rotates, 13B (5120) has ALiBi; the config has no key for it."""
    hidden = config.get("hidden_size")
    if config.get("rope_theta") is None and hidden != 4096:
        raise ValueError(
            f"Baichuan with hidden_size {describe(hidden)}: 7B (4096) rotates, 13B (5120) has ALiBi and does not rotate; write rope_theta "
            f"if this model rotates"
        )
    theta = 10000.0 if config.get("rope_theta") is None else None
    return Spelled(respelled(config, frozenset({"model_type"}), rope_theta=theta), interleaved=False)


def _dbrx(config: Config) -> Spelled:
    attention = block(config, "attn_config")
    theta = attention.get("rope_theta")
    without_theta = {key: value for key, value in attention.items() if key != "rope_theta"}
    same("rope_theta", theta, block(config, "rope_parameters").get("rope_theta"), "attn_config", "rope_parameters")
    return Spelled(respelled(config, frozenset({"attn_config"}), attn_config=without_theta, rope_theta=theta))


def _is_dbrx(config: Config) -> bool:
    attention = config.get("attn_config")
    return config.get("model_type") == "dbrx" and isinstance(attention, dict) and "rope_theta" in attention


_MPT = keys(
    "attn_config/rope attn_config/nope attn_config/alibi attn_config/alibi_bias_max attn_config/rope_theta attn_config/rope_impl "
    "attn_config/rope_dail_config attn_config/rope_dail_config/* attn_config/rope_hf_config attn_config/rope_hf_config/*"
)


_MPT_IDLE = {
    "attn_config.rope_hf_config.type": ("no_scaling",),
    "attn_config.rope_hf_config.factor": (1,),
    "attn_config.rope_dail_config.type": ("original",),
}


def _mpt(config: Config) -> Spelled:
    attention = block(config, "attn_config")
    if attention.get("rope") is not True or attention.get("alibi"):
        raise ValueError(
            f"attn_config.rope is {describe(attention.get('rope'))}, alibi {describe(attention.get('alibi'))}: this MPT does not rotate"
        )
    rope: Config = {"rope_type": "default"}
    dail, hf = block(attention, "rope_dail_config"), block(attention, "rope_hf_config")
    only(dail, "attn_config.rope_dail_config", "type", "pos_idx_in_fp32", "xpos_scale_base")
    only(hf, "attn_config.rope_hf_config", "type", "factor")
    implementation = attention.get("rope_impl", "dail")
    if implementation == "dail" and dail.get("type", "original") != "original":
        raise ValueError(
            f"attn_config.rope_dail_config.type {describe(dail['type'])} asks for xPos, which is not read from configs; make the module "
            f"yourself: RotaryEmbedding(dim, use_xpos=True, scale_base=..., base=...)"
        )
    if hf.get("type") is None and hf.get("factor") not in (None, 1, 1.0):
        raise ValueError(
            "attn_config.rope_hf_config has a factor and no type; write type: linear or dynamic, or remove the factor"
        )
    if implementation not in ("dail", "hf"):
        raise ValueError(f"attn_config.rope_impl must be 'dail' or 'hf', got {describe(implementation)}")
    scaled = implementation == "hf" and hf.get("type") not in (None, "no_scaling")
    blocks = {"rope_hf_config.type": hf.get("type"), "rope_hf_config.factor": hf.get("factor")}
    blocks["rope_dail_config.type"] = dail.get("type")
    check_read(
        {f"attn_config.{key}": value for key, value in blocks.items()},
        [f"attn_config.{key}" for key in blocks],
        ["attn_config.rope_hf_config.type", "attn_config.rope_hf_config.factor"] if scaled else [],
        f"attn_config.rope_impl {implementation!r}" + ("" if scaled else " and its type"),
        _MPT_IDLE,
    )
    if scaled:
        rope = {"rope_type": hf["type"], "factor": real(hf, "factor", name="attn_config.rope_hf_config.factor")}
    new: Config = {
        "attn_config": {key: value for key, value in attention.items() if f"attn_config/{key}" not in _MPT},
        "rope_theta": real(attention, "rope_theta", 10000.0, "attn_config.rope_theta"),
        "rope_scaling": rope,
        "max_position_embeddings": config.get("max_seq_len"),
    }
    return Spelled(respelled(config, frozenset({"attn_config", "model_type"}), **new), interleaved=False)


def _is_mpt(config: Config) -> bool:
    attention: Any = config.get("attn_config")
    return config.get("model_type") == "mpt" and isinstance(attention, dict) and "rope" in attention


_INTERNLM = keys("rotary rotary/base rotary/type rotary/scaling_factor rope_theta")


def _internlm(config: Config) -> Spelled:
    """type "dynamic" is dynamic NTK, whose base grows with contexts beyond max_position_embeddings; "origin" is plain rotation."""
    rotary = block(config, "rotary")
    only(rotary, "rotary", "base", "type", "scaling_factor")
    rotary_type = rotary.get("type", "origin")
    if rotary_type not in ("origin", "dynamic"):
        raise ValueError(f"rotary.type must be 'origin' or 'dynamic', got {describe(rotary_type)}")
    theta = same(
        "rope_theta", config.get("rope_theta"), real(rotary, "base", name="rotary.base"), "config", "rotary.base"
    )
    factor = real(rotary, "scaling_factor", 1.0, "rotary.scaling_factor")
    if rotary_type == "origin" and factor != 1.0:
        raise ValueError(f"rotary.scaling_factor {factor} has no effect with rotary.type 'origin'; remove one of them")
    rope = {"rope_type": "dynamic", "factor": factor} if rotary_type == "dynamic" else None
    return Spelled(
        respelled(config, frozenset({"rotary", "rope_theta", "model_type"}), rope_theta=theta, rope_scaling=rope),
        interleaved=False,
    )


OWN_CODE = (
    Dialect(
        "ChatGLM",
        "THUDM/chatglm3-6b and glm-4-9b (Hugging Face), modeling_chatglm.py; vllm-project/vllm, models/chatglm.py; InternLM/lmdeploy, "
        "pytorch/models/chatglm2.py",
        _is_chatglm,
        _CHATGLM,
        _chatglm,
        stems=("rope", "rotary"),
    ),
    Dialect(
        "Baichuan",
        "baichuan-inc/Baichuan2-7B-Base (Hugging Face), modeling_baichuan.py; vllm-project/vllm, models/baichuan.py",
        lambda config: config.get("model_type") == "baichuan",
        keys("rope_theta rope_scaling rope_scaling/* rope_parameters rope_parameters/*"),
        _baichuan,
    ),
    Dialect(
        "DBRX",
        "databricks/dbrx-base (Hugging Face), config.json; databricks/dbrx, modeling_dbrx.py",
        _is_dbrx,
        keys(
            "attn_config attn_config/rope_theta rope_theta rope_scaling rope_scaling/* rope_parameters rope_parameters/*"
        ),
        _dbrx,
    ),
    Dialect("MPT", "mosaicml/llm-foundry, llmfoundry/models/mpt/{configuration,modeling}_mpt.py", _is_mpt, _MPT, _mpt),
    Dialect(
        "InternLM 1",
        "InternLM/lmdeploy and internlm/internlm-7b (Hugging Face), modeling_internlm.py",
        lambda config: isinstance(config.get("rotary"), dict) and could_be(config, "internlm"),
        _INTERNLM,
        _internlm,
    ),
)
