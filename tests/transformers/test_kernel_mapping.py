"""use_kernels(): what it registers and puts back, and a whole model through kernels and through transformers' own door."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from rotary.transformers import layers, use_kernels
from support import warm

kernels = pytest.importorskip("kernels")
transformers = pytest.importorskip("transformers")

from transformers.models.llama import modeling_llama as llama  # noqa: E402
from transformers.utils.import_utils import KERNELS_MAX_VERSION, KERNELS_MIN_VERSION, is_kernels_available  # noqa: E402

SIZES = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A small Llama whose rotation is decorated by kernels itself: transformers does so with other versions of kernels alone."""
    if not isinstance(llama.apply_rotary_pos_emb, nn.Module):
        decorated = kernels.use_kernel_forward_from_hub("rotary_pos_emb")(llama.apply_rotary_pos_emb)
        monkeypatch.setattr(llama, "apply_rotary_pos_emb", decorated)
    torch.manual_seed(0)
    model = llama.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=2, **SIZES))
    for module in model.modules():
        if isinstance(module, llama.LlamaAttention):
            module._kernel_funcs = {"apply_rotary_pos_emb": llama.apply_rotary_pos_emb}
    return model


def run(model: Any) -> list[torch.Tensor]:
    """Logits and all gradients."""
    tokens = torch.arange(20)[None]
    model.zero_grad()
    result = model(tokens, labels=tokens)
    result.loss.backward()
    return [result.logits, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("training", [False, True])
def test_a_model_has_the_same_bits_forward_and_backward(model: Any, training: bool):
    model.train(training)
    mode = kernels.Mode.TRAINING if training else kernels.Mode.INFERENCE
    before = run(model)
    with use_kernels("cpu"):
        kernels.kernelize(model, mode=mode, use_fallback=False)
    after = run(model)
    assert all(map(torch.equal, before, after))
    assert layers._replacements[llama.apply_rotary_pos_emb].calls == 2
    kernels.kernelize(model, mode=mode)  # outside: the family's own function again
    assert all(map(torch.equal, before, run(model)))
    assert layers._replacements[llama.apply_rotary_pos_emb].calls == 2


def forward_of(function: Any) -> Any:
    return function.forward.__func__


def test_the_mapping_that_was_there_is_put_back(model: Any):
    """As a context manager, and as a call with remove(); inside another mapping, which stays."""

    class Other(nn.Module):
        def forward(self, q, k, cos, sin, unsqueeze_dim=1):
            return q, k

    class Repository:
        def load(self):
            return Other

    function, mode = llama.apply_rotary_pos_emb, kernels.Mode.INFERENCE
    own = layers.apply_rotary_transformers.forward
    with kernels.use_kernel_mapping({"rotary_pos_emb": {"cpu": Repository()}}):
        with use_kernels() as mapping:
            kernels.kernelize(model, mode=mode)
            assert forward_of(function) is own
            assert repr(mapping) == "use_kernels('cpu', 'cuda'): rotary_pos_emb -> apply_rotary_transformers"
        kernels.kernelize(model, mode=mode)
        assert forward_of(function) is Other.forward
        registered = use_kernels("cpu")
        kernels.kernelize(model, mode=mode)
        assert forward_of(function) is own
        registered.remove()
        registered.remove()  # a second time does nothing
        kernels.kernelize(model, mode=mode)
        assert forward_of(function) is Other.forward
    kernels.kernelize(model, mode=mode)
    assert forward_of(function) is type(function).forward


def test_a_mapping_is_put_back_after_an_error(model: Any):
    with pytest.raises(ZeroDivisionError), use_kernels():
        raise ZeroDivisionError
    kernels.kernelize(model, mode=kernels.Mode.INFERENCE)
    assert forward_of(llama.apply_rotary_pos_emb) is not layers.apply_rotary_transformers.forward


@pytest.mark.parametrize(
    ("arguments", "how", "error", "message"),
    [
        ((), {"layer": "rotate"}, ValueError, "layer must be one of 'apply_rotary_transformers'"),
        (("quantum",), {}, ValueError, "quantum"),
        ((torch.device("cpu"),), {}, TypeError, "types of devices such as 'cuda', got"),
    ],
)
def test_what_is_not_there_is_refused(arguments: Any, how: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        use_kernels(*arguments, **how)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(ImportError, match=r"pip install 'rotary\[kernels\]'"):
        use_kernels()


OWN_DOOR = """
import sys
if "--any-version" in sys.argv:
    import transformers.utils.import_utils, transformers.utils
    transformers.utils.import_utils.is_kernels_available = transformers.utils.is_kernels_available = lambda *a, **k: True
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations import hub_kernels
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from rotary.transformers import layers, use_kernels
model = LlamaForCausalLM(LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4))
tokens = torch.arange(20)[None]
def run():
    model.zero_grad()
    result = model(tokens, labels=tokens)
    result.loss.backward()
    return [result.logits, *(p.grad.clone() for p in model.parameters())]
former = dict(hub_kernels.get_kernel_mapping_transformers()["rotary_pos_emb"])
for training in (False, True):
    model.train(training)
    before = run()
    with use_kernels():
        model.set_use_kernels(True)
    assert apply_rotary_pos_emb.forward.__func__ is layers.apply_rotary_transformers.forward
    assert all(map(torch.equal, before, run()))
    assert hub_kernels.get_kernel_mapping_transformers()["rotary_pos_emb"] == former
    model.set_use_kernels(True)
    assert apply_rotary_pos_emb.forward.__func__ is not layers.apply_rotary_transformers.forward
"""


def through_transformers(*arguments: str) -> None:
    done = warm.run("-c", OWN_DOOR, *arguments)
    assert done.returncode == 0, done.stderr


def test_use_kernels_true_of_transformers():
    if not is_kernels_available():
        pytest.skip(
            f"transformers {transformers.__version__} wants kernels >= {KERNELS_MIN_VERSION}, < {KERNELS_MAX_VERSION}; "
            f"kernels {kernels.__version__} is here"
        )
    through_transformers()


def test_use_kernels_true_of_transformers_with_its_check_of_versions_put_aside():
    through_transformers("--any-version")
