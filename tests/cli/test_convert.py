"""`rotary convert` and `rotary pairing`: output, refusals, and no files left behind after a signal."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.cli import convert as command
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
    printed = capsys.readouterr().out
    assert f"2 tensors in 1 file now pair as interleaved: {target}" in printed
    assert "attention scores of 1 layer agree to" in printed
    assert main(["convert", str(checkpoint), str(target), "--to", "interleaved"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(checkpoint), str(tmp_path / "no"), "--to", "half", "--like", "lama"]) == 2
    assert "no table of tensors for model_type 'lama'" in capsys.readouterr().err


def test_pairing(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["pairing", str(checkpoint)]) == 3
    assert capsys.readouterr().out.startswith("unknown\n")
    assert main(["pairing", str(checkpoint), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["pairing"] == "unknown" and found["why"] and found["standard_errors"] < 4
    assert main(["pairing", str(checkpoint / "none")]) == 2
    assert f"no file or folder at '{checkpoint / 'none'}'" in capsys.readouterr().err


def test_files_that_are_left_out_are_named(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (checkpoint / "pytorch_model.bin").write_bytes(b"weights")
    assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]) == 0
    assert "not converted and left out: pytorch_model.bin" in capsys.readouterr().out


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_tidying_after_a_signal_is_not_interrupted_by_more(first: signal.Signals, checkpoint: Path, tmp_path: Path):
    """A signal unwinds the conversion; what follows while it tidies is ignored. Afterwards the handlers are those from before."""
    script = f"""
import contextlib, signal, shutil, sys, time
from rotary import cli
from rotary.checkpoints import target
from rotary.cli import convert
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # under nohup, say, one is ignored
assert cli.main(["convert", {str(checkpoint)!r}, {str(tmp_path / "first")!r}, "--to", "interleaved"]) == 0
for number in (signal.SIGTERM, signal.SIGHUP):
    assert signal.getsignal(number) is signal.SIG_DFL
@contextlib.contextmanager
def slow():
    def show(file, done, total):
        print("at work", flush=True)
        time.sleep(30)
    yield show
remove = shutil.rmtree
def slowly(path, **options):
    print("tidying", flush=True)
    time.sleep(0.5)
    remove(path, **options)
convert._bar, target.shutil.rmtree = slow, slowly
sys.exit(cli.main(["convert", {str(checkpoint)!r}, {str(tmp_path / "out")!r}, "--to", "interleaved"]))
"""
    with subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "at work" not in process.stdout.readline():
            assert process.poll() is None
        assert len(list(tmp_path.glob(".rotary-*"))) == 1
        process.send_signal(first)
        assert "tidying" in process.stdout.readline()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        assert process.wait(20) == 128 + first
    assert {path.name for path in tmp_path.iterdir()} == {"model", "first"}


def test_a_target_that_another_conversion_made_meanwhile_is_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    arguments = ["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]
    statuses: list[int] = []

    @contextlib.contextmanager
    def with_none():
        yield lambda file, done, total: None

    @contextlib.contextmanager
    def with_one_inside():
        monkeypatch.setattr(command, "_bar", with_none)
        yield lambda file, done, total: statuses or statuses.append(main(arguments))

    monkeypatch.setattr(command, "_bar", with_one_inside)
    assert main(arguments) == 2
    assert statuses == [0]
    assert "appeared during the conversion and stays as it is" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_the_signal_handler_from_before_is_restored(checkpoint: Path, tmp_path: Path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]) == 0
        assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]) == 2
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_may_convert_too(checkpoint: Path, tmp_path: Path):
    """Signal handlers can be set in the main thread alone."""
    arguments = ["convert", str(checkpoint), str(tmp_path / "out"), "--to", "interleaved"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, arguments).result() == 0


def test_messages_name_the_flags_and_the_file(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def refused(*arguments: str) -> str:
        assert main(["convert", str(checkpoint), str(tmp_path / "out"), *arguments]) == 2
        error = capsys.readouterr().err
        assert (
            str(checkpoint) in error
            and "source_pairing=" not in error
            and "config=" not in error
            and "like=" not in error
        )
        return error

    assert "pass --like with a family" in refused("--to", "half", "--like", "lama")
    assert "pass its actual pairing as --from" in refused("--to", "half")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    assert "pass --from to a conversion, or write" in refused("--to", "half", "--like", "llama")
    (checkpoint / "config.json").write_text("{")
    assert f"{checkpoint / 'config.json'}' is not JSON" in refused("--to", "half")
    (checkpoint / "config.json").unlink()
    assert "pass --config (for an adapter" in refused("--to", "half")


def test_metas_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "llama"
    folder.mkdir()
    for i in range(2):
        weights = {f"layers.0.attention.{n}.weight": torch.randn(r, 64) for n, r in (("wq", 32), ("wk", 16))}
        torch.save(weights, folder / f"consolidated.0{i}.pth")
    (folder / "params.json").write_text(
        '{"dim": 64, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0}'
    )
    assert main(["pairing", str(folder), "--json"]) == 3
    assert "2 weights of queries or keys, but 8 are needed" in json.loads(capsys.readouterr().out)["why"]
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "half"]) == 0
    assert "2 tensors in 1 file now pair as half" in capsys.readouterr().out
    assert (tmp_path / "out" / "consolidated.safetensors").is_file()


@pytest.mark.parametrize("tokens", ["-5", "0", "1"])
def test_tokens_that_are_too_few(
    tokens: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    transformers = pytest.importorskip("transformers")
    text = tmp_path / "text"
    text.write_text("a b c")
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda _: lambda *_, **__: {"input_ids": torch.arange(3)[None]}
    )
    assert main(["pairing", str(checkpoint), "--text", str(text), "--tokens", tokens]) == 2
    error = capsys.readouterr().err
    assert ("a loss needs two tokens; --text has 1" if tokens == "1" else "--tokens must be at least 1, got") in error


def test_arguments_of_pairing_that_do_not_fit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refused(*arguments: str) -> str:
        assert main(["pairing", *arguments]) == 2
        return capsys.readouterr().err

    assert "--tokens counts tokens of --text; pass --text too" in refused(str(checkpoint), "--tokens", "5")
    assert refused(str(tmp_path / "no")) == f"rotary pairing: no file or folder at '{tmp_path / 'no'}'\n"
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = transformers.LlamaForCausalLM(config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda _: model)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda _: lambda *_, **__: {"input_ids": torch.arange(3)[None]}
    )
    text = tmp_path / "text"
    text.write_text("a b c")
    assert "pass --like with a family" in refused(str(checkpoint), "--text", str(text), "--like", "lama")
    text.write_bytes(b"\xff")
    assert f"--text {text} is not UTF-8" in refused(str(checkpoint), "--text", str(text))
