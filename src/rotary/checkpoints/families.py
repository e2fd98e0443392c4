"""Which tensors of a checkpoint make queries and keys, and what their rows are: a few tables, and the name of one for each family.

Names and shapes are those that transformers saves. Each family here is held against its model, its logits before and after, in
tests/checkpoints/test_convert.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """The rows of a tensor: `parts`, repeated `times` ("1", "4", "heads" or "kv").

    q, k, v, gate: one head of each; qs, ks, vs: all heads that fall on one repetition; latent: the compressed keys and values of MLA.

    Rows("heads", "q k v") is GPT-NeoX, head by head; Rows("1", "qs ks vs") is Phi-3, three blocks; Rows("kv", "qs k v") is Falcon.
    """

    times: str
    parts: str


Table = Mapping[str, Rows]
"""Name of a submodule of attention -> what its rows are."""

NORMS: Table = {
    name: Rows("1", role)
    for role, names in {
        "q": ("q_norm", "q_layernorm", "q_layer_norm", "query_layernorm"),
        "k": ("k_norm", "k_layernorm", "k_layer_norm", "key_layernorm"),
    }.items()
    for name in names
}
SPLIT: Table = {"q_proj": Rows("1", "qs"), "k_proj": Rows("1", "ks"), **NORMS}
GATED: Table = {**SPLIT, "q_proj": Rows("heads", "q gate")}
META: Table = {"wq": Rows("1", "qs"), "wk": Rows("1", "ks"), **NORMS}
LATENT: Table = {
    "q_proj": Rows("1", "qs"),
    "q_b_proj": Rows("1", "qs"),
    "kv_a_proj_with_mqa": Rows("1", "latent k"),
}


def _fused(name: str, times: str, parts: str) -> Table:
    return {name: Rows(times, parts), **NORMS}


_BY_HEAD, _BLOCKS = _fused("query_key_value", "heads", "q k v"), _fused("Wqkv", "1", "qs ks vs")
_SPLIT = """llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text olmo olmo2 olmo3 olmoe granite cohere
    cohere2 glm glm4 glm4_moe helium phi stablelm starcoder2 smollm3 ernie4_5 gpt_oss hunyuan_v1_dense exaone4 arcee apertus
    bitnet seed_oss gptj nemotron"""
FAMILIES: dict[str, Table] = {
    **dict.fromkeys(_SPLIT.split(), SPLIT),
    "qwen3_next": GATED,
    "gpt_neox": _BY_HEAD,
    "persimmon": _BY_HEAD,
    "phi3": _fused("qkv_proj", "1", "qs ks vs"),
    "codegen": _fused("qkv_proj", "4", "qs vs ks"),
    "dbrx": _BLOCKS,
    "modernbert": _BLOCKS,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
}

# Parts of an attention layer whose rows are no channels that turn. A part in neither list is an error.
STILL = frozenset(
    {
        *(
            "v_proj",
            "o_proj",
            "out_proj",
            "dense",
            "Wo",
            "wv",
            "wo",
            "g_proj",
            "gate_proj",
            "sinks",
            "rotary_emb",
            "attn_sub_norm",
        ),
        *("q_a_proj", "q_a_layernorm", "kv_a_layernorm", "kv_b_proj", "v_norm", "bias", "masked_bias", "norm"),
    }
)
