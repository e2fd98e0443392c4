"""What lies beside the shards: links stay inside, special files are refused by name, and folders end."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.checkpoints import by_weights, convert

CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 10000.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.randn(16, 16)}, folder / "model.safetensors")
    return folder


def refused(model: Path, match: str) -> None:
    """The conversion is refused in these words, and leaves nothing."""
    before = set(model.parent.iterdir())
    with pytest.raises(ValueError, match=match):
        convert(model, model.parent / "out", to="interleaved")
    assert set(model.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["notes.txt", "deep/notes.txt", "more.bin", "up", "model-2.safetensors"])
def test_a_link_that_leaves_the_source_is_refused(name: str, model: Path, tmp_path: Path):
    """A downloaded folder could otherwise carry a private file, or a whole disk, into a folder that is published."""
    secret = tmp_path / "id_rsa"
    secret.write_text("private")
    if name == "model-2.safetensors":  # also if it is converted
        save_file({"model.layers.1.self_attn.q_proj.weight": torch.randn(16, 16)}, secret)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).symlink_to(tmp_path if name == "up" else os.path.relpath(secret, (model / name).parent))
    refused(model, f"{name}' is a link that leaves .*put the file itself in its place, or remove the link")


def test_links_inside_the_source_are_copied_as_files_and_links_to_folders_are_left_out(model: Path, tmp_path: Path):
    (model / "pictures").mkdir()
    (model / "pictures" / "a.png").write_bytes(b"a")
    (model / "b.png").symlink_to("pictures/a.png")
    (model / "assets").symlink_to("pictures")
    (model / "pictures" / "all").symlink_to(model)
    (model / "nowhere").symlink_to(tmp_path / "none")
    (model / "round").symlink_to("round")
    done = convert(model, tmp_path / "out", to="interleaved")
    assert done.left_out == ("assets", "nowhere", "pictures/all", "round")
    assert (tmp_path / "out" / "b.png").read_bytes() == (tmp_path / "out" / "pictures" / "a.png").read_bytes() == b"a"
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_weights_of_every_kind_and_their_indexes_are_left_out(model: Path, tmp_path: Path):
    """An index would name files that are not there, and weights would have the old pairing."""
    endings = [
        "bin",
        "pt",
        "pth",
        "pt2",
        "ckpt",
        "distcp",
        "pkl",
        "pickle",
        "npy",
        "npz",
        "gguf",
        "ggml",
        "msgpack",
        "h5",
        "hdf5",
    ]
    endings += ["keras", "ot", "onnx", "onnx_data", "onnx.data", "pb", "tflite", "nemo"]
    left_out = [f"weights.{ending}" for ending in endings] + ["M.BIN", "Optimizer.Pt", "deep/rust_model.ot"]
    left_out += ["pytorch_model.bin.index.json", "pytorch_model.bin.index.fp16.json", "tf_model.h5.index.json"]
    left_out += [
        "deep/model.safetensors.index.json",
        "model.safetensors.sha256",
        "m.ckpt.data-00000-of-00001",
        "m.ckpt.index",
    ]
    copied = ["README.pt.md", "tokenizer.model", "index.json", "binary", "model.json", "deep/pt", "x.bin.txt"]
    for name in (*left_out, *copied):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    index = {"weight_map": {"model.layers.0.self_attn.q_proj.weight": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "consolidated.safetensors.index.json").write_text(json.dumps(index))
    done = convert(model, tmp_path / "out", to="interleaved")
    assert sorted(done.left_out) == sorted([*left_out, "consolidated.safetensors.index.json"])
    copies = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert copies == {*copied, "config.json", "model.safetensors", "model.safetensors.index.json"}


def test_folders_that_link_to_each_other_are_copied_once(model: Path, tmp_path: Path):
    for here, there in (("one", "two"), ("two", "one")):
        (model / here).mkdir()
        (model / here / "file").write_text(here)
        for number in range(3):
            (model / here / f"link{number}").symlink_to(model / there)
    done = convert(model, tmp_path / "out", to="interleaved")
    assert len(done.left_out) == 6
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")) == [
        "config.json",
        "model.safetensors",
        "one",
        "one/file",
        "two",
        "two/file",
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "notes.txt", "model.safetensors.index.json", "config.json"])
def test_a_fifo_is_refused_by_name(name: str, model: Path):
    """To open one waits for ever."""
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    refused(model, f"{name}' is a FIFO, not a regular file; remove it")
    if name == "model.safetensors":
        with pytest.raises(ValueError, match="is a FIFO"):
            by_weights(model)


def test_a_link_to_a_device_is_refused(model: Path):
    (model / "zero").symlink_to("/dev/zero")
    refused(model, "zero' is a link that leaves")
    (model / "zero").rename(model / "zero.safetensors")
    refused(model, "zero.safetensors' is a device")


def test_a_socket_is_refused_by_name(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(model)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("talk")
        refused(model, "talk' is a socket")


def test_folders_have_a_limit_of_depth(model: Path):
    (model / "/".join(["d"] * 70)).mkdir(parents=True)
    refused(model, "is more than 64 folders below")


def test_a_config_that_nests_without_end_is_refused(model: Path):
    (model / "config.json").write_text("[" * 100_000)
    refused(model, "config.json' nests too deeply")
