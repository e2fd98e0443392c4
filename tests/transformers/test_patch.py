"""patch(model): one instance, reversible, with copies, pickles, wrappers, checkpointing, generation and the compiler."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from rotary.transformers import Handle, patch

TOKENS = torch.randint(0, 99, (2, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=99, eos_token_id=None)).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def counts(handle: Handle, model: nn.Module) -> bool:
    before = handle.calls
    logits(model)
    return handle.calls > before


def test_same_output_and_gone_after_remove(model: nn.Module):
    expected, state = logits(model), {id(m): dict(m.__dict__) for m in model.modules()}
    names = set(vars(modeling_llama))
    handle = patch(model)
    assert counts(handle, model)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-6)
    handle.remove()
    assert not counts(handle, model) and torch.equal(logits(model), expected)
    assert {id(m): dict(m.__dict__) for m in model.modules()} == state and set(vars(modeling_llama)) == names


def test_only_one_instance(model: nn.Module):
    other = LlamaForCausalLM(model.config).eval()
    with patch(model) as handle:
        assert not counts(handle, other)
        with patch(other) as second:
            assert counts(second, other) and counts(handle, model)
            assert not counts(second, model)
        assert counts(handle, model)


def test_twice_is_refused(model: nn.Module):
    with patch(model) as handle:
        with pytest.raises(ValueError, match="LlamaAttention is patched already"):
            patch(model)
        assert counts(handle, model)


def test_a_model_without_a_rotation_and_an_unknown_table_source_are_errors():
    with pytest.raises(ValueError, match="nothing in Linear rotates"):
        patch(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="tables must be one of 'model', 'exact', got str 'float32'"):
        patch(nn.Linear(2, 2), tables="float32")  # type: ignore[arg-type]


def test_a_deep_copy_stays_patched_and_a_pickle_does_not(model: nn.Module, tmp_path: Path):
    expected = logits(model)
    with patch(model) as handle:
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        model.save_pretrained(tmp_path)
        assert counts(handle, copied)
        assert not counts(handle, pickled)
    assert not counts(handle, copied)
    for one in (copied, pickled, LlamaForCausalLM.from_pretrained(tmp_path).eval()):
        torch.testing.assert_close(logits(one), expected, rtol=0, atol=1e-6)


class Conformer(nn.Module):
    """A module whose rotation is a method, which takes cos and sin stacked and heads folded into channels."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_size = 6, 12

    def apply_rotary(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        heads = x.view(*x.shape[:-1], self.num_heads, self.head_size).transpose(0, 1)
        a, b = heads.chunk(2, -1)
        return (heads * cos_sin[0] + torch.cat((-b, a), -1) * cos_sin[1]).transpose(0, 1).flatten(-2)

    def forward(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        return self.apply_rotary(x, cos_sin)


def test_a_rotation_that_is_a_method():
    module = Conformer()
    x, cos_sin = torch.randn(2, 5, 72), torch.randn(2, 5, 1, 1, 6).repeat(1, 1, 1, 1, 2)
    expected = module(x, cos_sin)
    handle = patch(module)
    assert "Conformer.apply_rotary: itself" in str(handle.report())
    torch.testing.assert_close(module(x, cos_sin), expected, rtol=0, atol=1e-6)
    assert handle.calls == 1
    copied, pickled = copy.deepcopy(module), pickle.loads(pickle.dumps(module))
    assert copied.apply_rotary.__self__ is copied
    copied(x, cos_sin), pickled(x, cos_sin)
    assert handle.calls == 2
    handle.remove()
    assert not vars(module).keys() & {"apply_rotary"} and torch.equal(copied(x, cos_sin), expected)
    assert handle.calls == 2


def test_an_adapter_around_the_model(model: nn.Module):
    """peft wraps the projections inside the attention that is patched: training, disabling and merging work as without a patch."""
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj", "k_proj"], r=4, init_lora_weights=False)
    )

    def gradient() -> Tensor:
        adapted.zero_grad()
        adapted(TOKENS, labels=TOKENS).loss.backward()
        return torch.cat([p.grad.flatten() for p in adapted.parameters() if p.grad is not None])

    expected, wanted = logits(adapted), gradient()
    with patch(adapted) as handle:
        torch.testing.assert_close(logits(adapted), expected, rtol=0, atol=1e-6)
        assert (gradient() - wanted).norm() <= 1e-5 * wanted.norm()
        with adapted.disable_adapter():
            assert counts(handle, adapted) and not torch.equal(logits(adapted), expected)
        merged = adapted.merge_and_unload()
        assert counts(handle, merged)
        torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


def test_a_wrapper_around_a_patched_method_stays_and_calls_the_original(model: nn.Module):
    expected, handle = logits(model), patch(model)
    attention = model.model.layers[0].self_attn
    inner, calls = attention.forward, []

    def wrapper(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return inner(*args, **kwargs)

    attention.forward = wrapper
    handle.remove()
    assert attention.forward is wrapper
    assert not counts(handle, model) and calls and torch.equal(logits(model), expected)


def test_training_with_checkpointing(model: nn.Module):
    def gradient() -> Tensor:
        model.zero_grad()
        model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    model.train()
    expected = gradient()
    with patch(model):
        plain = gradient()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        checkpointed = gradient()
    for actual in (plain, checkpointed):
        assert (actual - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("cache", ["dynamic", "static", "quantized-none"])
def test_generation_with_a_cache(model: nn.Module, cache: str):
    options = (
        {"cache_implementation": "static"} if cache == "static" else {} if cache == "dynamic" else {"use_cache": False}
    )
    settings = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0, **options}
    expected = model.generate(TOKENS, **settings)
    with patch(model) as handle:
        assert torch.equal(model.generate(TOKENS, **settings), expected)
    assert handle.calls


def test_left_padding(model: nn.Module):
    mask = torch.ones_like(TOKENS)
    mask[0, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(TOKENS, attention_mask=mask, position_ids=positions).logits
        with patch(model) as handle:
            actual = model(TOKENS, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert handle.calls


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="transformers itself needs a newer torch to compile"
)
def test_compiled_before_and_after(model: nn.Module):
    expected = logits(model)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(logits(compiled), expected, rtol=0, atol=1e-6)
    with patch(model) as handle:
        torch.testing.assert_close(logits(compiled), expected, rtol=0, atol=1e-6)
        assert sum(r.fallbacks + r.calls for r in handle.replacements) > 0
    torch.testing.assert_close(logits(compiled), expected, rtol=0, atol=1e-6)


def test_threads(model: nn.Module):
    expected, wrong = logits(model), []

    def job() -> None:
        for _ in range(5):
            if (logits(model) - expected).abs().max() > 1e-5:
                wrong.append(1)

    with patch(model):
        threads = [threading.Thread(target=job) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
