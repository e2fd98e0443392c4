"""The page of families with fused norms is made from its results. tests/transformers/test_fused_norms.py runs some of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return json.loads((RESULTS / "fused_families.json").read_text(encoding="utf-8"))


def test_the_page_says_what_the_results_say(results: dict[str, Any]):
    pytest.importorskip("transformers")
    from benchmarks import fused_families

    records = [fused_families.fused_proof.Fused(**r | {"norms": tuple(r["norms"])}) for r in results["records"]]
    page = (RESULTS / "fused_families.md").read_text(encoding="utf-8")
    assert page == fused_families.page(records, results).rstrip() + "\n"


def test_the_families_are_those_whose_source_has_such_norms(results: dict[str, Any]):
    pytest.importorskip("transformers")
    from benchmarks import fused_families

    assert [record["family"] for record in results["records"]] == fused_families.with_norms()
