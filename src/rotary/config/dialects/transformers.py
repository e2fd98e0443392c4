"""The configs of transformers 4 and 5, and of the remote code that follows them: the words into which all other dialects are translated."""

from __future__ import annotations

from .dialect import Config, Dialect, Spelled, keys

SYNONYMS = {
    "rotary_emb_base": "rope_theta",
    "rotary_embedding_base": "rope_theta",
    "rotary_pct": "partial_rotary_factor",
    "global_rope_theta": "rope_theta",
    "local_rope_theta": "rope_local_base_freq",
}
KNOWN_KEYS = keys(
    "rope_theta rope_local_base_freq rope_scaling rope_parameters rope_interleave rope_scaling_layers layer_rope_theta no_rope_layers "
    "no_rope_layer_interval partial_rotary_factor original_max_position_embeddings qk_rope_head_dim rotary rotary_dim rotary_value "
    "use_dynamic_ntk use_logn_attn use_mem_rope use_rotary_embedding dual_chunk_attention_config"
) | frozenset(SYNONYMS)
"""Keys about rotation at the top level of a config."""

_WITHOUT_EFFECT = keys(
    "alibi alibi_bias_max rope_scaling/* rope_parameters/* dual_chunk_attention_config/* per_layer_config/* "
    "memory_attention_rope_feat_sizes memory_attention_rope_k_sizes memory_attention_rope_dropout"
)
"""Keys that change no angle; those of SAM's memory are sizes of its grids, and a probability."""


def _translate(config: Config) -> Spelled:
    return Spelled(config)


TRANSFORMERS = Dialect(
    "transformers",
    "huggingface/transformers, src/transformers/modeling_rope_utils.py and models/*/configuration_*.py",
    lambda config: True,
    KNOWN_KEYS | _WITHOUT_EFFECT,
    _translate,
)
