"""No bit of a result depends on what was done to a module, to its buffers, to other modules, or on the modes around a call."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import RotaryEmbedding

MODULES = {
    "plain": lambda **options: RotaryEmbedding(64, **options),
    "xpos": lambda **options: RotaryEmbedding(64, use_xpos=True, base_rescale_factor=2.0, **options),
    "interpolated": lambda **options: RotaryEmbedding(32, interpolation_factor=3.7, interleaved=True, **options),
    "given": lambda **options: RotaryEmbedding.from_inv_freq([1.0, 0.3, 0.01], attention_factor=1.5, **options),
    "float32": lambda **options: RotaryEmbedding(64, base=5e5, angles="float32", **options),
}


def answers(rope: RotaryEmbedding) -> list[torch.Tensor]:
    """The results of a module's methods, at positions where a wrong bit shows."""
    x = torch.randn(2, 3, 5, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 257, 2049, 3001])
    outputs = [
        *rope(6, "cpu"),
        *rope.cos_sin(positions, role="query"),
        *rope.cos_sin(positions, torch.float64, role="key"),
    ]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        outputs += rope.rotate(x.to(dtype), x.to(dtype), positions=positions)
    return outputs


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(one, other, strict=True))


def mirrors(rope: RotaryEmbedding) -> bool:
    fresh = copy.deepcopy(rope)
    fresh.reset_parameters()
    return all(
        torch.equal(buffer, dict(fresh.named_buffers())[name]) and buffer.dtype == torch.float32
        for name, buffer in rope.named_buffers()
    )


def garbage(rope: RotaryEmbedding) -> RotaryEmbedding:
    for buffer in rope.buffers():
        buffer.fill_(float("nan"))
    return rope


def data_cast(rope: RotaryEmbedding) -> RotaryEmbedding:
    for buffer in rope.buffers():
        buffer.data = buffer.data.to(torch.bfloat16)
    return rope


def torch_saved(rope: RotaryEmbedding) -> RotaryEmbedding:
    file = io.BytesIO()
    torch.save(rope, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def state_dict_round_trip(rope: RotaryEmbedding) -> RotaryEmbedding:
    assert rope.state_dict() == {}
    rope.load_state_dict(rope.state_dict(), strict=True)
    rope.load_state_dict({}, assign=True)
    return rope


def inside_parent(rope: RotaryEmbedding) -> RotaryEmbedding:
    parent = nn.Sequential(nn.Linear(2, 2), rope)
    with torch.device("meta"):
        parent.to("meta")
    return parent.to_empty(device="cpu").half()[1]


CHANGES = {
    "to(bfloat16)": lambda r: r.to(torch.bfloat16),
    "half": lambda r: r.half(),
    "double().float()": lambda r: r.double().float(),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda r: pickle.loads(pickle.dumps(r)),
    "torch.save": torch_saved,
    "state_dict": state_dict_round_trip,
    "meta, to_empty": lambda r: r.to("meta").to_empty(device="cpu"),
    "meta, to_empty, reset_parameters": lambda r: (m := r.to("meta").to_empty(device="cpu"), m.reset_parameters())[0],
    "inside a parent, meta, to_empty, half": inside_parent,
    "eval, train, requires_grad_": lambda r: r.eval().train().requires_grad_(False),
    "share_memory": lambda r: r.share_memory(),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("change", CHANGES)
def test_no_change_of_the_module_changes_a_bit(kind: str, change: str):
    before = answers(MODULES[kind]())
    changed = CHANGES[change](MODULES[kind]())
    assert same(answers(changed), before)
    assert mirrors(changed)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("damage", [garbage, data_cast])
def test_nothing_reads_the_buffers(kind: str, damage):
    before = answers(MODULES[kind]())
    damaged = damage(MODULES[kind]())
    assert same(answers(damaged), before)
    damaged.reset_parameters()
    assert mirrors(damaged)


def under_inference_mode(make):
    with torch.inference_mode():
        rope = make()
        answers(rope)
    return rope


def under_fake_tensors(make):
    with FakeTensorMode():
        rope = make()
        rope.rotate(torch.randn(1, 2, 4, 64), role="query")
    return rope


def under_meta(make):
    with torch.device("meta"):
        rope = make()
    assert rope.inv_freq.is_meta
    return rope.to_empty(device="cpu")


def under_default_dtype(make):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        rope = make()
        rope.cos_sin(4, role="query")
        return rope
    finally:
        torch.set_default_dtype(before)


def under_compile(make):
    rope = make()
    torch._dynamo.reset()
    torch.compile(rope.rotate, backend="eager")(torch.randn(1, 2, 4, 64), role="query")
    return rope


BIRTHS = (under_inference_mode, under_fake_tensors, under_meta, under_default_dtype, under_compile)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("born", BIRTHS)
def test_construction_and_first_use_under_any_mode_change_no_bit(kind: str, born):
    before = answers(MODULES[kind]())
    rope = born(MODULES[kind])
    assert same(answers(rope), before)
    x = torch.randn(2, 3, 64, requires_grad=True)
    rope.rotate(x, role="query").sum().backward()  # nothing of it is an inference tensor or a fake one
    assert x.grad is not None


@pytest.mark.parametrize("kind", MODULES)
def test_no_mode_around_a_call_changes_a_bit(kind: str):
    rope = MODULES[kind]()
    before = answers(rope)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(answers(rope), before)
    with torch.inference_mode():
        assert same(answers(rope), before)
    with torch.no_grad():
        assert same(answers(rope), before)
    default = torch.get_default_dtype()
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            positions = torch.tensor([0, 1, 257, 2049, 3001])
            assert torch.equal(rope.cos_sin(positions, role="query")[0], before[2])
        finally:
            torch.set_default_dtype(default)


def test_threads_and_call_order_change_no_bit():
    shared = {kind: make() for kind, make in MODULES.items()}
    truth = {kind: answers(make()) for kind, make in MODULES.items()}
    wrong: list[str] = []

    def work(seed: int) -> None:
        order = list(MODULES)[seed % 5 :] + list(MODULES)[: seed % 5]
        for round_ in range(4):
            for kind in order:
                shared[kind](10 * seed + round_)
                if not same(answers(shared[kind]), truth[kind]):
                    wrong.append(f"{kind} in thread {seed}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pickle_is_as_small_as_the_arguments():
    rope = RotaryEmbedding(64)
    rope.rotate(torch.randn(1, 1, 100_000, 64))
    assert len(pickle.dumps(rope)) < 8_000
    copied = copy.deepcopy(rope)
    assert repr(copied) == repr(rope) and torch.equal(copied.cos_sin(100)[0], rope.cos_sin(100)[0])


def test_no_parameters_and_no_state():
    rope = RotaryEmbedding(64, use_xpos=True)
    assert list(rope.parameters()) == [] and rope.state_dict() == {}


def test_the_parameter_of_rotary_embedding_torch_loads_where_it_agrees_and_is_refused_by_name():
    """It keeps inv_freq as a parameter, `freqs`, which a model may have trained; strict or not, it is never passed over."""
    library = pytest.importorskip("rotary_embedding_torch")
    theirs, ours = library.RotaryEmbedding(64), RotaryEmbedding(64, interleaved=True)
    state = {f"rope.{name}": value for name, value in theirs.state_dict().items()}
    assert list(state) == ["rope.freqs"]
    model = torch.nn.ModuleDict({"rope": ours})
    for strict in (True, False):
        assert model.load_state_dict(state, strict=strict) == ([], [])
        trained = {"rope.freqs": state["rope.freqs"] * 1.01}
        with pytest.raises(RuntimeError, match=r"rope\.freqs of the checkpoint does not belong.*from_inv_freq\(\)"):
            model.load_state_dict(trained, strict=strict)
    own = RotaryEmbedding.from_inv_freq(trained["rope.freqs"].detach(), interleaved=True)
    assert torch.nn.ModuleDict({"rope": own}).load_state_dict(trained) == ([], [])
