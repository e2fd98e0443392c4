"""`rotary` on the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import rotary
from rotary._rotation import backends
from rotary.cli.main import main


def test_info_says_versions_device_and_each_kernel(capsys: pytest.CaptureFixture[str]):
    assert main(["info"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["rotary"] == rotary.__version__
    assert said["torch"] == torch.__version__
    assert said["python"] == sys.version.split()[0]
    assert said["device"]
    assert {name: said[name] for name in backends.NAMES} == rotary.backends()


def test_info_gives_the_reason_of_a_kernel_that_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(backends.kernel("native"), "unavailable", lambda: "no compiler was found")
    assert main(["info"]) == 0
    assert "native   no compiler was found" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("arguments", [[], ["inform"], ["info", "--loud"]])
def test_an_unknown_command_is_refused_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: rotary" in capsys.readouterr().err


def test_what_cannot_be_honoured_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse() -> dict[str, str]:
        raise ValueError("dim must be a positive even integer, got 9")

    monkeypatch.setattr(rotary, "backends", refuse)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "rotary info: dim must be a positive even integer, got 9\n"


def test_python_m_rotary_is_the_command():
    run = subprocess.run((sys.executable, "-m", "rotary", "info"), capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"rotary   {rotary.__version__}\n")
    assert subprocess.run((sys.executable, "-m", "rotary"), capture_output=True).returncode == 2


def test_a_reader_that_has_read_enough_is_no_error():
    run = subprocess.run(
        f"{sys.executable} -m rotary show --json --all | head -n 1", shell=True, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("{\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["show", "llama-3.1-8b"], ["show", "--json", "--all"]])
def test_a_pipe_whose_reader_is_gone_from_the_start_is_no_error(arguments: list[str]):
    """Short outputs meet the closed pipe when they are flushed, long ones while they are printed, help before any command runs."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writer, "wb") as pipe:
        run = subprocess.run(
            (sys.executable, "-m", "rotary", *arguments), stdout=pipe, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert (run.returncode, run.stderr) == (0, "")
