"""The two commands, as typed."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.cli.main import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    sizes = '"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0'
    (folder / "config.json").write_text(f'{{"model_type": "llama", {sizes}}}')
    rows = {"q": 64, "k": 32}
    save_file(
        {f"model.layers.0.self_attn.{n}_proj.weight": torch.randn(r, 64) for n, r in rows.items()},
        folder / "model.safetensors",
    )
    return folder


def test_convert(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "out"
    assert main(["convert", str(checkpoint), str(target), "--to", "interleaved"]) == 0
    said = capsys.readouterr().out
    assert f"2 tensors in 1 files now pair as interleaved: {target}" in said
    assert "attention scores of 1 layers agree to" in said
    assert main(["convert", str(checkpoint), str(target), "--to", "interleaved"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(checkpoint), str(tmp_path / "no"), "--to", "half", "--like", "lama"]) == 2
    assert "no table of tensors for model_type 'lama'" in capsys.readouterr().err


def test_pairing(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["pairing", str(checkpoint)]) == 0
    assert capsys.readouterr().out.startswith("unknown\n")
    assert main(["pairing", str(checkpoint / "none")]) == 2
    assert "no safetensors file at" in capsys.readouterr().err


def test_what_was_left_out_is_named(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (checkpoint / "pytorch_model.bin").write_bytes(b"weights")
    assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]) == 0
    assert "not converted and left out: pytorch_model.bin" in capsys.readouterr().out


def test_asked_to_terminate_it_leaves_nothing(checkpoint: Path, tmp_path: Path):
    """SIGTERM unwinds; a run that ends by itself leaves the handler that it found."""
    script = f"""
import contextlib, signal, sys, time
from rotary import cli
from rotary.cli import convert
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert cli.main(["convert", {str(checkpoint)!r}, {str(tmp_path / "first")!r}, "--to", "interleaved"]) == 0
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
@contextlib.contextmanager
def slow():
    def show(file, done, total):
        print("at work", flush=True)
        time.sleep(30)
    yield show
convert._bar = slow
sys.exit(cli.main(["convert", {str(checkpoint)!r}, {str(tmp_path / "out")!r}, "--to", "interleaved"]))
"""
    with subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "at work" not in process.stdout.readline():
            assert process.poll() is None
        assert (tmp_path / ".out.partial").exists()
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.iterdir()} == {"model", "first"}


def test_a_handler_that_was_there_is_there_afterwards(checkpoint: Path, tmp_path: Path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]) == 0
        assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]) == 2
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_may_convert_too(checkpoint: Path, tmp_path: Path):
    """Only the main thread may set what a signal does."""
    arguments = ["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, arguments).result() == 0
