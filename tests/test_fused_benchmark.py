"""The benchmarks of rotary.fused: contenders compute the same, and their pages have every line of the results."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
from benchmarks import fused


def test_contenders_compute_the_same():
    work = fused.Work(5, torch.float32)
    with torch.no_grad():
        ours, formula, theirs = (call(work.q, work.k) for call in (work.ours, work.formula, work.theirs))
    for a, b, c in zip(ours, formula, theirs, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-5)
    for a, b in zip(work.both_ways(work.ours)(), work.both_ways(work.theirs)(), strict=True):
        assert a.shape == b.shape
    assert work.saved(work.ours) < work.saved(work.theirs)


def test_the_quick_form_fills_the_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        fused, "medians", lambda calls, seconds: {name: 1.0 for name, call in calls.items() if call() or True}
    )
    threads = torch.get_num_threads()
    page = fused.page(fused.measure(quick=True))
    torch.set_num_threads(threads)
    for line in (
        "in place / copy of q and k",
        "transformers eager / fresh",
        "saved for the backward pass",
        "DynamicCache.update",
    ):
        assert line in page
