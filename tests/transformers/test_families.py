"""Families of transformers, one for each body that its functions have, patched against unpatched; `make models` walks them all."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
import model_families as families
import model_proof as proof
from model_page import PAGE

# Half and interleaved, full and half-width tables, partial, permuted output, one tensor at a time, sin first, backwards.
SOME = (
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
    "gptj",
    "persimmon",
)


SLOW = {
    "blt",
    "glm5_next",
    "neucodec",
    "xcodec2",
}  # models that stay large however small their config: `make models` runs them


@pytest.mark.parametrize("family", SOME)
def test_one_of_each_body_generates_and_rounds_as_well(family: str):
    found = proof.outcome(family)
    assert found.passes, found


@pytest.mark.parametrize("family", sorted({*families.families()} - {*SOME} - SLOW))
def test_every_family_that_the_page_says_passes(family: str):
    found = proof.outcome(family, thorough=False)
    shown = f"\n| {family} | {found.model} |" in PAGE.read_text(encoding="utf-8")
    assert found.passes == shown and (found.passes or found.reason), found


def test_the_page_names_every_family():
    page = PAGE.read_text(encoding="utf-8")
    assert [family for family in families.families() if f"| {family} |" not in page] == []
