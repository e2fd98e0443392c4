"""The pairing of a checkpoint is detected from a text or from norms of weights, and unknown if neither shows it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("safetensors")
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rotary.checkpoints import by_text, by_weights, convert
from rotary.checkpoints.detect import intraclass_correlation

CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rope_theta": 1e4,
}


def written(folder: Path, profile: Tensor, noise: float = 0.1, layers: int = 4) -> Path:
    """A checkpoint whose weight rows have these log norms in every head, plus noise."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(layers):
        for name, heads in (("q", 4), ("k", 2)):
            rows = torch.randn(heads, 32, 128, generator=generator)
            sizes = (profile + noise * torch.randn(heads, 32, generator=generator)).exp()
            rows = rows / rows.norm(dim=-1, keepdim=True) * sizes[..., None]
            weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = rows.flatten(0, 1)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    return folder


def test_norms_that_follow_the_frequencies_show_the_pairing(tmp_path: Path):
    """Norms decrease with the frequency, as in trained models; after conversion the other pairing is detected."""
    log_norms = torch.linspace(0.8, -0.8, 16)
    half = written(tmp_path / "half", log_norms.repeat(2))
    assert by_weights(half, config=CONFIG).pairing == "half"
    assert by_weights(written(tmp_path / "more", log_norms.repeat(2), layers=6), config=CONFIG).pairing == "half"
    convert(half, tmp_path / "two", to="interleaved", config=CONFIG)
    verdict = by_weights(tmp_path / "two", config=CONFIG)
    assert verdict.pairing == "interleaved" and verdict.confidence > 4 and "of neighbours 0.9" in verdict.why


def test_a_folder_that_holds_a_model_twice_is_refused(tmp_path: Path):
    """Otherwise four weights, counted twice, would pass for the required eight."""
    folder = written(tmp_path / "twice", torch.linspace(0.8, -0.8, 16).repeat(2), layers=2)
    assert by_weights(folder, config=CONFIG).pairing == "unknown"
    (folder / "model.fp16.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="is both in"):
        by_weights(folder, config=CONFIG)


def test_untrained_weights_are_unknown(tmp_path: Path):
    for seed in range(10):
        torch.manual_seed(seed)
        fresh = LlamaForCausalLM(
            LlamaConfig(**{**CONFIG, "num_hidden_layers": 4, "vocab_size": 9, "intermediate_size": 8})
        )
        fresh.save_pretrained(tmp_path / str(seed))
        assert by_weights(tmp_path / str(seed)).pairing == "unknown"
    flat = written(tmp_path / "flat", torch.zeros(32))
    assert by_weights(flat, config=CONFIG).pairing == "unknown"
    few = tmp_path / "few"
    few.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.randn(128, 128)}, few / "model.safetensors")
    verdict = by_weights(few, config=CONFIG)
    assert verdict.pairing == "unknown" and "1 weights of queries or keys, but 8 are needed" in verdict.why


def test_correlation_is_one_for_equal_pairs_and_zero_for_unrelated_ones():
    a = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    b = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert (
        intraclass_correlation(a, a) == 1.0
        and abs(intraclass_correlation(a, b)) < 0.1
        and intraclass_correlation(a, -a) < -0.9
    )


@pytest.fixture(scope="module")
def trained() -> Generator[tuple[Any, Tensor]]:
    """(a small model trained on a source file, 600 characters of that file)"""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps are so small that several threads mostly wait for each other on a busy machine
    text = torch.tensor([min(ord(c), 127) for c in inspect.getsource(textwrap)])
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=32, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        batch = torch.stack([text[i : i + 96] for i in torch.randint(0, len(text) - 96, (8,))])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    yield model.eval(), text[:600][None]
    torch.set_num_threads(threads)


def test_a_text_shows_the_pairing(trained: tuple[Any, Tensor], tmp_path: Path):
    model, text = trained
    before = {name: p.clone() for name, p in model.named_parameters()}
    verdict = by_text(model, text)
    assert verdict.pairing == "half" and verdict.confidence > 4 and "as half" in verdict.why
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    model.save_pretrained(tmp_path / "half")
    convert(tmp_path / "half", tmp_path / "two", to="interleaved")
    # The code rotates half pairs, but the weights are interleaved.
    misread = LlamaForCausalLM.from_pretrained(tmp_path / "two").eval()
    assert by_text(misread, text).pairing == "interleaved"


def test_the_text_of_an_untrained_model_is_unknown():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 128}
    fresh = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes)).eval()
    assert by_text(fresh, torch.randint(0, 128, (1, 200))).pairing == "unknown"
    assert "64 are needed" in by_text(fresh, torch.randint(0, 128, (1, 20))).why


def test_norms_of_queries_and_keys_are_reordered_and_restored():
    """Qwen3 multiplies each head by a norm weight, whose channels must be reordered with those of the head."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 128, "head_dim": 16}
    model = Qwen3ForCausalLM(Qwen3Config(num_attention_heads=2, num_key_value_heads=2, **sizes)).eval()
    norm = model.model.layers[0].self_attn.q_norm.weight
    with torch.no_grad():
        norm.copy_(torch.rand(16))
    before = norm.clone()
    assert by_text(model, torch.randint(0, 128, (1, 200))).pairing == "unknown"
    assert torch.equal(norm, before)
