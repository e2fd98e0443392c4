"""Conversion: the source is only read, a failure leaves no files, and errors name what cannot be converted. Families: test_projections."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("safetensors")
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rotary.checkpoints import convert
from rotary.checkpoints.layout import Layout
from rotary.pairing import half_to_interleaved


def bytes_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 99, "head_dim": 16}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama", max_shard_size="40KB")
    return tmp_path / "llama"


def test_the_source_is_only_read_and_other_files_are_copied(llama: Path, tmp_path: Path):
    (llama / "tokenizer.json").write_text("{}")
    (llama / "extra").mkdir()
    (llama / "extra" / "notes.txt").write_text("kept")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in llama.rglob("*") if path.is_file()}
    done = convert(llama, tmp_path / "out", to="interleaved")
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in llama.rglob("*") if path.is_file()}
    assert done.files == len(list(llama.glob("*.safetensors"))) > 2
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "out" / "extra" / "notes.txt").read_text() == "kept"
    assert {p.name for p in llama.iterdir()} == {p.name for p in (tmp_path / "out").iterdir()}


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path):
    """The file has 28 MiB; Python's memory holds its largest rotated tensor, 4 MiB, and less than 2 MiB of buffers and names."""
    config = {"model_type": "llama", "hidden_size": 1024, "num_attention_heads": 8, "rope_theta": 10000.0}
    weights = {
        f"model.layers.{n}.self_attn.{role}_proj.weight": torch.randn(1024, 1024) for n in (0, 1) for role in "qk"
    }
    save_file({**weights, "model.embed_tokens.weight": torch.randn(3072, 1024)}, tmp_path / "a.safetensors")
    tracemalloc.start()
    try:
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="interleaved", config=config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 4 << 20 < peak < 6 << 20


def test_other_files_of_weights_are_left_out_and_named(llama: Path, tmp_path: Path):
    """Their pairing would still be the old one, and nothing in them would show it."""
    left_out = [
        "adapter/adapter_model.safetensors",
        "model.gguf",
        "more.safetensors",
        "original/consolidated.00.pth",
        "optimizer.pt",
    ]
    for name in left_out:
        (llama / name).parent.mkdir(exist_ok=True)
        (llama / name).write_bytes(b"weights")
    (llama / "original" / "params.json").write_text("{}")
    done = convert(llama, tmp_path / "out", to="interleaved")
    assert sorted(done.left_out) == sorted(left_out)
    assert not [name for name in left_out if (tmp_path / "out" / name).exists()]
    assert (tmp_path / "out" / "original" / "params.json").exists()


def test_a_snapshot_of_the_hub_is_converted_through_its_links(llama: Path, tmp_path: Path):
    """It is a folder of links to blobs; the converted folder contains files."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1a2b3c"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in list(llama.iterdir()):
        (snapshot / path.name).symlink_to(path.rename(blobs / path.name))
    (snapshot / "nowhere").symlink_to(tmp_path / "none")
    done = convert(snapshot, tmp_path / "out", to="interleaved")
    assert done.left_out == ("nowhere",)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in blobs.iterdir()}


def test_a_target_that_is_or_lies_in_the_source_is_refused(llama: Path, tmp_path: Path):
    before = sorted(llama.rglob("*"))
    (tmp_path / "link").symlink_to(llama)
    for inside in (llama / "out", llama / "deep" / "out", tmp_path / "link" / "out", llama / ".." / "llama" / "out"):
        with pytest.raises(ValueError, match="is inside .*which is only read"):
            convert(llama, inside, to="interleaved")
    (tmp_path / "taken").symlink_to(tmp_path / "none")
    with pytest.raises(ValueError, match="exists already"):
        convert(llama, tmp_path / "taken", to="interleaved")
    assert sorted(llama.rglob("*")) == before


def test_rope_interleave_in_a_config_is_updated(llama: Path, tmp_path: Path):
    """Also in the text config of a composite config. Other keys, the source's own config and configs without the key do not change."""
    text = json.loads((llama / "config.json").read_text())
    plain = convert(llama, tmp_path / "plain", to="interleaved")
    assert plain.tensors and (tmp_path / "plain" / "config.json").read_bytes() == (llama / "config.json").read_bytes()
    vision = {"model_type": "clip_vision_model", "rope_interleave": False}
    composite = {
        "model_type": "llava",
        "text_config": {**text, "rope_interleave": False},
        "vision_config": vision,
        "note": "é",
    }
    for config in ({**text, "rope_interleave": False}, composite):
        (llama / "config.json").write_text(json.dumps(config))
        (llama / "config.json").chmod(0o444)
        convert(llama, tmp_path / "out", to="interleaved")
        assert (tmp_path / "out" / "config.json").stat().st_mode & 0o200  # replaced, not a copy of the read-only file
        updated = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
        assert updated.get("text_config", updated).pop("rope_interleave") is True
        assert config.get("text_config", config).pop("rope_interleave") is False
        assert updated == config
        assert json.loads((llama / "config.json").read_text()) != updated
        (llama / "config.json").chmod(0o644)
        shutil.rmtree(tmp_path / "out")


def test_conflicting_pairings_in_the_files_are_refused(llama: Path, tmp_path: Path):
    """Only some shards converted, or a value that is not a pairing: the pairing is unknown, unless source_pairing= decides."""
    convert(llama, tmp_path / "done", to="interleaved")
    shard = sorted(path.name for path in llama.glob("*.safetensors"))[0]
    shutil.copy(llama / shard, tmp_path / "done" / shard)
    with pytest.raises(
        ValueError, match="rotary_pairing is interleaved and missing in the files, and source_pairing= is None"
    ):
        convert(tmp_path / "done", tmp_path / "out", to="half")
    convert(tmp_path / "done", tmp_path / "out", to="half", source_pairing="interleaved")
    weights = {"model.layers.0.self_attn.q_proj.weight": torch.randn(64, 64)}
    save_file(weights, tmp_path / "odd.safetensors", metadata={"rotary_pairing": "thirds"})
    with pytest.raises(ValueError, match="rotary_pairing must be half or interleaved, got 'thirds'"):
        convert(tmp_path / "odd.safetensors", tmp_path / "even.safetensors", to="half", config=llama / "config.json")


def test_an_unknown_family_is_converted_as_given_and_back_by_its_metadata(llama: Path, tmp_path: Path):
    config = json.loads((llama / "config.json").read_text()) | {"model_type": "tomorrow"}
    options = {"config": config, "like": "llama"}
    with pytest.raises(ValueError, match="the pairing of the code of model_type 'tomorrow' is unknown"):
        convert(llama, tmp_path / "two", to="interleaved", **options)
    convert(llama, tmp_path / "two", to="interleaved", source_pairing="half", **options)
    convert(tmp_path / "two", tmp_path / "half", to="half", **options)
    before, after = bytes_of(llama), bytes_of(tmp_path / "half")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_towers_with_the_same_layer_numbers_are_two_layers(tmp_path: Path):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": 10000.0}
    stems = ("model.layers.0.self_attn", "draft.layers.0.self_attn")
    weights = {f"{stem}.{role}_proj.weight": torch.randn(64, 64) for stem in stems for role in "qk"}
    save_file(weights, tmp_path / "a.safetensors")
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="interleaved", config=config)
    assert (done.tensors, done.layers) == (4, 2)


def test_failure_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rotary.checkpoints import convert as convert_function  # the function hides the module of the same name
    from rotary.checkpoints import verify

    assert convert_function is convert
    here = set(tmp_path.iterdir())

    def stop(file: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(llama, tmp_path / "out", to="interleaved", progress=stop)
    assert set(tmp_path.iterdir()) == here
    monkeypatch.setattr(Layout, "arguments", (lambda f: lambda s, n: replace(f(s, n), dim=8))(Layout.arguments))
    monkeypatch.setattr(verify, "apply_rotary", lambda x, cos, sin, interleaved: x * (2.0 if interleaved else 1.0))
    with pytest.raises(RuntimeError, match="attention scores differ by"):
        convert(llama, tmp_path / "out", to="interleaved")
    assert set(tmp_path.iterdir()) == here


def test_lora_by_its_base_models_config(llama: Path, tmp_path: Path):
    """B's rows are reordered, A's are not: then B A is the update of the converted weight."""
    generator = torch.Generator().manual_seed(0)
    stem = "base_model.model.model.layers.1.self_attn"
    adapter = {
        f"{stem}.{part}.lora_{side}.weight": torch.randn(*shape, generator=generator)
        for part, rows in (("q_proj", 64), ("k_proj", 32), ("v_proj", 32))
        for side, shape in (("A", (4, 64)), ("B", (rows, 4)))
    }
    adapter[f"{stem}.q_proj.lora_magnitude_vector"] = torch.rand(64, generator=generator)
    (tmp_path / "adapter").mkdir()
    save_file(adapter, tmp_path / "adapter" / "adapter_model.safetensors")
    done = convert(tmp_path / "adapter", tmp_path / "out", to="interleaved", config=llama / "config.json")
    assert (done.tensors, done.layers) == (3, 1)
    after = bytes_of(tmp_path / "out")
    for name, tensor in adapter.items():
        rotated = ("lora_B" in name or "magnitude" in name) and "v_proj" not in name
        expected = half_to_interleaved(tensor, head_dim=16, axis=0) if rotated else tensor
        assert torch.equal(after[name], expected)
    with pytest.raises(ValueError, match="no config.json next to"):
        convert(tmp_path / "adapter", tmp_path / "other", to="interleaved")


def test_a_single_file_in_bfloat16_with_metas_names(tmp_path: Path):
    """Meta's own layout: wq and wk, interleaved, with params.json; the result is what transformers' models expect."""
    (tmp_path / "params.json").write_text(
        json.dumps({"dim": 64, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 500000.0})
    )
    weights = {
        f"layers.0.attention.{n}.weight": torch.randn(r, 64).bfloat16()
        for n, r in (("wq", 64), ("wk", 32), ("wv", 32), ("wo", 64))
    }
    save_file(weights, tmp_path / "consolidated.safetensors", metadata={"format": "pt"})
    convert(tmp_path / "consolidated.safetensors", tmp_path / "half.safetensors", to="half")
    with safe_open(tmp_path / "half.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "rotary_pairing": "half"}
        wk = file.get_tensor("layers.0.attention.wk.weight")
        assert torch.equal(file.get_tensor("layers.0.attention.wv.weight"), weights["layers.0.attention.wv.weight"])
    # transformers' own conversion script, convert_llama_weights_to_hf.py (5.23), permutes by this view
    expected = weights["layers.0.attention.wk.weight"].view(2, 8, 2, 64).transpose(1, 2).reshape(32, 64)
    assert torch.equal(wk, expected)


def test_what_cannot_be_converted_is_refused_by_name(llama: Path, tmp_path: Path):
    config = json.loads((llama / "config.json").read_text())
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="already has half pairing"):
        convert(llama, out, to="half")
    with pytest.raises(ValueError, match="exists already"):
        convert(llama, llama, to="interleaved")
    with pytest.raises(ValueError, match="no file or folder at"):
        convert(tmp_path / "none", out, to="interleaved")
    with pytest.raises(ValueError, match="no table of tensors for model_type 'nonsense'; pass like="):
        convert(llama, out, to="interleaved", config=config | {"model_type": "nonsense"})
    with pytest.raises(
        ValueError,
        match="has 64 rows, but 128 are expected: 1 x .query heads. with .*does the config belong to this checkpoint",
    ):
        convert(llama, out, to="interleaved", config=config | {"num_attention_heads": 8})
    convert(llama, tmp_path / "once", to="interleaved")
    with pytest.raises(ValueError, match="already has interleaved pairing"):
        convert(tmp_path / "once", out, to="interleaved")
    with pytest.raises(ValueError, match="rotary_pairing is interleaved in the files, and source_pairing= is half"):
        convert(tmp_path / "once", out, to="interleaved", source_pairing="half")
    unknown = {"model.layers.0.self_attn.kq_proj.weight": torch.randn(4, 4)}
    (tmp_path / "unknown").mkdir()
    save_file(unknown, tmp_path / "unknown" / "model.safetensors")
    with pytest.raises(ValueError, match="no rule for 'kq_proj'"):
        convert(tmp_path / "unknown", out, to="interleaved", config=config)
    save_file(
        {"model.layers.0.self_attn.q_proj.weight_scale_inv": torch.randn(4, 4)},
        tmp_path / "unknown" / "model.safetensors",
    )
    with pytest.raises(ValueError, match="must be dequantised first"):
        convert(tmp_path / "unknown", out, to="interleaved", config=config)
    (tmp_path / "unknown" / "model.safetensors").write_bytes(b"not at all a file of safetensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        convert(tmp_path / "unknown", out, to="interleaved", config=config)
    assert not out.exists()


def test_the_vision_tower_of_a_composite_model_is_not_converted(tmp_path: Path):
    """The text model is converted; the vision tower has q_proj too, but another rotation or none."""
    text = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rope_theta": 10000.0,
    }
    weights = {
        f"{stem}.layers.0.self_attn.{part}_proj.weight": torch.randn(64, 64)
        for stem in ("model.language_model", "model.vision_tower.encoder")
        for part in ("q", "k")
    }
    (tmp_path / "a").mkdir()
    save_file(weights, tmp_path / "a" / "model.safetensors")
    composite = {"model_type": "llava", "text_config": text, "vision_config": {"model_type": "clip_vision_model"}}
    done = convert(tmp_path / "a", tmp_path / "deep" / "er" / "b", to="interleaved", config=composite)
    after = bytes_of(tmp_path / "deep" / "er" / "b")
    assert done.tensors == 2
    for name, tensor in weights.items():
        assert torch.equal(after[name], tensor) == ("vision" in name)
