"""Small sizes for the config of any model of transformers, set by the names that configs use."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import transformers

TOKENS, VOCABULARY, HIDDEN, HEADS, HEAD_DIM, LAYERS = 12, 99, 64, 4, 16, 2
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


def shrunk(config: Any) -> Any:
    """The config, changed in place: every size is small, in sub-configs too, and lists with one value per layer are cut."""
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig):
            shrunk(value)
        elif key in SIZES and isinstance(value, int) and not isinstance(value, bool):
            set_size(config, key, SIZES[key])
        elif key.endswith("_token_id") and isinstance(value, int):
            set_size(config, key, min(value, VOCABULARY - 1))
        elif isinstance(value, list) and re.search(r"layer|_types|pattern", key) and len(value) > LAYERS:
            set_size(config, key, _cut(value))
    values = vars(config)
    for key in ("num_key_value_heads", "num_kv_heads", "encoder_num_key_value_heads", "decoder_num_key_value_heads"):
        if key in values:
            set_size(config, key, HEADS if "kv_lora_rank" in values else 2)
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
        if key in values and values[key] is None:
            set_size(config, key, SIZES[key])
    if isinstance(values.get("rope_parameters"), dict):
        # GlmAsrConfig (transformers 5.23) gives every config the dict of its class: written in place, it would shrink all of them.
        rope = values["rope_parameters"] = copy.deepcopy(values["rope_parameters"])
        for parameters in [rope, *rope.values()]:
            if isinstance(parameters, dict):
                _fit(parameters, values)
    return config


def set_size(config: Any, key: str, value: Any) -> None:
    # The key may be a property, or its value may have to agree with others.
    with contextlib.suppress(AttributeError, ValueError, TypeError):
        setattr(config, key, value)


def _cut(values: list[Any]) -> list[Any]:
    """One value per layer, of different kinds if there are any."""
    kinds = list(dict.fromkeys(v for v in values if isinstance(v, str)))
    return (kinds[:LAYERS] + values)[:LAYERS] if len(kinds) > 1 else values[:LAYERS]


def _fit(parameters: dict[str, Any], config: dict[str, Any]) -> None:
    """Cut the lists of a config's rope_parameters, which have one value per pair, to the small head_dim."""
    dim = config.get("head_dim") or HEAD_DIM
    planes = int(dim * (parameters.get("partial_rotary_factor") or 1.0)) // 2
    for key in ("short_factor", "long_factor"):
        if key in parameters:
            parameters[key] = (parameters[key] * planes)[:planes]
    if "rope_theta" in parameters and "mrope" not in parameters:  # the default in modeling files is for larger heads
        third = planes // 3
        parameters.setdefault("mrope_section", [planes - 2 * third, third, third])
    for key in ("mrope_section", "xdrope_section"):
        if parameters.get(key):
            count = len(parameters[key])
            parts = [-(-planes // count)] * count  # some models need the first two to be equal
            parts[-1] -= sum(parts) - planes
            parameters[key] = parts
