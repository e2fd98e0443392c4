"""`rotary bench`: it times rotations and nothing else, contenders in turn, and prints what the options ask for."""

from __future__ import annotations

import json
import time

import pytest
import torch

from rotary.cli import bench
from rotary.cli.bench import contenders, title
from rotary.cli.clock import Rota, alternate
from rotary.cli.main import main
from rotary.cli.work import Work, float32_product, half_width, judge, usual, wide


def test_contenders_take_turns():
    calls: list[str] = []
    timings = alternate({name: lambda name=name: calls.append(name) for name in "abc"}, seconds=0.0, rounds=(5, 5))
    assert list(timings) == list("abc") and all(t.low <= t.median <= t.high for t in timings.values())
    runs = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert "".join(runs[-15:]) == "abc" * 5


def test_in_the_cache_each_contender_runs_once_before_it_is_timed():
    """Else it would be timed while it reads what the contender before it left out of the cache."""
    calls: list[str] = []

    def slow(name: str):
        calls.append(name)
        time.sleep(2e-4)  # above the time at which calls are timed several at a time

    alternate({name: lambda name=name: slow(name) for name in "ab"}, seconds=0.0, rounds=(5, 5), in_cache=True)
    assert "".join(calls[-20:]) == "aabb" * 5


def test_sets_take_turns_whoever_calls():
    """Contenders that each went through the sets by themselves would find what the one before them has just read."""
    used: list[tuple[str, int]] = []
    rota = Rota(range(3))
    a, b = (rota.contender(lambda n, name=name: lambda: used.append((name, n))) for name in "ab")
    for call in (a, b, b, a, a):
        call()
    assert used == [("a", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1)]


def test_from_memory_the_sets_fill_the_last_cache_four_times(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rotary.cli.work.last_cache", lambda: 10_000)
    work = Work(4, 2, 1, 16, dtype=torch.float16)
    assert work.bytes == 4 * 3 * 16 * 2 and work.fits_the_cache()
    rota = work.inputs(from_memory=True)
    assert (len(rota) - 1) * work.bytes < 4 * 10_000 <= len(rota) * work.bytes
    addresses = {x.data_ptr() for inputs in rota for x in inputs}
    assert len(addresses) == 4 * len(rota) and len(work.inputs()) == 1
    assert not Work(64, 2, 1, 16).fits_the_cache()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [0, 8])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_formulas_are_rotations(dtype: torch.dtype, transposed: bool, rotary_dim: int, interleaved: bool):
    """Compared with complex multiplication in float64."""
    work = Work(6, 4, 2, 16, rotary_dim=rotary_dim, dtype=dtype, transposed=transposed, interleaved=interleaved)
    q, k = work.tensors()
    cos, sin = work.tables()
    turn = torch.complex(cos.double(), sin.double())
    tables = wide(cos, sin, dtype, interleaved=interleaved)
    for result in (usual(q, k, *tables, interleaved), half_width(q, k, cos, sin, interleaved)):
        for x, y in zip((q, k), result, strict=True):
            part = x[..., : work.dim].double()
            a, b = (part[..., ::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
            z = torch.complex(a, b) * turn
            turned = torch.stack((z.real, z.imag), -1).flatten(-2) if interleaved else torch.cat((z.real, z.imag), -1)
            assert (y[..., : work.dim] - turned).abs().max() < 16 * torch.finfo(dtype).eps
            assert torch.equal(y[..., work.dim :], x[..., work.dim :]) and y.dtype == dtype


def test_shapes_of_the_work():
    q, k = Work(3, 4, 2, 16, batch=2, transposed=True).tensors()
    assert (q.shape, k.shape) == ((2, 4, 3, 16), (2, 2, 3, 16)) and q.stride() == (192, 16, 64, 1)
    decode = Work(1, batch=3, rotary_dim=64).tables()[0]
    assert decode.shape == (3, 1, 32) and not torch.equal(decode[0], decode[1])
    odd = Work(2, 4, 2, 80, 3, 32, torch.float16, True, True)
    assert title(odd) == "2 tokens, 4 + 2 heads of 80, batch 3, 32 channels rotate, interleaved, transposed, float16"


@pytest.mark.parametrize("work", [Work(3, 2, 1, 16), Work(1, 2, 1, 16, batch=3), Work(1, 2, 1, 16, rotary_dim=8)])
def test_calls_with_tables_rotate_as_ready_tables_do(work: Work):
    """`rotate(offset=)` gives the same bits, and the float32 product the same rotation to the error of its angles."""
    calls = contenders(work, compiled=False)
    ready, whole, product = (
        calls[name]() for name in ("rotary", "rotary, rotate(offset=)", "float32 product + usual formula")
    )
    assert all(torch.equal(x, y) for x, y in zip(ready, whole, strict=True))
    for x, y in zip(ready, product, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=5e-3)
    exact, rounded = calls["rotary, cos_sin"](), calls["float32 product"]()
    for table, theirs in zip(exact, rounded, strict=True):
        torch.testing.assert_close(table, theirs, rtol=0, atol=1e-3)
    assert float32_product(work.positions(), work.rope().inv_freq)[0].shape == work.tables()[0].shape


def test_a_wrong_formula_is_not_timed():
    truth = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="it is not timed: it differs from the rotation by 1 in torch.float32"):
        judge("it", (torch.ones(2, 3), torch.zeros(2, 3)), truth, torch.float32)
    with pytest.raises(RuntimeError):
        judge("it", (torch.full((2, 3), torch.nan), torch.zeros(2, 3)), truth, torch.float32)


def test_the_command(capsys: pytest.CaptureFixture[str]):
    sizes = ["--seq", "1", "3", "--heads", "2", "1", "--head-dim", "16", "--seconds", "0.01"]
    assert main(["bench", *sizes, "--device", "cpu", "--no-compile"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("rotary, in place") == printed.count("usual formula, eager") == 2
    assert "3 tokens, 2 + 1 heads of 16, float32, cpu, in cache" in printed and "1.00 x" in printed
    assert f"{torch.get_num_threads()} threads; torch {torch.__version__}" in printed.splitlines()[0]
    for flag, value in (
        ("--seq", "0"),
        ("--heads", "0 1"),
        ("--batch", "-1"),
        ("--head-dim", "0"),
        ("--seq", str(2**63)),
    ):
        assert main(["bench", flag, *value.split()]) == 2 and f"bench: {flag} must be at " in capsys.readouterr().err
    for seconds in ("0", "nan", "inf"):
        assert main(["bench", "--seconds", seconds]) == 2
        assert "bench: --seconds must be a finite number > 0" in capsys.readouterr().err


def test_every_dtype_that_is_asked_for_in_the_layout_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rotary.cli.work.last_cache", lambda: 10_000)
    sizes = ["--seq", "2", "--heads", "2", "1", "--head-dim", "16", "--rotary-dim", "8", "--seconds", "0.01"]
    layout = ["--interleaved", "--transposed", "--from-memory", "--dtype", "float16", "float64"]
    assert main(["bench", *sizes, *layout, "--device", "cpu", "--no-compile"]) == 0
    printed = capsys.readouterr().out
    for dtype in ("float16", "float64"):
        assert f"8 channels rotate, interleaved, transposed, {dtype}, cpu, from memory" in printed
    assert printed.count(bench.COPY) == 2


@pytest.mark.parametrize("dim", ["7", "18", "-2"])
def test_channels_that_cannot_rotate_are_one_line(dim: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--seq", "1", "--head-dim", "16", "--rotary-dim", dim, "--device", "cpu"]) == 2
    assert f"must be even and at most --head-dim 16, got {dim}" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "toaster", "meta", "meta:0", "meta:x"])
def test_a_device_that_cannot_be_used_is_one_line(device: str, capsys: pytest.CaptureFixture[str]):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", "--device", device, "--seq", "1", "--no-compile"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"rotary bench: --device {device!r} cannot be used: ")


def test_json_has_seconds_of_each_contender(capsys: pytest.CaptureFixture[str]):
    sizes = ["--seq", "1", "3", "--heads", "2", "1", "--head-dim", "16", "--seconds", "0.01", "--device", "cpu"]
    assert main(["bench", *sizes, "--no-compile", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["heads"], found["head_dim"], found["device"]) == ([2, 1], 16, "cpu") and found["machine"]
    assert [(each["tokens"], each["dtype"]) for each in found["measured"]] == [(1, "float32"), (3, "float32")]
    for each in found["measured"]:
        assert {"copy_ into allocated", "rotary", "rotary, in place"} <= each["seconds"].keys()
        assert all(0 < t["low"] <= t["median"] <= t["high"] for t in each["seconds"].values())
