"""patch(fuse="norms"): norms of queries and keys computed with the rotation behind them, or left to the model with a reason."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
import transformers
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from rotary.transformers import Handle, fused_norms, patch
from rotary.transformers.deferred import Deferred
from rotary.transformers.norms import NormSpec
from zoo import fused_proof

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def qwen3() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16, "vocab_size": 32}
    config = transformers.Qwen3Config(num_attention_heads=4, num_key_value_heads=2, **sizes)
    model = transformers.Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
    return model.train()


@pytest.fixture
def model() -> Any:
    return qwen3()


def trained(model: Any, **how: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of one step."""
    model.zero_grad()
    out = model(IDS, labels=IDS, **how)
    out.loss.backward()
    return out.logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(
    found: tuple[Tensor, dict[str, Tensor]], wanted: tuple[Tensor, dict[str, Tensor]], limit: float = 1e-5
) -> None:
    assert found[1].keys() == wanted[1].keys()
    for a, b in [(found[0], wanted[0]), *((found[1][name], wanted[1][name]) for name in wanted[1])]:
        assert float((a - b).norm() / b.norm().clamp(min=1e-30)) <= limit


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gemma3n", "exaone4", "lfm2", "neomme", "molmo2"])
def test_families_give_the_same_outputs_and_gradients(family: str):
    """Forms A, C, D, layers without rotation, other names, no weight, and norms that the config chooses."""
    result = fused_proof.outcome(family, thorough=False)
    assert result.passes, result


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("olmo2", "a whole projection, and not over the 16 of a head"),
        ("chameleon", "it is no norm with one weight at most"),
        ("nanochat", "its result is used otherwise than by a rotation"),
        ("deepseek_v32", "its result is used otherwise than by a rotation"),
        ("sapiens2", "used otherwise than by a rotation"),
    ],
)
def test_other_norms_are_left_by_name(family: str, reason: str):
    """Whole projections, LayerNorms, norms after the rotation, indexers, prefixes: nothing of them is fused, and the report says why."""
    result = fused_proof.outcome(family, thorough=False)
    assert result.fused == 0 and result.logits <= 1e-5 and not result.reason
    assert any(reason in text for text in result.left.values()), result.left


def test_the_report_and_the_counts(model: Any):
    with patch(model, fuse="norms") as handle:
        model(IDS)
        assert handle.calls == handle.fused == 2
        assert "2 x Qwen3Attention.q_norm: with the rotation, RMSNorm, eps 1e-06, rounded twice" in str(handle.report())
        assert not any("norm" in name for _, name in handle.report().left)
    before = handle.fused
    model(IDS)
    assert handle.fused == before
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_value_that_is_unknown_is_refused(model: Any):
    with pytest.raises(ValueError, match="fuse must be 'norms' or None, got bool True"):
        patch(model, fuse=True)  # type: ignore[arg-type]
    patch(model).remove()


def test_gradient_checkpointing(model: Any):
    wanted = trained(model)
    for reentrant in (False, True):
        again = qwen3()
        again.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with patch(again, fuse="norms") as handle:
            again.get_input_embeddings().weight.requires_grad_()
            same(trained(again), wanted)
            assert handle.fused >= 2


def test_deep_copies_and_other_weights(model: Any):
    with patch(model, fuse="norms") as handle:
        other = copy.deepcopy(model)
        other.model.layers[0].self_attn.q_norm.weight.data.mul_(3.0)
        found = trained(other)
        assert handle.fused == 2
    plain = copy.deepcopy(model)
    plain.model.layers[0].self_attn.q_norm.weight.data.mul_(3.0)
    same(found, trained(plain))


def test_a_copy_outlives_the_patch_and_computes_its_norms(model: Any):
    x = torch.randn(2, 8, 4, 16)
    with patch(model, fuse="norms"):
        norm = copy.deepcopy(model).model.layers[0].self_attn.q_norm
        assert type(norm(x)) is Deferred
        with pytest.raises(TypeError, match="scale"):  # of the model's own forward
            norm(x, scale=2.0)
    assert type(norm(x)) is Tensor


@pytest.mark.parametrize("kind", ["forward", "backward", "pre backward"])
def test_a_hook_on_a_norm_sees_what_it_saw_before(kind: str, model: Any):
    seen: list[Any] = []
    norm = model.model.layers[0].self_attn.q_norm

    def hook(module: nn.Module, *values: Any) -> None:
        assert module is norm
        seen.append([v.detach().clone() for v in _flat(values)])

    register = {
        "forward": norm.register_forward_hook,
        "backward": norm.register_full_backward_hook,
        "pre backward": norm.register_full_backward_pre_hook,
    }[kind]
    register(hook)
    wanted = trained(model)
    with patch(model, fuse="norms") as handle:
        same(trained(model), wanted)
        assert handle.fused == 1, "the layer whose norm has a hook computes it, the other does not"
    first, second = seen
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def _flat(values: Any) -> Iterator[Tensor]:
    for value in values if isinstance(values, tuple) else (values,):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _flat(value)


def test_under_autocast_and_in_a_compiled_graph_the_model_computes_its_norms(model: Any):
    with torch.autocast("cpu", torch.bfloat16):
        wanted = trained(model)
    with patch(model, fuse="norms") as handle:
        with torch.autocast("cpu", torch.bfloat16):
            same(trained(model), wanted, 2e-2)
        assert handle.fused == 0
        torch._dynamo.reset()
        attention = torch.compile(model.model.layers[0].self_attn, backend="eager", fullgraph=True)
        h, position = torch.randn(1, 8, 64), torch.arange(8)[None]
        tables = model.model.rotary_emb(h, position)
        found = attention(h, tables, None)[0]
        handle.remove()
        wanted_out = model.model.layers[0].self_attn(h, tables, None)[0]
        torch.testing.assert_close(found, wanted_out, rtol=0, atol=1e-5)


def test_accelerate_hooks_and_peft(model: Any):
    accelerate, peft = pytest.importorskip("accelerate"), pytest.importorskip("peft")
    wanted = trained(model)
    hooked = qwen3()
    accelerate.cpu_offload(hooked, "cpu")
    with patch(hooked, fuse="norms"), torch.no_grad():
        torch.testing.assert_close(hooked(IDS).logits, wanted[0], rtol=0, atol=1e-4)
    adapted = peft.get_peft_model(qwen3(), peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["q_norm"]))
    plain = trained(adapted)
    with patch(adapted, fuse="norms") as handle:
        same(trained(adapted), plain)
        assert handle.calls == 2


def test_inputs_that_are_not_for_the_kernel_are_the_model_s(model: Any):
    attention = model.model.layers[0].self_attn
    with patch(model, fuse="norms"):
        x = torch.randn(2, 8, 4, 16)
        y = attention.q_norm(x.double())
        assert type(y) is Tensor
        waiting = attention.q_norm(x)
        assert type(waiting) is not Tensor
        torch.testing.assert_close(waiting + 0.0, type(attention.q_norm).__mro__[1].forward(attention.q_norm, x))
    for name in ("q_norm", "k_norm"):
        getattr(attention, name).double()
    with patch(model, fuse="norms") as handle, pytest.raises(RuntimeError):
        model(IDS)  # as without the patch: float32 meets float64 in the model's own code
    assert handle.fused == 0


class Shared(nn.Module):
    """Two attentions that share a norm, and one that calls it outside of a rotation too."""

    def __init__(self, *, shared: bool = True, elsewhere: bool = False) -> None:
        super().__init__()
        norms = [LlamaRMSNorm(8) for _ in range(4)]
        self.first = Rotates(norms[0], norms[1])
        self.second = Rotates(norms[0] if shared else norms[2], norms[3])
        self.elsewhere = elsewhere

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Any:
        return self.first(x, x, cos, sin), self.second(x, x, cos, sin)


class Rotates(nn.Module):
    def __init__(self, q_norm: nn.Module, k_norm: nn.Module) -> None:
        super().__init__()
        self.q_norm, self.k_norm = q_norm, k_norm

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        return q, k


class OneSide(Rotates):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        q, k = apply_rotary_pos_emb(self.q_norm(q), k, cos, sin)
        return q, self.k_norm(k)


def tables(n: int = 5, dim: int = 8) -> tuple[Tensor, Tensor]:
    angles = torch.randn(1, n, dim // 2)
    return torch.cat((angles.cos(),) * 2, -1), torch.cat((angles.sin(),) * 2, -1)


def report_of(model: nn.Module, *x: Tensor) -> tuple[Handle, dict[str, str]]:
    wanted = model(*x)
    with patch(model, fuse="norms") as handle:
        for a, b in zip(_flat(model(*x)), _flat(wanted), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    return handle, {name: reason for (_, name), reason in handle.report().left.items()}


def test_a_norm_that_is_shared_is_left():
    x = torch.randn(2, 3, 5, 8)
    handle, left = report_of(Shared(), x, *tables())
    assert "several modules share it" in left["q_norm"] and handle.fused == 0
    assert "the other tensor of its rotation" in left["k_norm"]
    handle, left = report_of(Shared(shared=False), x, *tables())
    assert not left and handle.fused == 2


class Writes(Rotates):
    """Hands its norms' input to a function that writes into it: the source of the method does not show that."""

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        a, b = self.q_norm(q), self.k_norm(k)
        into(q)
        a, b = apply_rotary_pos_emb(a, b, cos, sin)
        return a, b


def into(x: Tensor) -> None:
    x.add_(1.0)


def test_the_input_of_a_norm_that_was_written_before_the_rotation_is_an_error():
    model = Writes(LlamaRMSNorm(8), LlamaRMSNorm(8))
    with patch(model, fuse="norms"), pytest.raises(RuntimeError, match="written in place before the rotation"):
        model(torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), *tables())


def test_a_rotation_with_one_norm_is_left():
    x = torch.randn(2, 3, 5, 8)
    handle, left = report_of(OneSide(LlamaRMSNorm(8), LlamaRMSNorm(8)), x, x, *tables())
    assert handle.fused == 0 and "the other tensor" in left["q_norm"] and "used otherwise" in left["k_norm"]


def test_partial_rotary_normalises_the_whole_head():
    """vLLM #43676: a fused kernel took the width of the tables for that of the head."""
    x, (cos, sin) = torch.randn(2, 3, 5, 12), tables(5, 8)

    class Partial(Rotates):
        def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
            q, k = self.q_norm(q), self.k_norm(k)
            q, k = partial(q, k, cos, sin)
            return q, k

    norms = [LlamaRMSNorm(12) for _ in range(2)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
    handle, _ = report_of(Partial(*norms), x, x, cos, sin)
    assert handle.fused == 1


def partial(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    def turned(x: Tensor) -> Tensor:
        width = cos.shape[-1]
        a, rest = x[..., :width], x[..., width:]
        half = torch.cat((-a[..., width // 2 :], a[..., : width // 2]), -1)
        return torch.cat((a * cos.unsqueeze(1) + half * sin.unsqueeze(1), rest), -1)

    return turned(q), turned(k)


SPEC = NormSpec(eps=1e-6, weight="weight")


def test_what_a_norm_waits_for():
    """Plain floating tensors of the CPU, with a weight of theirs, outside of everything that looks into a forward."""

    class Subclass(Tensor): ...

    norm, x = LlamaRMSNorm(8), torch.randn(2, 8)

    def waits(x: Any = x, weight: Any = norm.weight, spec: NormSpec = SPEC, norm: nn.Module = norm) -> bool:
        return fused_norms._can_defer(norm, x, spec, weight)

    bare = NormSpec(eps=1e-6, weight=None)
    assert waits() and waits(nn.Parameter(x)) and waits(weight=norm.weight.detach())
    assert waits(spec=bare, weight=None)
    for other in (x.int(), x.to("meta"), x.as_subclass(Subclass), "no tensor", None):
        assert not waits(other) and not waits(other, spec=bare, weight=None)
    for other in (x.double(), x[:, :7]):
        assert not waits(other) and waits(other, spec=bare, weight=None)
    for weight in (None, norm.weight.double(), norm.weight[:7], norm.weight.to("meta"), x[0].as_subclass(Subclass)):
        assert not waits(weight=weight)
    for spec, weight in ((SPEC, norm.weight), (bare, None)):
        with torch.autocast("cpu", torch.bfloat16):
            assert not waits(spec=spec, weight=weight)
        seen = []
        torch.func.vmap(lambda y, s=spec, w=weight: (seen.append(waits(x, w, s)), y)[1])(x)
        hooked, overridden = LlamaRMSNorm(8), LlamaRMSNorm(8)
        hooked.register_forward_hook(lambda *_: None)
        overridden.forward = overridden.forward
        seen += [waits(norm=one, spec=spec, weight=weight) for one in (hooked, overridden)]
        assert seen == [False] * 3


class Owner(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)


def test_the_width_of_a_norm_is_that_of_a_head_where_the_module_says_it():
    norm = LlamaRMSNorm(8)
    bare = nn.Module()
    bare.matrix = nn.Parameter(torch.ones(3, 4))
    reason = "it runs over 8 channels, a whole projection, and not over the 4 of a head"
    assert fused_norms._wider_than_head(Owner(head_dim=4), norm) == reason
    assert fused_norms._wider_than_head(Owner(head_dim=16), norm) is not None
    for owner, of in (
        (Owner(head_dim=8), norm),
        (Owner(), norm),
        (Owner(head_dim="4"), norm),
        (Owner(head_dim=4), bare),
    ):
        assert fused_norms._wider_than_head(owner, of) is None


@pytest.mark.parametrize(
    ("together", "left"),
    [
        ([], {"no"}),
        ([("a", "b")], {"no"}),
        ([("a", "no")], {"no", "a"}),
        ([("no", "a")], {"no", "a"}),
        ([("a", "")], {"no", "a"}),
        ([("", "a"), ("b", "c")], {"no", "a"}),
        ([("a", "unknown")], {"no", "a"}),
        ([("a", "b"), ("b", "no")], {"no", "a", "b"}),
        ([("b", "no"), ("a", "b")], {"no", "a", "b"}),
        ([("c", "b"), ("a", "b"), ("no", "a")], {"no", "a", "b", "c"}),
        ([("a b", "c")], {"no"}),
        ([("a no", "c")], {"no", "a", "c"}),
    ],
)
def test_a_norm_waits_where_all_tensors_of_its_rotation_do(together: list[tuple[str, ...]], left: set[str]):
    specs: dict[str, NormSpec | str] = {"a": SPEC, "b": SPEC, "c": SPEC, "no": "a reason of its own"}
    fused_norms._keep_whole_calls(specs, [tuple(frozenset(t.split()) for t in call) for call in together])
    assert {name for name, spec in specs.items() if isinstance(spec, str) and name != "unknown"} == left
    assert specs["no"] == "a reason of its own"
    assert all("the other tensor of its rotation" in str(specs[name]) for name in left - {"no"})
