"""`rotary bench`: it times rotations and nothing else, contenders in turn, and prints what the options ask for."""

from __future__ import annotations

import json

import pytest
import torch

from rotary.cli.bench import Work, alternate, contenders, half_width, judge, usual
from rotary.cli.main import main


def test_contenders_take_turns():
    calls: list[str] = []
    timings = alternate({name: lambda name=name: calls.append(name) for name in "abc"}, seconds=0.0, rounds=(5, 5))
    assert list(timings) == list("abc") and all(t.low <= t.median <= t.high for t in timings.values())
    runs = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert "".join(runs[-15:]) == "abc" * 5


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_formulas_are_rotations(dtype: torch.dtype, transposed: bool):
    """Compared with complex multiplication in float64."""
    work = Work(6, 4, 2, 16, dtype=dtype, transposed=transposed)
    q, k = work.tensors()
    cos, sin = work.tables()
    turn = torch.complex(cos.double(), sin.double())
    wide = [torch.cat((t, t), -1).to(dtype) for t in (cos, sin)]
    for result in (usual(q, k, *wide), half_width(q, k, cos, sin)):
        for x, y in zip((q, k), result, strict=True):
            z = torch.complex(*x.double().chunk(2, -1)) * turn
            assert (y - torch.cat((z.real, z.imag), -1)).abs().max() < 16 * torch.finfo(dtype).eps
            assert y.dtype == dtype


def test_shapes_of_the_work():
    q, k = Work(3, 4, 2, 16, batch=2, transposed=True).tensors()
    assert (q.shape, k.shape) == ((2, 4, 3, 16), (2, 2, 3, 16)) and q.stride() == (192, 16, 64, 1)
    decode = Work(1, batch=3, rotary_dim=64).tables()[0]
    assert decode.shape == (3, 1, 32) and not torch.equal(decode[0], decode[1])
    assert "usual formula, eager" not in contenders(Work(2, 2, 1, 16, rotary_dim=8), compiled=False)


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
    assert "3 tokens, 2 + 1 heads of 16, float32, cpu" in printed and "1.00 x" in printed
    assert main(["bench", "--seq", "0"]) == 2 and "must be positive" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "toaster", "meta:x"])
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
    assert (found["heads"], found["head_dim"], found["dtype"], found["device"]) == ([2, 1], 16, "float32", "cpu")
    assert [each["tokens"] for each in found["measured"]] == [1, 3]
    for each in found["measured"]:
        assert {"copy_ into allocated", "rotary", "rotary, in place"} <= each["seconds"].keys()
        assert all(0 < t["low"] <= t["median"] <= t["high"] for t in each["seconds"].values())
