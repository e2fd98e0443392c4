"""The native kernel apart from its arithmetic: tensors that it does not serve, threads, forks, a library that is unavailable."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import RotaryEmbedding, _torch, apply_rotary, use_backend
from rotary._native import functions, library
from rotary._rotation import call, native
from support.step_by_step import step_by_step

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
ROPE = RotaryEmbedding(16)
COS, SIN = ROPE.cos_sin(5)


@pytest.fixture
def steps() -> Iterator[None]:
    """Calls go step by step: test_call.py has those that go whole into C."""
    with step_by_step():
        yield


@pytest.fixture(params=["whole", "step by step"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The two ways of a call."""
    with step_by_step() if request.param == "step by step" else contextlib.nullcontext():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, steps: None) -> list[bytes]:
    """What went to the library."""
    seen: list[bytes] = []
    real = native._call or native._bind()

    def call(words: bytes) -> int:
        seen.append(words)
        return real(words)

    monkeypatch.setattr(native, "_call", call)
    return seen


class Subclass(torch.Tensor):
    pass


def _fake(x: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        cos, sin = mode.from_tensor(COS), mode.from_tensor(SIN)
        return apply_rotary(mode.from_tensor(x), cos, sin)


def _jvp(x: Tensor) -> Tensor:
    primal, tangent = torch.func.jvp(lambda x: apply_rotary(x, COS, SIN), (x,), (x,))
    assert torch.equal(primal, tangent)
    return tangent


def _functional_gradient(x: Tensor) -> Tensor:
    gradient, y = torch.func.grad_and_value(lambda x: (apply_rotary(x, COS, SIN) ** 2).sum() / 2)(x)
    torch.testing.assert_close(gradient, x, rtol=0, atol=1e-5)  # a rotation keeps the norm
    torch.testing.assert_close(y, (x**2).sum() / 2)
    return torch.func.vjp(lambda x: apply_rotary(x, COS, SIN), x)[0]


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "negative bit": lambda x: apply_rotary(torch._neg_view(-x), COS, SIN),
    "imaginary part of a conjugate": lambda x: apply_rotary(torch.complex(x, -x).conj().imag, COS, SIN),
    "negative bit in a table": lambda x: apply_rotary(x, COS, torch._neg_view(-SIN)),
    "subclass": lambda x: apply_rotary(x.as_subclass(Subclass), COS, SIN).as_subclass(Tensor),
    "vmap": lambda x: torch.vmap(lambda x: apply_rotary(x, COS, SIN))(x),
    "jvp": _jvp,
    "functional gradient": _functional_gradient,
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_address_of_a_tensor_that_is_not_plain_memory(kind: str, calls: list[bytes]):
    x = torch.randn(2, 3, 5, 16)
    with use_backend("eager"):
        expected = apply_rotary(x, COS, SIN)
    assert torch.equal(KINDS[kind](x), expected)
    assert calls == []


def test_fake_and_meta_tensors_give_shapes(calls: list[bytes]):
    x = torch.randn(2, 3, 5, 16)
    fake, meta = _fake(x), apply_rotary(x.to("meta"), COS.to("meta"), SIN.to("meta"))
    assert (fake.shape, fake.dtype, fake.stride()) == (x.shape, x.dtype, x.stride())
    assert (meta.shape, meta.dtype, meta.stride()) == (x.shape, x.dtype, x.stride())
    assert calls == []


def test_a_wanted_gradient_goes_through_autograd_and_a_plain_tensor_straight(calls: list[bytes]):
    x = torch.randn(2, 3, 5, 16)
    assert apply_rotary(x, COS, SIN).grad_fn is None and len(calls) == 1
    y = apply_rotary(x.requires_grad_(), COS, SIN)
    assert y.grad_fn is not None and len(calls) == 2
    y.backward(y.detach())
    torch.testing.assert_close(x.grad, x.detach(), rtol=0, atol=1e-5)
    assert len(calls) == 3


@pytest.fixture
def one_process(tmp_path: Path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def work(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x large enough for several threads, its tables, and what the plain formula makes of it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, 300 + 97 * seed, 128, generator=generator)
    cos, sin = RotaryEmbedding(128).cos_sin(x.shape[2])
    with use_backend("eager"):
        return x, cos, sin, apply_rotary(x, cos, sin)


def in_threads(count: int, job: Callable[[int], None]) -> None:
    wrong: list[BaseException] = []

    def run(i: int) -> None:
        try:
            job(i)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures("either_way")
def test_several_python_threads_while_the_number_of_threads_changes():
    before = torch.get_num_threads()
    works = [work(seed) for seed in range(4)]

    def job(i: int) -> None:
        for step in range(30):
            if i == 0:
                torch.set_num_threads(1 + step % 3)
            x, cos, sin, expected = works[(i + step) % 4]
            assert torch.equal(apply_rotary(x, cos, sin), expected)
            assert torch.equal(apply_rotary(x.clone(), cos, sin, inplace=True), expected)

    try:
        in_threads(5, job)
    finally:
        torch.set_num_threads(before)


def test_backward_in_several_threads():
    works = [work(seed) for seed in range(3)]

    def job(i: int) -> None:
        for step in range(5):
            x, cos, sin, _ = works[(i + step) % 3]
            leaf = x.clone().requires_grad_()
            apply_rotary(leaf, cos, sin).backward(x)
            with use_backend("eager"):
                assert torch.equal(leaf.grad, apply_rotary(x, cos, sin, conjugate=True))

    in_threads(4, job)


class Rotated(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> bool:
        x, cos, sin, expected = work(i)
        return torch.equal(apply_rotary(x, cos, sin), expected)


@pytest.mark.usefixtures("either_way")
def test_workers_of_a_data_loader():
    apply_rotary(*work(3)[:3])  # torch's pool runs before the fork
    assert all(all(batch) for batch in torch.utils.data.DataLoader(Rotated(), num_workers=2, batch_size=3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.usefixtures("either_way")
def test_after_a_raw_fork_small_work_runs_as_torchs_own_does():
    """Work that torch splits among threads hangs in such a child, in torch's own operations as here; one thread's share does not."""
    apply_rotary(*work(3)[:3])
    x = torch.randn(1, 2, 5, 16)
    expected = apply_rotary(x, COS, SIN)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(apply_rotary(x, COS, SIN), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("steps")
def test_the_error_of_the_thread_pool_is_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "_call", lambda words: -1)
    with pytest.raises(RuntimeError, match="torch's thread pool reported an error"):
        apply_rotary(torch.randn(5, 16), COS, SIN)


@pytest.mark.skipif(library.threads() != "torch's thread pool", reason="this torch has no pool to take away")
@pytest.mark.usefixtures("either_way")
def test_one_thread_without_the_pool(monkeypatch: pytest.MonkeyPatch):
    assert library.threads() == "torch's thread pool"
    monkeypatch.setattr(_torch, "parallel_for", lambda: None)
    assert library.threads().startswith("one thread: torch ")
    library.load.cache_clear()
    assert not isinstance(library.load(), str)  # hands the library an address of 0
    x, cos, sin, expected = work(4)
    assert torch.equal(apply_rotary(x, cos, sin), expected)
    monkeypatch.undo()
    library.load.cache_clear()
    library.load()


def test_in_place_raises_the_version():
    x = torch.randn(2, 5, 16)
    version = x._version
    apply_rotary(x, COS, SIN, inplace=True)
    assert x._version == version + 1
    with torch.inference_mode():
        apply_rotary(torch.randn(5, 16), COS, SIN, inplace=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no native library: it was not built"), (b"not a library", "the native library does not load")],
)
def test_a_library_that_is_off_says_why_and_warns_once(
    content: bytes | None, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    file = tmp_path / "librotary.so"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(library, "LIBRARY", file)
    monkeypatch.setattr(library, "REPORT", tmp_path / "build.txt")
    monkeypatch.setattr(native, "_call", None)
    for name in ("rotate", "plan", "rotate_at", "tables_at"):
        monkeypatch.setattr(call, name, getattr(call, name))
    forget_the_library()
    call.load()
    assert words in str(call.unavailable()) and call.rotate is call.declined
    with pytest.warns(RuntimeWarning, match="many times slower"):
        assert words in str(native.unavailable())
    assert words in str(native.unavailable())
    x = torch.randn(5, 16)
    with use_backend("eager"):
        expected = apply_rotary(x, COS, SIN)
    assert torch.equal(apply_rotary(x, COS, SIN), expected)
    (tmp_path / "build.txt").write_text("no C++ compiler was found")
    file.unlink(missing_ok=True)
    forget_the_library()
    assert library.load() == "no native library: no C++ compiler was found"
    forget_the_library()


def forget_the_library() -> None:
    """Have the next call load it again."""
    library.load.cache_clear()
    library.unavailable.cache_clear()
    functions.load.cache_clear()
