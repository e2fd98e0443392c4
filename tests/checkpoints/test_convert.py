"""Conversion: the models of transformers attend as before, there and back is the same bytes, and nothing half-written is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("safetensors")
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

import model_families as families
from rotary.checkpoints import convert
from rotary.checkpoints import files as files_module
from rotary.checkpoints.families import FAMILIES
from rotary.checkpoints.layout import Layout
from rotary.pairing import half_to_interleaved
from rotary.transformers import patch

TOKENS = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(0))


def tiny(model_type: str) -> Any:
    config = transformers.CONFIG_MAPPING[model_type]
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if config in MODEL_FOR_CAUSAL_LM_MAPPING else MODEL_FOR_MASKED_LM_MAPPING
    model = families.build(mapping[config])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start as ones and zeros, which no order changes
                parameter.add_(0.3 * torch.randn(parameter.shape))
    rope = getattr(model.config, "rope_parameters", None) or {}
    for parameters in (rope, *(v for v in rope.values() if isinstance(v, dict))):
        parameters.pop("mrope_section", None)  # the shrinking rule adds it for the models that want it
    return model


def other(pairing: bool) -> Any:
    return "half" if pairing else "interleaved"


def bytes_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "llama", max_shard_size="40KB")
    return tmp_path / "llama"


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_model_attends_as_before_and_there_and_back_is_the_same(model_type: str, tmp_path: Path):
    """Converted weights, rotated by the other pairing, give the logits of the original; rotated by the old one they do not."""
    torch.manual_seed(0)
    model = tiny(model_type)
    expected, source = logits(model), tmp_path / "a"
    model.save_pretrained(source)
    layout = Layout(source)
    done = convert(source, tmp_path / "b", to=other(layout.interleaved))
    assert done.difference <= 1e-9 and done.layers >= 1
    back = convert(tmp_path / "b", tmp_path / "c", to=other(not layout.interleaved))
    assert back.tensors == done.tensors
    before, after, again = (bytes_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(before[name], again[name]) for name in before) and before.keys() == again.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == done.tensors
    loaded = type(model).from_pretrained(tmp_path / "b", attn_implementation="eager").eval()
    assert float((logits(loaded) - expected).abs().max()) > 1e-4
    with patch(loaded) as handle:
        for replacement in handle.replacements:
            replacement.body = replace(replacement.body, interleaved=not replacement.body.interleaved)
        torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_source_is_only_read_and_other_files_come_along(llama: Path, tmp_path: Path):
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


def test_one_tensor_at_a_time(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is read at once is never more than the largest tensor, and reading a tensor that does not turn is in pieces."""
    sizes: list[int] = []
    rows, numbers = files_module.File.rows, files_module.File.numbers
    monkeypatch.setattr(files_module.File, "rows", lambda s, e: sizes.append(rows(s, e).numel()) or rows(s, e))
    monkeypatch.setattr(
        files_module.File, "numbers", lambda s, e, r: sizes.append(r.stop - r.start) or numbers(s, e, r)
    )
    convert(llama, tmp_path / "out", to="interleaved")
    assert max(sizes) == max(t.nbytes for name, t in bytes_of(llama).items() if "q_proj" in name)


def test_failure_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rotary.checkpoints import convert as convert_function  # the module of that name is hidden by the function
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


def test_killed_leaves_no_target_and_the_next_run_cleans_up(llama: Path, tmp_path: Path):
    target = tmp_path / "out"
    script = f"""
import time
from rotary.checkpoints import convert
def slow(file, done, total):
    print("at work", flush=True)
    time.sleep(1)
convert({str(llama)!r}, {str(target)!r}, to="interleaved", progress=slow)
"""
    with subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert not target.exists()
    convert(llama, target, to="interleaved")
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "out"}


def test_lora_by_its_base_models_config(llama: Path, tmp_path: Path):
    """B's rows turn, A's do not; the product B A is then the converted weight's own change."""
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
        turns = ("lora_B" in name or "magnitude" in name) and "v_proj" not in name
        wanted = half_to_interleaved(tensor, head_dim=16, axis=0) if turns else tensor
        assert torch.equal(after[name], wanted)
    with pytest.raises(ValueError, match="no config.json beside"):
        convert(tmp_path / "adapter", tmp_path / "other", to="interleaved")


def test_a_single_file_in_bfloat16_with_metas_names(tmp_path: Path):
    """Meta's own layout: wq and wk, interleaved, with params.json; what it becomes is what transformers' models take."""
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
    theirs = weights["layers.0.attention.wk.weight"].view(2, 8, 2, 64).transpose(1, 2).reshape(32, 64)
    assert torch.equal(wk, theirs)


def test_what_cannot_be_converted_is_refused_by_name(llama: Path, tmp_path: Path):
    config = json.loads((llama / "config.json").read_text())
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="paired as half already"):
        convert(llama, out, to="half")
    with pytest.raises(ValueError, match="exists already"):
        convert(llama, llama, to="interleaved")
    with pytest.raises(ValueError, match="nothing at"):
        convert(tmp_path / "none", out, to="interleaved")
    with pytest.raises(ValueError, match="no table of tensors for model_type 'nonsense'; like= names"):
        convert(llama, out, to="interleaved", config=config | {"model_type": "nonsense"})
    with pytest.raises(ValueError, match="has 64 rows, and 128 are expected.*is the config this checkpoint's"):
        convert(llama, out, to="interleaved", config=config | {"num_attention_heads": 8})
    convert(llama, tmp_path / "once", to="interleaved")
    with pytest.raises(ValueError, match="paired as interleaved already"):
        convert(tmp_path / "once", out, to="interleaved")
    with pytest.raises(ValueError, match="the files say interleaved, and given= says half"):
        convert(tmp_path / "once", out, to="interleaved", given="half")
    strange = {"model.layers.0.self_attn.kq_proj.weight": torch.randn(4, 4)}
    (tmp_path / "strange").mkdir()
    save_file(strange, tmp_path / "strange" / "model.safetensors")
    with pytest.raises(ValueError, match="no rule for 'kq_proj'"):
        convert(tmp_path / "strange", out, to="interleaved", config=config)
    save_file(
        {"model.layers.0.self_attn.q_proj.weight_scale_inv": torch.randn(4, 4)},
        tmp_path / "strange" / "model.safetensors",
    )
    with pytest.raises(ValueError, match="must be dequantised first"):
        convert(tmp_path / "strange", out, to="interleaved", config=config)
    (tmp_path / "strange" / "model.safetensors").write_bytes(b"not at all a file of safetensors")
    with pytest.raises(ValueError, match="no file of safetensors"):
        convert(tmp_path / "strange", out, to="interleaved", config=config)
    assert not out.exists()


def test_a_tower_beside_the_text_is_left_alone(tmp_path: Path):
    """A frame around several models: the text part turns, the vision tower has q_proj too, and rotates otherwise or not at all."""
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
    framed = {"model_type": "llava", "text_config": text, "vision_config": {"model_type": "clip_vision_model"}}
    done = convert(tmp_path / "a", tmp_path / "deep" / "er" / "b", to="interleaved", config=framed)
    after = bytes_of(tmp_path / "deep" / "er" / "b")
    assert done.tensors == 2
    for name, tensor in weights.items():
        assert torch.equal(after[name], tensor) == ("vision" in name)
