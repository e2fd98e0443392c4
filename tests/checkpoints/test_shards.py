"""The files of one checkpoint: those that its index names, or all that lie there, complete and once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.checkpoints import by_weights, convert
from rotary.checkpoints.shards import Index, check_once, read_index

CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 10000.0}
INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[str]:
    return [path.name for path in read_index(folder, "model.safetensors").shards(sorted(folder.glob("*.safetensors")))]


def empty(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def weights(layer: int) -> dict[str, Tensor]:
    return {f"model.layers.{layer}.self_attn.{role}_proj.weight": torch.randn(16, 16) for role in "qk"}


def written(folder: Path, layers: dict[str, int], kind: str) -> Path:
    """A folder with these files, each with the weights of one layer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, layer in layers.items():
        save = save_file if kind == "safetensors" else torch.save
        save(weights(layer), folder / name)
    return folder


def refused(folder: Path, match: str) -> None:
    """by_weights and convert refuse it in these words, and nothing is written."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ValueError, match=match):
        by_weights(folder)
    with pytest.raises(ValueError, match=match):
        convert(folder, folder.parent / "out", to="interleaved")
    assert sorted(folder.parent.rglob("*")) == before


def test_shards_of_an_index_are_all_there(tmp_path: Path):
    empty(tmp_path, "model-1.safetensors")
    weight_map = {"a": "model-1.safetensors", "z": "model-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors, which its index names"):
        shards(tmp_path)
    empty(tmp_path, "model-2.safetensors")
    assert shards(tmp_path) == ["model-1.safetensors", "model-2.safetensors"]


def test_files_that_the_index_does_not_name_are_not_shards(tmp_path: Path):
    """Mistral's repositories contain the weights a second time, in consolidated*.safetensors."""
    empty(tmp_path, *(f"{name}.safetensors" for name in ("model-1", "model-2", "consolidated", "consolidated-1")))
    index = tmp_path / INDEX
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    other = tmp_path / "consolidated.safetensors.index.json"
    other.write_text(json.dumps({"weight_map": {"a": "consolidated-1.safetensors"}}))
    assert shards(tmp_path) == ["model-1.safetensors", "model-2.safetensors"]
    index.unlink()
    assert shards(tmp_path) == ["consolidated-1.safetensors"]
    for text in ("[]", "{}", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000):
        other.write_text(text)
        with pytest.raises(ValueError, match=r"consolidated\.safetensors\.index\.json is not a safetensors index"):
            shards(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path):
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    check_once([(one, "a"), (two, "b")])
    with pytest.raises(ValueError, match=r"a is both in .*1\.safetensors and in .*2\.safetensors"):
        check_once([(one, "a"), (two, "b"), (two, "a")])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_is_noticed_by_the_numbers_in_the_names(kind: str, tmp_path: Path):
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{n}-of-00002.{kind}" for n in (1, 2)]
    for absent, present in (names, names[::-1]):
        folder = written(tmp_path / absent, {present: 0}, kind)
        refused(folder, f"{absent} is not complete: it lacks {absent}; download it, or pass a single file")
        single = convert(folder / present, tmp_path / f"{absent}.safetensors", to="interleaved")
        assert single.tensors == 2  # a file that is named is read alone
    whole = written(tmp_path / "whole", dict(zip(names, range(2), strict=True)), kind)
    assert convert(whole, tmp_path / "out", to="interleaved").files == 2


def test_names_are_numbered_from_one_or_from_zero_and_by_group(tmp_path: Path):
    def lacks(*names: str) -> str | None:
        try:
            Index(tmp_path).shards([tmp_path / f"{name}.safetensors" for name in names])
        except ValueError as error:
            return str(error).partition("lacks ")[2].partition(".safetensors")[0]
        return None

    assert lacks("model", "adapter") is None
    assert lacks("a-00000-of-00002", "a-00001-of-00002", "b-1-of-1") is None
    assert lacks("a-00000-of-00002") == "a-00001-of-00002"
    assert lacks("a-00001-of-00003", "a-00003-of-00003") == "a-00002-of-00003"
    assert lacks("a-00001-of-00002", "a-00003-of-00002") == "a-00002-of-00002"
    assert lacks("a-00001-of-00001", "b-00001-of-00002") == "b-00002-of-00002"
    assert lacks(f"a-1-of-{10**30}") == f"a-2-of-{10**30}"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_tensors_that_the_index_names_are_all_in_the_files(kind: str, tmp_path: Path):
    """The files of an interrupted download may all be there, and one of them be another's."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{n}-of-00002.{kind}" for n in (1, 2)]
    folder = written(tmp_path / "model", {names[0]: 0, names[1]: 3}, kind)
    index = folder / f"{stem}.{kind}.index.json"
    weight_map = {tensor: name for name, layer in zip(names, (0, 1), strict=True) for tensor in weights(layer)}
    index.write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, rf"its index names model\.layers\.1\.\S+k_proj\.weight in {names[1]}, and no file .* nor 1 others")
    weight_map = {tensor: name for name, layer in zip(names, (0, 3), strict=True) for tensor in weights(layer)}
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert convert(folder, tmp_path / "out", to="interleaved").tensors == 4


def test_a_shared_tensor_may_be_stored_under_one_of_its_names(tmp_path: Path):
    """safetensors' own converter drops the other names from the files and not from the index; buffers are made by code."""
    others = ["lm_head.weight", "model.embed_tokens.weight", "cls.predictions.decoder.bias", "embed_out.weight"]
    others += ["transformer.wte.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "layers.0.attention.bias"]
    Index(tmp_path, weight_map=dict.fromkeys(["a", *others], "model.safetensors")).check(["a", "more"])
    for needed in ("model.norm.weight", "model.layers.0.self_attn.q_proj.bias", "layers.0.decoder.norm.weight"):
        with pytest.raises(ValueError, match=f"{needed} in model.safetensors, and no file has it; download"):
            Index(tmp_path, weight_map={needed: "model.safetensors"}).check(["a"])


def test_a_model_under_two_sets_of_names_is_refused(tmp_path: Path):
    """Mistral publishes consolidated.safetensors beside transformers' files."""
    folder = written(tmp_path / "model", {"model.safetensors": 0}, "safetensors")
    save_file({"layers.0.attention.wq.weight": torch.randn(16, 16)}, folder / "consolidated.safetensors")
    refused(folder, r"two checkpoints, model\.safetensors and consolidated\.safetensors; pass one of these files")
    assert convert(folder / "model.safetensors", tmp_path / "out.safetensors", to="interleaved").tensors == 2
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(weights(0), "model.safetensors")}))
    done = convert(folder, tmp_path / "out", to="interleaved")
    assert (done.files, done.left_out) == (1, ("consolidated.safetensors",))
