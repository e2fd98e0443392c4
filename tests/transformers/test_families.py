"""Model families of transformers, patched against unpatched: one family per kind of rotation in full, the others without generation."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
from tools.model_page import PAGE
from zoo import families, proof

# Half and interleaved, full and half-width tables, partial, permuted output, one tensor at a time, sin first, conjugate.
ONE_PER_SPEC = (
    *(
        "llama",
        "qwen3",
        "gemma3",
        "glm4",
        "gpt_neox",
        "phi",
        "cohere",
        "deepseek_v3",
        "nanochat",
        "gpt_oss",
        "inkling2",
    ),
    *("gptj", "persimmon"),
)
SLOW = {"blt", "glm5_next", "neucodec", "xcodec2"}  # models that stay large with small configs; `make models` runs them


@pytest.mark.parametrize("family", ONE_PER_SPEC)
def test_one_of_each_spec_generates_and_rounds_as_well(family: str):
    result = proof.outcome(family)
    assert result.passes, result


@pytest.mark.parametrize("family", sorted({*families.families()} - {*ONE_PER_SPEC} - SLOW))
def test_every_family_that_the_page_says_passes(family: str):
    result = proof.outcome(family, thorough=False)
    on_page = f"\n| {family} | {result.model} |" in PAGE.read_text(encoding="utf-8")
    assert result.passes == on_page and (result.passes or result.reason), result


def test_the_page_names_every_family():
    page = PAGE.read_text(encoding="utf-8")
    assert [family for family in families.families() if f"| {family} |" not in page] == []
