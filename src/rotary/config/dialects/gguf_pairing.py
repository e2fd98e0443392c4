"""The pairing of each architecture in GGUF files, and what else their metadata leaves to the code of llama.cpp.

Source: ggml-org/llama.cpp, src/llama-model.cpp, llama_model_rope_type, with the names of src/llama-arch.cpp; read in 2026. NORM pairs
neighbouring channels, NEOX channels half a head apart. The converter reorders the weights of the NORM architectures that
transformers pairs by halves (Llama, Mistral), so the pairing of a file is not that of its Hugging Face original.
"""

from __future__ import annotations

from .dialect import keys

NORM = keys(
    "llama llada llama4 deci baichuan starcoder internlm2 minicpm xverse command-r cohere2 olmo arctic deepseek deepseek2 deepseek2-ocr "
    "deepseek32 plm chatglm glm4 granite granitemoe granitehybrid chameleon bailingmoe neo-bert smollm3 arcee ernie4_5 ernie4_5-moe "
    "mistral3 mistral4 llama-embed maincoder glm-dsa"
)
NEOX = keys(
    "falcon falcon-h1 grok dbrx bert jina-bert-v3 modern-bert nomic-bert nomic-bert-moe eurobert stablelm bitnet qwen qwen2 dream qwen2moe "
    "qwen3 qwen3moe llada-moe rnd1 olmo2 olmoe phi2 phi3 phimoe plamo plamo2 plamo3 gemma gemma2 gemma3 gemma3n gemma4 gemma-embedding "
    "starcoder2 openelm gptneox codeshell orion nemotron exaone exaone4 exaone-moe minicpm3 bailingmoe2 dots1 hunyuan-moe jais2 gpt-oss "
    "hunyuan-dense lfm2 lfm2moe smallthinker seed_oss grovemoe apertus minimax-m2 cogvlm pangu-embedded afmoe qwen3next mimo2 step35 "
    "glm4moe"
)
NONE = keys(
    "clip gpt2 gptj mpt refact bloom mamba mamba2 jamba jina-bert-v2 t5 t5encoder jais rwkv6 rwkv6qwen2 rwkv7 arwkv7 wavtokenizer-dec "
    "nemotron_h nemotron_h_moe kimi-linear"
)
SECTIONS = keys("qwen2vl qwen3vl qwen3vlmoe qwen35 qwen35moe paddleocr")
"""M-RoPE: planes are divided among several coordinates."""

EVERY_FOURTH_UNROTATED = frozenset({"llama4", "smollm3"})
"""Architectures whose every fourth layer does not rotate; the metadata has no key for it."""
FULL_UNROTATED = frozenset({"cohere2", "exaone4", "exaone-moe"})
"""Architectures whose layers of full attention do not rotate if there is a sliding window."""
LOCAL_BASE = {"gemma3": 1e4, "gemma3n": 1e4, "gemma-embedding": 1e4, "modern-bert": 1e4}
"""Architecture -> base of sliding attention, where llama.cpp fixes one and the metadata may omit it. Their scaling is for full attention
alone."""
SLIDING_UNSCALED = frozenset({"olmo2"})
"""Architectures whose layers of sliding attention have the same base and no scaling (Olmo 3)."""
TWO_WIDTHS = frozenset({"gemma4"})
