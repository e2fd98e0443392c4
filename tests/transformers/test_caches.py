"""The keys of a model's cache, moved: the same 64 tokens as with its raw keys rotated afresh in float64."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

from transformers import (  # noqa: E402
    Cache,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    Qwen3Config,
    StaticCache,
)

from rotary.transformers import patch, rerotate  # noqa: E402

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 6,
    "long_factor": [1.5, 2.0, 4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": 64,
    "factor": 8.0,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 1024}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama with yarn": lambda: LlamaConfig(**SIZES, rope_parameters=YARN),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "phi3": lambda: Phi3Config(
        **SIZES, partial_rotary_factor=0.75, original_max_position_embeddings=64, rope_parameters=LONG
    ),
    "phi3 without scaling": lambda: Phi3Config(**SIZES, partial_rotary_factor=0.5),
}
PROMPT = torch.randint(1, 97, (2, 40), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as these are faster on one thread, many times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # decided, so that a token does not hang on the last bit
    return model


@torch.no_grad()
def cached(model: Any, cache: Cache, positions: Tensor, tokens: Tensor = PROMPT) -> Tensor:
    """Fill the cache; returns the next token of each row."""
    return model(tokens, position_ids=positions, past_key_values=cache).logits[:, -1:].argmax(-1)


@torch.no_grad()
def greedy(model: Any, cache: Cache, token: Tensor, position: int, steps: int = 64) -> list[list[int]]:
    found = []
    for step in range(steps):
        at = torch.full((2, 1), position + step)
        token = model(token, position_ids=at, past_key_values=cache).logits[:, -1:].argmax(-1)
        found.append(token[:, 0].tolist())
    return found


def raw_keys(model: Any, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> list[Tensor]:
    """The keys of each layer before the model's own rotation function turns them."""
    import importlib

    module = importlib.import_module(type(model).__module__)
    original, found = module.apply_rotary_pos_emb, []

    def recording(q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(k.clone())
        return original(q, k, *args, **kwargs)

    with monkeypatch.context() as context:
        context.setattr(module, "apply_rotary_pos_emb", recording)
        run()
    return found


def afresh(keys: Tensor, inv_freq: Tensor, factor: float, positions: Tensor) -> Tensor:
    """Half-paired keys rotated in float64 by this formula alone, by the angles that the model makes, a float32 product."""
    angles = (positions.float()[..., None] * inv_freq).double()
    cos, sin = angles.cos()[:, None] * factor, angles.sin()[:, None] * factor
    dim = 2 * len(inv_freq)
    a, b = keys[..., :dim].double().chunk(2, -1)
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(keys.dtype)
    return torch.cat((turned, keys[..., dim:]), -1)


MOVES = {
    "far": lambda p: p + 1_000,
    "back to the start": lambda p: p - p[:, :1],
    "rows by themselves": lambda p: p + torch.tensor([[300], [7]]),
    "a part": lambda p: torch.where(p >= p[:, :1] + 20, p + 50, p),
}


@pytest.mark.parametrize(
    ("name", "move", "kind"),
    [
        ("llama", "far", DynamicCache),
        ("llama with yarn", "a part", StaticCache),
        ("qwen3", "rows by themselves", DynamicCache),
        ("phi3 without scaling", "back to the start", StaticCache),
    ],
)
def test_the_same_tokens_as_raw_keys_rotated_afresh(
    name: str, move: str, kind: type[Cache], monkeypatch: pytest.MonkeyPatch
):
    model = made(name)

    def empty() -> Cache:
        return (
            DynamicCache(config=model.config) if kind is DynamicCache else StaticCache(model.config, max_cache_len=160)
        )

    old = torch.arange(40).expand(2, -1) + 11
    new = MOVES[move](old)
    reference = empty()
    keys = raw_keys(model, monkeypatch, lambda: cached(model, reference, old))
    rotary = model.model.rotary_emb
    for layer, raw in zip(reference.layers, keys, strict=True):
        layer.keys[:, :, :40] = afresh(raw, rotary.inv_freq, rotary.attention_scaling, new)
    token = PROMPT[:, -1:]
    wanted = greedy(model, reference, token, int(new.max()) + 1)

    left = empty()
    cached(model, left, old)
    as_it_was = greedy(model, left, token, int(new.max()) + 1, steps=24)
    with patch(model) as handle:
        cache = empty()
        cached(model, cache, old)
        rerotate(cache, handle, old, new)
        for layer, truth in zip(cache.layers, reference.layers, strict=True):
            torch.testing.assert_close(layer.keys[:, :, :40], truth.keys[:, :, :40], rtol=0, atol=1e-4)
        assert greedy(model, cache, token, int(new.max()) + 1) == wanted
    assert as_it_was != wanted[:24]  # the move matters, or the test would see nothing


@pytest.mark.parametrize("name", ["llama with yarn", "qwen3", "phi3 without scaling"])
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_keys_are_raw_keys_rotated_afresh(name: str, move: str, kind: type[Cache], monkeypatch: pytest.MonkeyPatch):
    model = made(name)
    old = torch.arange(40).expand(2, -1) + 11
    new = MOVES[move](old)
    cache = DynamicCache(config=model.config) if kind is DynamicCache else StaticCache(model.config, max_cache_len=60)
    keys = raw_keys(model, monkeypatch, lambda: cached(model, cache, old))
    with patch(model) as handle:
        rerotate(cache, handle, old, new)
    rotary = model.model.rotary_emb
    for layer, raw in zip(cache.layers, keys, strict=True):
        truth = afresh(raw, rotary.inv_freq, rotary.attention_scaling, new)
        torch.testing.assert_close(layer.keys[:, :, :40], truth, rtol=0, atol=2e-5)
        assert kind is DynamicCache or not layer.keys[:, :, 40:].any()


def test_the_switch_of_longrope_keeps_the_cache(monkeypatch: pytest.MonkeyPatch):
    """First-layer keys are those of a new prefill; deeper ones are not, and are raw keys under the long factors all the same."""
    model = made("phi3")
    old = torch.arange(40).expand(2, -1)
    reference = DynamicCache(config=model.config)
    keys = raw_keys(model, monkeypatch, lambda: cached(model, reference, old))
    short = model.model.rotary_emb.original_inv_freq
    long = short / torch.tensor(LONG["long_factor"])
    factor = model.model.rotary_emb.attention_scaling
    for layer, raw in zip(reference.layers, keys, strict=True):
        layer.keys[:] = afresh(raw, long, factor, old)
    wanted = greedy(model, reference, PROMPT[:, -1:], 64)

    again = DynamicCache(config=model.config)
    padded = torch.cat((PROMPT, torch.ones(2, 1, dtype=torch.int64)), 1)
    with torch.no_grad():  # one token beyond the window makes a whole prefill long
        model(padded, position_ids=torch.cat((old, torch.full((2, 1), 64)), 1), past_key_values=again)
    with patch(model) as handle:
        cache = DynamicCache(config=model.config)
        cached(model, cache, old)
        rerotate(cache, handle, 0, 0, old_length=64, new_length=65)
        assert greedy(model, copy.deepcopy(cache), PROMPT[:, -1:], 64) == wanted
        with pytest.raises(ValueError, match="LongRoPE depends.*old_length="):
            rerotate(cache, handle, 0, 0)
    errors = [float((a.keys - b.keys[:, :, :40]).abs().max()) for a, b in zip(cache.layers, again.layers, strict=True)]
    scale = float(again.layers[0].keys.abs().max())
    assert errors[0] <= 3e-6 * scale and errors[1] > 1e-3 * scale


def test_exact_tables_are_moved_exactly():
    model = made("llama")
    far = torch.arange(40).expand(2, -1) + 1_000_000
    with patch(model, tables="exact") as handle:
        cache, fresh = DynamicCache(config=model.config), DynamicCache(config=model.config)
        cached(model, cache, far)
        cached(model, fresh, far - 1_000_000)
        rerotate(cache, handle, far, far - 1_000_000)
        for a, b in zip(cache.layers, fresh.layers, strict=True):
            torch.testing.assert_close(a.keys, b.keys, rtol=0, atol=1e-4)


def test_a_half_precision_model():
    model = made("qwen3", torch.bfloat16)
    with patch(model) as handle:
        cache, fresh = DynamicCache(config=model.config), DynamicCache(config=model.config)
        cached(model, cache, torch.arange(40).expand(2, -1) + 100)
        cached(model, fresh, torch.arange(40).expand(2, -1))
        rerotate(cache, handle, 100, 0)
        error = (cache.layers[0].keys.float() - fresh.layers[0].keys.float()).norm() / fresh.layers[
            0
        ].keys.float().norm()
        assert error < 0.01  # the model's own tables are bfloat16


# --- what is refused ---------------------------------------------------------------------------------------------------------------


def test_other_caches_are_refused_by_name():
    model = made("llama")
    with patch(model) as handle:
        with pytest.raises(TypeError, match="cache must be a DynamicCache.*got tuple"):
            rerotate(((PROMPT, PROMPT),), handle, 0, 1)
        with pytest.raises(ValueError, match="DynamicCache is empty"):
            rerotate(DynamicCache(config=model.config), handle, 0, 1)
        config = Gemma3TextConfig(**SIZES, sliding_window=16)
        with pytest.raises(TypeError, match="layer 0 of the cache is a DynamicSlidingWindowLayer: a sliding window"):
            rerotate(DynamicCache(config=config), handle, 0, 1)
        with pytest.raises(TypeError, match="DynamicCache is offloaded"):
            rerotate(DynamicCache(config=model.config, offloading=True), handle, 0, 1)

        class QuantoQuantizedLayer:
            is_initialized = True

        quantised = DynamicCache(config=model.config)
        quantised.layers[1] = QuantoQuantizedLayer()
        with pytest.raises(
            TypeError, match="layer 1 of the cache is a QuantoQuantizedLayer.*dequantise, move, quantise"
        ):
            rerotate(quantised, handle, 0, 1)


def test_nothing_is_written_where_something_does_not_fit():
    model = made("llama")
    with patch(model) as handle:
        cache = DynamicCache(config=model.config)
        cached(model, cache, torch.arange(40).expand(2, -1))
        before = [layer.keys.clone() for layer in cache.layers]
        for positions in (torch.arange(39), torch.arange(40).expand(3, -1)):
            with pytest.raises(ValueError, match="do not fit layer 0|tokens"):
                rerotate(cache, handle, positions, positions + 1)
        cache.layers[1].keys = cache.layers[1].keys[:, :, :30]
        with pytest.raises(ValueError, match="layer 1, whose cache has 30"):
            rerotate(cache, handle, torch.arange(40), torch.arange(40) + 1)
        cache.layers[1].keys = before[1]
        assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))
        model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.bfloat16()
        with pytest.raises(ValueError, match="inv_freq of LlamaRotaryEmbedding is torch.bfloat16"):
            rerotate(cache, handle, 0, 1)
    with pytest.raises(ValueError, match="patch was removed"):
        rerotate(cache, handle, 0, 1)


def test_layers_without_rotation_are_left():
    from transformers import SmolLM3Config

    torch.manual_seed(0)
    config = SmolLM3Config(**SIZES, no_rope_layers=[1, 0], use_sliding_window=False)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with patch(model) as handle, warnings.catch_warnings():
        cache, fresh = DynamicCache(config=config), DynamicCache(config=config)
        cached(model, cache, torch.arange(40).expand(2, -1) + 9)
        cached(model, fresh, torch.arange(40).expand(2, -1))
        middle = cache.layers[1].keys.clone()
        rerotate(cache, handle, 9, 0)
        assert torch.equal(cache.layers[1].keys, middle)
        for a, b in zip(cache.layers, fresh.layers, strict=True):
            torch.testing.assert_close(a.keys, b.keys, rtol=0, atol=1e-5)


SLIDING = {**SIZES, "num_hidden_layers": 4, "sliding_window": 4096, "max_position_embeddings": 4096}
LEFT_OUT = {
    "cohere2": {},
    "exaone4": {"sliding_window_pattern": 2},
    "flint": {},
    "granite_swa": {"layer_rope_theta": [1e4, 0, 1e4, 0]},
    "llama4_text": {"num_local_experts": 2, "attention_chunk_size": 4096, "head_dim": 16, "use_qk_norm": False},
}


@pytest.mark.parametrize("family", LEFT_OUT)
def test_each_family_leaves_layers_out_in_its_own_way(family: str):
    """A cache without a config has ordinary layers alone, so that nothing else tells which of them rotate."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SLIDING, **LEFT_OUT[family]})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with patch(model) as handle:
        cache, fresh = DynamicCache(), DynamicCache()
        cached(model, cache, torch.arange(40).expand(2, -1))
        cached(model, fresh, torch.arange(40).expand(2, -1) + 10)
        before = [layer.keys.clone() for layer in cache.layers]
        rotated = [not torch.allclose(b, f.keys, atol=1e-3) for b, f in zip(before, fresh.layers, strict=True)]
        rerotate(cache, handle, 0, 10)
        for layer, other in zip(cache.layers, fresh.layers, strict=True):
            torch.testing.assert_close(layer.keys, other.keys, rtol=0, atol=2e-5)
        assert {True, False} == set(rotated)
        assert [not torch.equal(b, layer.keys) for b, layer in zip(before, cache.layers, strict=True)] == rotated


@pytest.mark.parametrize("alibi", [True, False])
def test_falcon_rotates_where_its_config_says_so(alibi: bool):
    config = transformers.FalconConfig(
        **{**SIZES, "num_key_value_heads": None}, alibi=alibi, multi_query=False, new_decoder_architecture=False
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with patch(model) as handle:
        cache = DynamicCache()
        cached(model, cache, torch.arange(40).expand(2, -1))
        before = [layer.keys.clone() for layer in cache.layers]
        rerotate(cache, handle, 0, 10)
        assert [torch.equal(b, layer.keys) for b, layer in zip(before, cache.layers, strict=True)] == [alibi] * 2


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_cache_of_a_deeper_model_is_refused(name: str):
    model = made(name)
    deeper = transformers.LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_hidden_layers": 3}))
    cache = DynamicCache()
    cached(deeper, cache, torch.arange(40).expand(2, -1))
    before = cache.layers[0].keys.clone()
    with patch(model) as handle, pytest.raises(ValueError, match="the cache has 3 layers, the model 2: pass a cache"):
        rerotate(cache, handle, 0, 1)
    assert torch.equal(cache.layers[0].keys, before)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_defaults_of_the_process_change_nothing(name: str):
    """Phi-3's frequencies are those of its config."""
    model = made(name)
    length = 40 if name == "phi3" else None
    with patch(model) as handle:
        cache, same = DynamicCache(), DynamicCache()
        for filled in (cache, same):
            cached(model, filled, torch.arange(40).expand(2, -1))
        rerotate(same, handle, 0, 10, old_length=length, new_length=length)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device("meta"):
                rerotate(cache, handle, 0, 10, old_length=length, new_length=length)
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(cache.layers, same.layers, strict=True))
