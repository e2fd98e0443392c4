"""Exceptions to small.py and families.inputs(), by family: sizes that must agree with each other, and inputs of special kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A nested dictionary is for the sub-config of that name.
SIZES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"v_head_dim": 16, "group_norm_size": 1, "num_expert_group": 1, "num_experts_per_token": 2, "qk_head_dim": 32,
                       "linear_head_dim": 16, "linear_num_heads": 4},
    "bamba": {"attn_layer_indices": [0, 1]},
    "chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGAZ": 6}, "image_token_id": 5,
                  "vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "resolution": 32,
                                "latent_channels": 32, "num_embeddings": 16}},
    "clvp": {"hidden_size": 128, "projection_dim": 128},
    "dbrx": {"n_heads": 4, "n_layers": 2, "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_ocr2": {"mlp_layer_types": ["dense", "sparse"], "num_key_value_heads": 4},
    "diffusion_gemma": {"top_k_experts": 2},
    "dots3_note": {"head_dim": 64},
    "efficientloftr": {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8, "stage_num_blocks": [1, 1, 1, 1],
                       "stage_block_stride": [[2], [1], [2], [2]], "stage_block_out_channels": [[64], [64], [128], [256]],
                       "stage_block_in_channels": [[1], [64], [64], [128]], "num_attention_layers": 1},
    "esm": {"position_embedding_type": "rotary", "vocab_size": 99, "pad_token_id": 1, "mask_token_id": 2},
    "esmc": {"d_model": 64, "n_heads": 4, "num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1},
    "granitemoehybrid": {"layer_types": ["full_attention", "full_attention"], "position_embedding_type": "rope", "num_local_experts": 4},
    "inkling2": {"projection_hidden_dim": 64, "text_hidden_size": 64},
    "jamba": {"attn_layer_period": 1, "attn_layer_offset": 0},
    "lfm2_moe": {"layer_types": ["full_attention", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"qk_head_dim": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "num_layers": 2, "zero_expert_num": 2},
    "mimi": {"upsampling_ratios": [4, 4], "layer_scale_initial_scale": 1.0},
    "mistral4": {"qk_head_dim": 32, "head_dim": 32},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "muse_glimmer_assistant": {"target_layer_ids": [0, 1]},
    "nemotron3_5_transcribe": {"num_key_value_heads": 4},
    "nemotron3_diarization": {"num_key_value_heads": 4},
    "nemotron_h": {"layers_block_type": ["full_attention", "moe"], "moe_shared_expert_intermediate_size": 64},
    "neucodec": {"quantization_dim": 128, "num_key_value_heads": 4},
    "pe_audio": {"dac_config": {"downsampling_ratios": [2, 2, 2, 2]}},
    "pocket_tts_audio_tokenizer": {"upsampling_ratios": [4, 4], "layer_scale_initial_scale": 1.0, "latent_stride": 2},
    "sapiens2": {"num_key_value_heads_per_layer": [4, 4]},
    "seamless_m4t": {"position_embeddings_type": "rotary", "speech_encoder_layers": 2, "speech_encoder_attention_heads": 4,
                     "speech_encoder_intermediate_size": 64, "feature_projection_input_dim": 16, "num_adapter_layers": 1},
    "step3p7": {"sliding_window": 8},
    "t5gemma": {"decoder": {"cross_attention_hidden_size": 64}},
    "timesfm2_5": {"context_length": 256, "horizon_length": 32, "output_quantile_len": 64, "num_key_value_heads": 4},
    "unlimited_ocr": {"num_key_value_heads": 4},
    "wav2vec2_bert": {"position_embeddings_type": "rotary", "feature_projection_input_dim": 16},
    "wav2vec2_conformer": {"position_embeddings_type": "rotary"},
    "xcodec2": {"quantization_dim": 128, "num_key_value_heads": 4},
    "zamba2": {"use_mem_rope": True, "layers_block_type": ["hybrid", "hybrid"], "hybrid_layer_ids": [0, 1], "attention_hidden_size": 128,
               "attention_head_dim": 32, "mamba_headdim": 32, "n_mamba_heads": 4, "mamba_ngroups": 1, "num_key_value_heads": 4},
}  # fmt: skip


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def _ids() -> Tensor:
    return torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(5))


# Arguments for a forward that takes none of the usual ones.
INPUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "efficientloftr": lambda: {"pixel_values": _random(1, 2, 3, 64, 64)},
    "idefics": lambda: {"input_ids": _ids(), "pixel_values": _random(2, 1, 3, 16, 16), "image_attention_mask": torch.ones(2, 12, 1)},
    "inkling2": lambda: {"pixel_values": _random(16, 3 * 16), "image_grid_thw": torch.tensor([[1, 4, 4]])},
    "moonshine_streaming": lambda: {"input_values": _random(2, 3200), "decoder_input_ids": _ids()},
    "muse_glimmer_assistant": lambda: {"noise_embeds": _random(2, 12, 64), "context_hidden_states": _random(2, 12, 128),
                                       "attention_mask": torch.ones(2, 24)},
    "pe_audio": lambda: {"input_values": _random(2, 1, 3200)},
    "neucodec": lambda: {"input_values": _random(2, 1, 3200), "input_features": _random(2, 10, 160)},
    "pp_doclayout_v2": lambda: {"boxes": torch.randint(0, 500, (2, 6, 4)).sort(-1).values, "labels": torch.zeros(2, 6, dtype=torch.long),
                                "mask": torch.ones(2, 6, dtype=torch.bool)},
    "timesfm2_5": lambda: {"past_values": _random(2, 256)},
    "vjepa2": lambda: {"pixel_values_videos": _random(1, 4, 3, 16, 16)},
    "xcodec2": lambda: {"input_values": _random(2, 1, 3200), "input_features": _random(2, 10, 160)},
}  # fmt: skip
