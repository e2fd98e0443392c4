"""Which tensors of a checkpoint make queries and keys, and what their rows are: a few tables, and the name of one for each family.

Names and shapes are those that transformers saves. Each family here is held against its model, its logits before and after, in
tests/checkpoints/test_families.py.
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
        "q": ("q_norm", "q_layernorm", "query_layernorm"),
        "k": ("k_norm", "k_layernorm", "key_layernorm"),
    }.items()
    for name in names
}
SPLIT: Table = {"q_proj": Rows("1", "qs"), "k_proj": Rows("1", "ks"), **NORMS}
GATED: Table = {**SPLIT, "q_proj": Rows("heads", "q gate")}
BERT: Table = {"query": Rows("1", "qs"), "key": Rows("1", "ks")}
META: Table = {"wq": Rows("1", "qs"), "wk": Rows("1", "ks"), **NORMS}
LATENT: Table = {
    "q_proj": Rows("1", "qs"),
    "q_b_proj": Rows("1", "qs"),
    "kv_a_proj_with_mqa": Rows("1", "latent k"),
}


def _fused(name: str, times: str, parts: str) -> Table:
    return {name: Rows(times, parts), **NORMS}


_SPLIT = """afmoe apertus arcee aria_text bamba bitnet cohere cohere2 cohere2_moe cwm diffllama doge dots1 ernie4_5 ernie4_5_moe esmc
    eurobert exaone4 exaone_moe falcon_h1 flex_olmo flint gemma gemma2 gemma3_text glm glm4 glm4_moe gpt_oss gptj granite granite_swa
    granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3
    iquestcoder jais2 kolibri1 lfm2 lfm2_moe llama llama4_text mellum minimax_m2 ministral mistral mixtral modernbert-decoder nemotron
    olmo olmo2 olmo3 olmo_hybrid olmoe phi phimoe qwen2 qwen2_moe qwen3 qwen3_moe recurrent_gemma seed_oss smollm3 solar_open stablelm
    starcoder2 ultrabert vaultgemma zamba2"""
FAMILIES: dict[str, Table] = {
    **dict.fromkeys(_SPLIT.split(), SPLIT),
    **dict.fromkeys(["axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"], LATENT),
    **dict.fromkeys(["gpt_neox", "gpt_neox_japanese", "persimmon"], _fused("query_key_value", "heads", "q k v")),
    **dict.fromkeys(["gte", "phi3"], _fused("qkv_proj", "1", "qs ks vs")),
    **dict.fromkeys(["dbrx", "modernbert", "nomic_bert"], _fused("Wqkv", "1", "qs ks vs")),
    **dict.fromkeys(["esm", "roformer"], BERT),
    "codegen": _fused("qkv_proj", "4", "qs vs ks"),
    "falcon": _fused("query_key_value", "kv", "qs k v"),
    "qwen3_next": GATED,
}

# Families whose code asks its config for rope_interleave.
TOLD = frozenset(["axk1", "deepseek_v3", "glm4_moe_lite", "youtu"])

# Parts of an attention layer whose rows are no channels that turn. A part in neither list is an error.
_STILL = """v_proj kv_b_proj value wv  o_proj out_proj dense dense_bias output Wo wo  gate_proj A dt_proj  sinks softmax_offset
    q_a_proj q_a_layernorm kv_a_layernorm attn_sub_norm LayerNorm  lambda_q1 lambda_k1 lambda_q2 lambda_k2
    linear_x linear_y linear_out conv_1d rg_lru"""
# Buffers that older releases of transformers saved: frequencies, and masks.
_BUFFERS = "rotary_emb rotary_embeddings bias masked_bias"
STILL = frozenset(f"{_STILL} {_BUFFERS}".split())
# Layers that mix tokens without a rotation, though their parts may be named like those of attention.
STILL_LAYERS = frozenset(["linear_attn"])
