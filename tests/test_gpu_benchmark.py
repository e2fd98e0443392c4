"""benchmarks/gpu/run.py without a GPU: its peers are judged for real, its times are made up, and its report is read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import record as results
from support import warm

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, on the CPU, with the smallest heads. All changes of it are undone by monkeypatch."""
    from benchmarks.gpu import run

    monkeypatch.setattr(run, "DEVICE", "cpu")
    monkeypatch.setattr(run, "HEADS", {"32 + 8": (3, 1), "4 + 1": (1, 1)})
    monkeypatch.setattr(run, "SHAPES", ((1, 1), (3, 1), (1, 9)))
    return run


def test_without_a_gpu_it_says_so_and_measures_nothing():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = warm.run("-m", "benchmarks.gpu.run", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "no CUDA device" in done.stdout


def test_rotary_and_transformers_are_the_rotation_in_every_mode(gpu: ModuleType):
    peers = ("rotary", "transformers")
    for case in gpu.cases([]):
        for peer in peers:
            result = gpu.measure(case, peer, timed=False)
            assert result.get("none") == ("out of place only" if peer == peers[1] and case.mode == "in place" else None)


def test_what_the_compiler_is_given_is_the_rotation_as_formula_and_as_operator(gpu: ModuleType):
    for case in gpu.cases([3, 9]):
        if case.heads == "4 + 1":
            for peer in ("rotary under torch.compile", "rotary's operator under torch.compile"):
                torch.compiler.reset()
                result = gpu.measure(case, peer, timed=False)
                assert "none" not in result and result["error"] < gpu.CLOSE


def test_formula_and_operator_are_compared_where_both_were_measured(gpu: ModuleType):
    from benchmarks.gpu.report import FORMULA, OPERATOR, spellings

    def record(peer: str, seq: int, mode: str, cold: float | None) -> dict[str, Any]:
        case = gpu.Case("4 + 1", 1, seq, False, mode)._asdict()
        return {**case, "peer": peer, **({} if cold is None else {"cold": [cold], "warm": [1.0]})}

    rows = spellings(
        [
            record(FORMULA, 1, "forward", 3.0),
            record(OPERATOR, 1, "forward", 2.0),
            record(FORMULA, 9, "forward", None),
            record(OPERATOR, 9, "forward", 2.0),
            record(FORMULA, 9, "backward", 1.0),
            record(OPERATOR, 9, "backward", 4.0),
        ]
    ).splitlines()
    assert rows[0] == "|  | forward | backward |"
    assert rows[2:] == ["| 1 x 1 | 1.00 to 1.50 | not measured |", "| 1 x 9 | not measured | 0.25 to 1.00 |"]


def test_a_wrong_peer_is_named_and_not_timed(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch):
    from benchmarks.gpu.peers import PEERS, Peer

    for make in (
        lambda tables, mode: PEERS["rotary"].make(tables._replace(interleaved=not tables.interleaved), mode),
        lambda tables, mode: PEERS["rotary"].make(tables._replace(sin=-tables.sin), mode),
        lambda tables, mode: lambda q, k: (q * float("nan"), k),
    ):
        monkeypatch.setitem(gpu.PEERS, "wrong", Peer(make, PEERS["rotary"].layout))
        for case in gpu.cases([9]):
            assert gpu.measure(case, "wrong", timed=True)["none"].startswith("wrong")


def test_report(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Times made up so that rotary moves bytes at 95 % of the speed of a copy and all others at 10 %: what is then written."""
    now: dict[str, Any] = {}
    measure = gpu.measure

    def noting(case: Any, name: str, *, timed: bool) -> dict[str, Any]:
        now.update(case=case, name=name)
        return measure(case, name, timed=timed)

    def made_up(*_: object) -> Any:
        micro = now["case"].bytes / 4e6 / (0.95 if now["name"] == "rotary" else 0.1)
        return gpu.clock.Time(micro, micro, micro)

    def copied(count: int) -> Any:
        return gpu.clock.Time(2 * count / 4e6, 0.0, 0.0)

    monkeypatch.setattr(gpu.clock, "aside", contextlib.nullcontext)
    stubs = {"cold": made_up, "warm": made_up, "launches": lambda _: 1, "cold_calls": lambda _: 1}
    for name, stub in {**stubs, "host": lambda _: gpu.clock.Time(17.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(gpu.clock, name, stub)
    away = {name: "left out" for name in gpu.PEERS if name not in ("rotary", "transformers")}
    for name, stub in {"measure": noting, "copied": copied, "absent": lambda: away}.items():
        monkeypatch.setattr(gpu, name, stub)
    monkeypatch.setattr(gpu, "SHAPES", ((1, 1), (1, 4096)))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "commit", lambda: "0123")
    times = {"warm": gpu.clock.Time(1.0, 1.0, 1.0), "launches": 3}
    host = {"host": gpu.clock.Time(17.0, 0.0, 0.0)}
    contenders = gpu.gpu_tables.contenders(1, "cpu")
    tables = {
        str(n): {name: {**times, **(host if n <= 256 else {})} for name in contenders} for n in gpu.gpu_tables.TOKENS
    }
    monkeypatch.setattr(gpu.gpu_tables, "measure", lambda device: tables)
    gpu.run([], timed=True)
    text = (tmp_path / "gpu.md").read_text()
    assert len(json.loads((tmp_path / "gpu.json").read_text())["records"]) == 2 * 2 * 2 * 3 * 2
    assert "4.00 TB/s" in text and "left out" in text and "out of place only" in text
    rows = {
        (cells := line.strip("| ").split(" | "))[0]: cells[1:] for line in text.splitlines() if line.startswith("|")
    }
    assert rows["forward, 32 + 8 heads, 4k to 128k: share of copy >= 90 %"] == ["95.0%", "yes"]
    assert rows["faster than transformers everywhere"] == ["9.50", "yes"]
    assert rows["32k: >= 1.5 x torch.compile"][0] == "not measured"
    assert rows["launches for q and k"] == ["1", "yes"]
    assert rows["host time of a call <= 15 us"] == ["17.0", "NO"]
    assert rows["1 x 4096, half"][0].endswith("(95%)")
    assert rows["131,072"] == ["1.00 (3 launches)"] * 3 and rows["256"][0] == "1.00 (host 17.0, 3 launches)"

    kept = (tmp_path / "gpu.json").read_text()
    monkeypatch.setattr(gpu, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert len(gpu.run([], timed=True)["records"]) == 2 * 2 * 2 * 3 * 2
    assert (tmp_path / "gpu.json").read_text() == kept

    def broken(case: Any, name: str, *, timed: bool) -> dict[str, Any]:
        if name == "transformers":
            raise ZeroDivisionError("its own way")
        return noting(case, name, timed=timed)

    monkeypatch.setattr(gpu, "measure", broken)
    monkeypatch.setattr(results, "commit", lambda: "4567")
    result = gpu.run(["4096"], timed=True)["records"]  # of another commit nothing is kept
    assert len(result) == 2 * 2 * 3 * 2
    assert {r.get("none") for r in result if r["peer"] == "transformers"} == {"ZeroDivisionError: its own way"}


def test_tables_are_made_by_each_contender(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch):
    gpu_tables = gpu.gpu_tables
    monkeypatch.setattr(gpu_tables, "TOKENS", (1, 300))
    for name, stub in {"warm": (2.0,), "host": (17.0,), "launches": 3}.items():
        monkeypatch.setattr(gpu_tables.clock, name, lambda call, stub=stub: call() and stub)
    rows = gpu_tables.report(gpu_tables.measure("cpu")).splitlines()[-2:]
    assert rows == ["| 1" + " | 2.00 (host 17.0, 3 launches)" * 3 + " |", "| 300" + " | 2.00 (3 launches)" * 3 + " |"]

    made = {name: call() for name, call in gpu_tables.contenders(5, "cpu").items()}
    for result in made.values():
        for a, b in zip(result, made["rotary"], strict=True):
            torch.testing.assert_close(a.float()[..., :64], b, rtol=0, atol=2**-8)
