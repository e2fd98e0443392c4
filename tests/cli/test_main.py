"""The command `rotary`: info, one line per error, and closed pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import rotary
from rotary._native import library
from rotary._rotation import backends, call
from rotary.cli.main import main
from support import warm


def test_info_prints_versions_device_and_each_kernel(capsys: pytest.CaptureFixture[str]):
    assert main(["info"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["rotary"] == rotary.__version__
    assert printed["torch"] == torch.__version__
    assert printed["python"] == sys.version.split()[0]
    assert printed["device"]
    states = rotary.backends()
    if states["native"] == "available":
        way = call.unavailable()
        states["native"] += f", {library.threads()}, {library.instruction_set()}; "
        states["native"] += "whole calls in C" if way is None else f"calls step by step: {way}"
    assert {name: printed[name] for name in backends.NAMES} == states


def test_info_says_where_and_how_the_native_loops_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(rotary, "backends", lambda: {"eager": "available", "native": "available"})
    monkeypatch.setattr(library, "threads", lambda: "one thread: a reason")
    monkeypatch.setattr(library, "instructions", lambda: "baseline; built without the rest: a reason")
    for way, calls in ((None, "whole calls in C"), ("a reason", "calls step by step: a reason")):
        monkeypatch.setattr(call, "unavailable", lambda: way)
        assert main(["info"]) == 0
        assert capsys.readouterr().out.splitlines()[-2:] == [
            "eager    available",
            f"native   available, one thread: a reason, baseline; built without the rest: a reason; {calls}",
        ]


def test_info_gives_the_reason_why_a_kernel_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(backends.kernel("native"), "unavailable", lambda: "no compiler was found")
    assert main(["info"]) == 0
    assert "native   no compiler was found" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("arguments", [["inform"], ["info", "--loud"]])
def test_an_unknown_command_is_refused_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: rotary" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("dim must be a positive even integer, got 9"), "dim must be a positive even integer, got 9"),
        (
            RuntimeError("CUDA error: invalid device\n\nCompile with\n  TORCH_USE"),
            "CUDA error: invalid device Compile with TORCH_USE",
        ),
        (ImportError("sentencepiece is missing"), "sentencepiece is missing"),
        (OSError(), "OSError"),
        (OverflowError("cannot convert float infinity to integer"), "cannot convert float infinity to integer"),
    ],
)
def test_an_error_is_one_line_and_status_2(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse() -> dict[str, str]:
        raise error

    monkeypatch.setattr(rotary, "backends", refuse)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == f"rotary info: {line}\n"


def test_python_m_rotary_is_the_command():
    run = warm.run("-m", "rotary", "info")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"rotary   {rotary.__version__}\n")
    assert warm.run("-m", "rotary", "inform").returncode == 2


def test_a_pipe_that_is_closed_early_is_no_error():
    run = subprocess.run(
        f"{sys.executable} -m rotary show --json --all | head -n 1", shell=True, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("{\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["show", "llama-3.1-8b"], ["show", "--json", "--all"]])
def test_a_pipe_that_is_closed_from_the_start_is_no_error(arguments: list[str]):
    """Short outputs fail when they are flushed, long ones while they are printed, help before any command runs."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        run = warm.run("-m", "rotary", *arguments, stdout=pipe.fileno())
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["info"], ["show", "plain"]])
def test_a_standard_output_that_is_closed_is_no_error(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    """After `>&-` Python's sys.stdout is None."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(arguments) == 0


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"rotary {rotary.__version__}\n"


def test_a_bare_command_prints_its_help(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "usage: rotary" in printed and "pairing" in printed


def test_info_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rotary"] == rotary.__version__
    assert set(found["backends"]) == set(rotary.backends())
