"""benchmarks.cpu: every line of the targets is measured, every rival judged; the pages are what the results say. Nothing is timed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.record import RESULTS
from rotary.cli.work import Inputs, Work


@pytest.fixture(scope="module")
def run() -> ModuleType:
    """The script as a module; it imports all the libraries that it compares."""
    from benchmarks.cpu import run

    return run


@pytest.fixture(scope="module")
def quick(run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of the quick form, as they come back from JSON; the processes that import rotary import nothing."""
    from benchmarks.cpu import package
    from benchmarks.cpu.measured import Effort

    effort = Effort(seconds=0.0, quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ROTARY_HUB_KERNELS", raising=False)
        patch.setattr(package, "_IMPORT", "print(1.5, 0.25)")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tiny tensors
        records = [r for pages in run.PAGES for r in run.measure(list(run.PARTS), pages, effort)]
        torch.set_num_threads(threads)
        return json.loads(json.dumps(records))


def test_every_line_of_the_targets_is_measured(run: ModuleType, quick: list[dict[str, Any]]):
    """Except for the hub's kernel, which is not installed, and the installation, which takes longer than a test."""
    missing = [line for line in run.LINES if line.read(quick).text == "not measured"]
    assert [line.part for line in missing] == ["hub", "hub", "package"]
    assert {line.part for line in run.LINES} <= set(run.PARTS)
    rows = run.targets(quick).splitlines()
    assert len(rows) == len(run.LINES) + 2 and all(row.count("|") == 6 for row in rows)


def test_the_records_cover_what_is_to_be_told_apart(quick: list[dict[str, Any]]):
    from benchmarks.cpu.measured import select

    breadth = select(quick, part="breadth")
    cases = {(r["dtype"], r["head_dim"], r["dim"], r["interleaved"], r["state"]) for r in breadth}
    widths = [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (128, 32)]
    dtypes = ("float32", "bfloat16", "float16", "float64")
    assert cases == {(d, *w, p, s) for d in dtypes for w in widths for p in (False, True) for s in ("cache", "memory")}
    lengths = {(r["dtype"], r["seq"]) for r in select(quick, part="lengths")}
    assert lengths >= {(d, n) for d in dtypes[:3] for n in (1, 16, 128, 512, 4096, 32768)}
    assert {r["pages"] for r in select(quick, part="backward")} == {"warm", "cold"}
    assert {r["seq"] for r in select(quick, part="backward")} == {2048}


def test_the_report_shows_every_record(run: ModuleType, quick: list[dict[str, Any]]):
    at = {
        "processor": "P",
        "threads": 2,
        "rotates": "available",
        "busy": 0.25,
        "python": "3",
        "versions": {"torch": "2"},
    }
    text = run.report(quick, at | {"hub": "not at hand", "commit": "c"})
    assert "P. 2 threads" in text and "other processes took 25% of the cores' time" in text
    for record in quick:
        if record["part"] not in ("breadth", "memory"):
            case = record["case"].replace(", 32 + 8 heads of 128", "")
            assert re.search(rf"^(\| )?{re.escape(case)}", text, re.MULTILINE), case
    assert len(re.findall(r"^\| \w+, (?:32 of )?\d+ \|", text, re.MULTILINE)) == 24


def test_the_quick_form_measures_the_parts_that_are_named_and_writes_nothing(
    run: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, "write", lambda *_: pytest.fail("results are written"))
    run.main(["--quick", "--only", "tables"])
    printed = capsys.readouterr().out
    assert "tables: 8,192 tokens" in printed and "lengths:" not in printed
    assert printed.count("| not measured |") == len(run.LINES) - 2
    run.main(["--list"])
    assert all(line.work in capsys.readouterr().out for line in run.LINES[:1])


@pytest.mark.parametrize(
    ("values", "limit", "at_least", "text", "reached"),
    [
        ([0.1, 0.204], 0.2, False, "0.10 – 0.20", True),
        ([0.1, 0.206], 0.2, False, "0.10 – 0.21", False),
        ([12.345], 10, False, "12.3", False),
        ([1.5, 200.0], 1.5, True, "1.50 – 200", True),
        ([1.49, 200.0], 1.5, True, "1.49 – 200", False),
        ([], 1.5, True, "not measured", None),
    ],
)
def test_the_worse_end_decides(values: list[float], limit: float, at_least: bool, text: str, reached: bool | None):
    from benchmarks.cpu import targets

    read = (targets.at_least if at_least else targets.at_most)(limit, lambda _: values)
    assert read([]) == (text, reached)


def test_a_rival_that_does_not_rotate_is_not_timed():
    from benchmarks.cpu import rivals

    work = Work(100, 2, 1, 16)
    for seq in (0, 99):  # the first and the last tokens are looked at

        def wrong(s: Inputs, seq: int = seq) -> Any:
            q, k = rivals.transformers(work, *work.tables())(s)()
            q[:, :, seq] += 1
            return lambda: (q, k)

        with pytest.raises(RuntimeError, match="it is not timed"):
            rivals.check("it", work, wrong, *work.tables())
    rivals.check("it", work, rivals.transformers(work, *work.tables()), *work.tables())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("work", [Work(3, 4, 2, 16), Work(3, 4, 2, 16, rotary_dim=8), Work(1, 4, 2, 16, batch=3)])
@pytest.mark.parametrize("interleaved", [False, True])
def test_every_rival_that_does_a_work_does_it_right(work: Work, dtype: torch.dtype, interleaved: bool):
    from benchmarks.cpu import rivals

    work = Work(**{**vars(work), "dtype": dtype, "interleaved": interleaved})
    compiled = (rivals.COMPILED, rivals.HALF)
    known = rivals.OF_NEIGHBOURS if interleaved else rivals.OF_HALVES
    calls = rivals.contenders(work, work.inputs(), {n: r for n, r in known.items() if n not in compiled})
    assert len(calls) >= (4 if interleaved else 5)
    assert (rivals.ONNX in calls) == (
        not interleaved and dtype != torch.bfloat16 and work.batch == 1 and work.dim == work.head_dim
    )


def test_without_a_checkout_the_hubs_kernel_is_not_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from benchmarks.cpu import hub

    monkeypatch.delenv(hub.VARIABLE, raising=False)
    assert hub.unavailable() == f"not at hand: {hub.VARIABLE} names no checkout of kernels-community"
    monkeypatch.setenv(hub.VARIABLE, str(tmp_path))
    assert hub.unavailable() == f"not at hand: {tmp_path / 'rotary' / 'build.toml'} is not there"
    (tmp_path / "rotary").mkdir()
    described = '[kernel.a]\nbackend = "cpu"\nsrc = []\ncxx-flags = ["-O3", "-mavx512bf16", "-mnone"]\n[kernel.b]\nbackend = "cuda"\n'
    (tmp_path / "rotary" / "build.toml").write_text(described)
    monkeypatch.setattr(hub, "instruction_sets", lambda: ("avx512_bf16",))
    assert hub.unavailable() == "not for this processor, which lacks none"
    monkeypatch.setattr(hub, "instruction_sets", lambda: ("avx512_bf16", "none"))
    assert hub.unavailable() is None


def test_what_others_took_is_what_neither_this_process_nor_its_children_did(monkeypatch: pytest.MonkeyPatch):
    from benchmarks.cpu.load import Load

    spent = iter([(10.0, 100.0, 4.0), (22.0, 120.0, 9.0)])
    monkeypatch.setattr(Load, "_spent", staticmethod(lambda: next(spent)))
    assert Load().others() == pytest.approx((12 - 5) / 20)
    monkeypatch.setattr(Load, "_spent", staticmethod(lambda: None))
    assert Load().others() is None


# --- the pages -------------------------------------------------------------------------------------------------------------


def test_the_pages_and_the_report_are_what_the_results_say(run: ModuleType):
    from benchmarks.cpu import page

    at = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    records = at.pop("records")
    assert (RESULTS / "cpu.md").read_text(encoding="utf-8") == run.report(records, at).rstrip() + "\n"
    for path in page.PAGES:
        text = path.read_text(encoding="utf-8")
        assert "<!-- cpu: " in text
        assert page.filled(text, page.parts(records, at)) == text, "run python -m benchmarks.cpu.page"


def test_a_figure_changed_by_hand_is_found():
    from benchmarks.cpu import page

    text = "a\n\n<!-- cpu: b -->\n| 1.5 |\n<!-- /cpu -->\n"
    assert page.filled(text, {"b": "| 1.4 |"}) == text.replace("1.5", "1.4")
    assert page.filled("- <!-- cpu: b -->x<!-- /cpu -->.", {"b": "y"}) == "- <!-- cpu: b -->y<!-- /cpu -->."


@pytest.mark.parametrize(("share", "warned"), [(0.9, True), (0.02, False), (None, False)])
def test_figures_of_a_busy_machine_carry_a_warning(quick: list[dict[str, Any]], share: float | None, warned: bool):
    from benchmarks.cpu import page

    at = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8")) | {"busy": share}
    parts = page.parts(quick, at)
    assert ("not to be relied on" in parts["headline"]) == ("**Not to be relied on:**" in parts["summary"]) == warned
