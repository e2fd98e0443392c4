"""The files of torch.save that a folder holds, and the names and index of what is written from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors")
from safetensors.torch import load_file

from rotary.checkpoints import by_weights, convert

CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 10000.0}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def weights() -> dict[str, Tensor]:
    return {f"model.layers.0.self_attn.{role}_proj.weight": torch.randn(16, 16) for role in "qkv"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("indexed", [True, False])
def test_one_shard_under_a_numbered_name_is_written_with_an_index(indexed: bool, model: Path, tmp_path: Path):
    """transformers looks for model.safetensors or an index; without the latter it finds no model."""
    tensors = weights()
    torch.save(tensors, model / "pytorch_model-00001-of-00001.bin")
    if indexed:
        index = {"weight_map": dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")}
        (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert convert(model, tmp_path / "out", to="interleaved").left_out == ()
    assert names(tmp_path / "out") == {"config.json", "model-00001-of-00001.safetensors", INDEX}
    written = json.loads((tmp_path / "out" / INDEX).read_text())
    assert written["weight_map"] == dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    assert written["metadata"]["total_size"] == 3 * 16 * 16 * 4
    convert(tmp_path / "out", tmp_path / "back", to="half")
    assert names(tmp_path / "back") == names(tmp_path / "out")
    back = load_file(tmp_path / "back" / "model-00001-of-00001.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_transformers_loads_one_shard_under_a_numbered_name(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, vocab_size=9, num_attention_heads=2
    )
    llama = transformers.LlamaForCausalLM(config)
    config.save_pretrained(tmp_path / "model")
    torch.save(llama.state_dict(), tmp_path / "model" / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(llama.state_dict(), "pytorch_model-00001-of-00001.bin")}
    (tmp_path / "model" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    convert(tmp_path / "model", tmp_path / "out", to="interleaved")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert torch.equal(loaded["lm_head.weight"], llama.state_dict()["lm_head.weight"])


def test_a_file_that_is_passed_or_has_the_name_of_a_whole_model_needs_no_index(model: Path, tmp_path: Path):
    torch.save(weights(), model / "pytorch_model.bin")
    convert(model, tmp_path / "out", to="interleaved")
    assert names(tmp_path / "out") == {"config.json", "model.safetensors"}
    convert(model / "pytorch_model.bin", tmp_path / "single" / "half.safetensors", to="interleaved")
    assert names(tmp_path / "single") == {"half.safetensors"}
    (model / "pytorch_model.bin").rename(model / "M.BIN")
    assert convert(model / "M.BIN", tmp_path / "upper.safetensors", to="interleaved").tensors == 2


def test_a_folder_with_a_model_under_another_name_is_refused_with_that_name(model: Path):
    with pytest.raises(ValueError, match="nor consolidated.00.pth or pytorch_model.bin$"):
        by_weights(model)
    torch.save(weights(), model / "model.pt")
    with pytest.raises(ValueError, match="or pytorch_model.bin; if model.pt is the model, pass that file"):
        by_weights(model)
    assert by_weights(model / "model.pt").pairing == "unknown"
