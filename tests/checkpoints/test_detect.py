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
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from rotary.checkpoints import by_text, by_weights, convert, detect
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


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path):
    """One NaN makes every mean NaN, and no comparison with it is true."""
    folder = written(tmp_path / "half", torch.linspace(0.8, -0.8, 16).repeat(2))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.self_attn.k_proj.weight"][5, 7] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="layers.2.self_attn.k_proj.weight has values that are not finite"):
        by_weights(folder, config=CONFIG)
    torch.save(tensors, tmp_path / "model.bin")
    with pytest.raises(ValueError, match="layers.2.self_attn.k_proj.weight has values that are not finite"):
        by_weights(tmp_path / "model.bin", config=CONFIG)


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


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "vocab_size": 128,
    "num_attention_heads": 2,
}


def test_the_text_of_an_untrained_model_is_unknown():
    torch.manual_seed(0)
    fresh = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
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


def test_tokens_of_every_integer_dtype_give_one_verdict(trained: tuple[Any, Tensor]):
    model, text = trained
    verdict = by_text(model, text)
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64):
        assert by_text(model, text.to(dtype)) == verdict


@pytest.mark.parametrize("shape", [(64,), (0, 64), (64, 0), (2, 1), (1, 2, 3)])
def test_tokens_of_another_shape_are_refused(shape: tuple[int, ...]):
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    with pytest.raises(ValueError, match=r"tokens must have shape \(batch, seq\), with two tokens or more"):
        by_text(model, torch.zeros(shape, dtype=torch.int64))


def test_tokens_of_another_vocabulary_are_refused():
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    for token in (-100, -1, 128, 2**40):
        tokens = torch.zeros(1, 200, dtype=torch.int64)
        tokens[0, 7] = token
        with pytest.raises(
            ValueError, match="tokens must be numbers of the model's vocabulary, from 0 to 127 by the rows"
        ):
            by_text(model, tokens)
    model.get_input_embeddings = lambda: None  # type: ignore[method-assign]
    assert by_text(model, torch.full((1, 200), 127)).pairing == "unknown"


def test_a_model_without_logits_of_a_vocabulary_is_refused():
    tokens = torch.randint(3, 128, (1, 200))
    config = LlamaConfig(**SIZES)
    for model, words in (
        (
            LlamaModel(config),
            r"\(1, 200, vocab\); LlamaModel returns BaseModelOutputWithPast without logits: load it by AutoModelForCausalLM",
        ),
        (LlamaForSequenceClassification(config), r"LlamaForSequenceClassification returns Tensor float32 \(1, 2\)"),
        (LlamaForTokenClassification(config), "from 0 to 1 by the width of its logits"),
    ):
        with pytest.raises(ValueError, match=words):
            by_text(model.eval(), tokens)


def test_a_loss_that_is_not_finite_is_no_verdict(monkeypatch: pytest.MonkeyPatch):
    """It compared as "interleaved", with a confidence of NaN."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    tokens = torch.randint(128, (1, 200))
    projection = model.model.layers[0].self_attn.q_proj.weight
    losses = [torch.ones(199), torch.full((199,), float("nan"))]
    with monkeypatch.context() as patched:
        patched.setattr(detect, "_losses", lambda model, tokens: losses.pop(0))
        verdict = by_text(model, tokens)
    assert verdict.pairing == "unknown" and verdict.confidence == 0.0 and "second is not finite" in verdict.why
    with torch.no_grad():
        projection[0, 0] = float("nan")
    before = projection.clone()
    with pytest.raises(ValueError, match="loss is NaN or infinite at 199 of 199 tokens; load it in float32"):
        by_text(model, tokens)
    assert torch.equal(projection.nan_to_num(7.0), before.nan_to_num(7.0))
