"""Projections: which tensors of a checkpoint produce queries and keys, and how their rows are arranged, for each family.

Names and shapes are those that transformers saves. tests/checkpoints/test_projections.py compares the logits of a model of each family
before and after conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Content = Literal["query", "key", "value", "gate", "latent"]
"""What the rows of a tensor produce. latent: the compressed keys and values of MLA."""


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows: one head, or, with all_heads, every head that belongs to one repetition."""

    content: Content
    all_heads: bool = False

    def __str__(self) -> str:
        return f"{self.content} heads" if self.all_heads else self.content


QUERY, KEY, VALUE = RowGroup("query"), RowGroup("key"), RowGroup("value")
GATE, LATENT = RowGroup("gate"), RowGroup("latent")
QUERIES, KEYS = RowGroup("query", all_heads=True), RowGroup("key", all_heads=True)
VALUES = RowGroup("value", all_heads=True)


class Repeat(Enum):
    """How often the parts of a tensor are repeated."""

    ONCE = "once"
    FOUR_TIMES = "four times"
    PER_HEAD = "for every query head"
    PER_KV_HEAD = "for every key head"


@dataclass(frozen=True)
class Rows:
    """The rows of a tensor, in order: its parts, repeated.

    Three fused projections of queries, keys and values:

        Rows(Repeat.ONCE, (QUERIES, KEYS, VALUES))      Phi-3      q q q q  k k  v v
        Rows(Repeat.PER_HEAD, (QUERY, KEY, VALUE))      GPT-NeoX   q k v  q k v  q k v  q k v
        Rows(Repeat.PER_KV_HEAD, (QUERIES, KEY, VALUE)) Falcon     q q k v  q q k v
    """

    repeat: Repeat
    parts: tuple[RowGroup, ...]


Projections = Mapping[str, Rows]
"""Name of a submodule of attention -> the rows of its tensors."""


def _once(*parts: RowGroup) -> Rows:
    return Rows(Repeat.ONCE, parts)


NORMS: Projections = {
    **dict.fromkeys(["q_norm", "q_layernorm", "query_layernorm"], _once(QUERY)),
    **dict.fromkeys(["k_norm", "k_layernorm", "key_layernorm"], _once(KEY)),
}
SPLIT: Projections = {"q_proj": _once(QUERIES), "k_proj": _once(KEYS), **NORMS}
GATED: Projections = {**SPLIT, "q_proj": Rows(Repeat.PER_HEAD, (QUERY, GATE))}
BERT: Projections = {"query": _once(QUERIES), "key": _once(KEYS)}
META: Projections = {"wq": _once(QUERIES), "wk": _once(KEYS), **NORMS}
MLA: Projections = {
    "q_proj": _once(QUERIES),
    "q_b_proj": _once(QUERIES),
    "kv_a_proj_with_mqa": _once(LATENT, KEY),
}


def _fused(name: str, repeat: Repeat, *parts: RowGroup) -> Projections:
    return {name: Rows(repeat, parts), **NORMS}


_SPLIT_NAMES = """afmoe apertus arcee aria_text bamba bitnet cohere cohere2 cohere2_moe cwm diffllama doge dots1 ernie4_5 ernie4_5_moe esmc
    eurobert exaone4 exaone_moe falcon_h1 flex_olmo flint gemma gemma2 gemma3_text glm glm4 glm4_moe gpt_oss gptj granite granite_swa
    granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3
    iquestcoder jais2 kolibri1 lfm2 lfm2_moe llama llama4_text mellum minimax_m2 ministral mistral mixtral modernbert-decoder nemotron
    olmo olmo2 olmo3 olmo_hybrid olmoe phi phimoe qwen2 qwen2_moe qwen3 qwen3_moe recurrent_gemma seed_oss smollm3 solar_open stablelm
    starcoder2 ultrabert vaultgemma zamba2"""
PROJECTIONS: dict[str, Projections] = {
    **dict.fromkeys(_SPLIT_NAMES.split(), SPLIT),
    **dict.fromkeys(["axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"], MLA),
    **dict.fromkeys(
        ["gpt_neox", "gpt_neox_japanese", "persimmon"], _fused("query_key_value", Repeat.PER_HEAD, QUERY, KEY, VALUE)
    ),
    **dict.fromkeys(["gte", "phi3"], _fused("qkv_proj", Repeat.ONCE, QUERIES, KEYS, VALUES)),
    **dict.fromkeys(["dbrx", "modernbert", "nomic_bert"], _fused("Wqkv", Repeat.ONCE, QUERIES, KEYS, VALUES)),
    **dict.fromkeys(["esm", "roformer"], BERT),
    "codegen": _fused("qkv_proj", Repeat.FOUR_TIMES, QUERIES, VALUES, KEYS),
    "falcon": _fused("query_key_value", Repeat.PER_KV_HEAD, QUERIES, KEY, VALUE),
    "qwen3_next": GATED,
}
"""Family (model_type) -> its projections."""

READS_ROPE_INTERLEAVE = frozenset(["axk1", "deepseek_v3", "glm4_moe_lite", "youtu"])
"""Families whose code reads the pairing from the config, by its key rope_interleave."""

_OTHER_PROJECTIONS = """v_proj kv_b_proj value wv  o_proj out_proj dense dense_bias output Wo wo  gate_proj A dt_proj  sinks softmax_offset
    q_a_proj q_a_layernorm kv_a_layernorm attn_sub_norm LayerNorm  lambda_q1 lambda_k1 lambda_q2 lambda_k2
    linear_x linear_y linear_out conv_1d rg_lru"""
_OLD_BUFFERS = (
    "rotary_emb rotary_embeddings inner_attention bias masked_bias"  # frequencies and masks, saved by older code
)
UNROTATED = frozenset(f"{_OTHER_PROJECTIONS} {_OLD_BUFFERS}".split())
"""Submodules of attention whose rows are not rotated channels. One that is neither here nor in the family's projections is an error."""

UNROTATED_LAYERS = frozenset(["linear_attn"])
"""Layers that mix tokens without rotation, although their submodules have names of attention."""
