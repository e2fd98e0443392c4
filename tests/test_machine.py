"""A state machine over one module: calls of every kind, casts, copies, moves and threads, in any order; no step changes a bit.

After each step the module's tables are those of a fresh module. Memory that was not written contains NaN.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
from collections.abc import Iterator

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import RotaryEmbedding, apply_rotary_qk
from rotary.scaling import DynamicNTK, YaRN

MAKERS = {
    "plain": lambda: RotaryEmbedding(16),
    "interleaved": lambda: RotaryEmbedding(16, interleaved=True, base=500_000),
    "xpos": lambda: RotaryEmbedding(16, use_xpos=True, base_rescale_factor=2.0),
    "yarn": lambda: RotaryEmbedding(16, scaling=YaRN(4.0, 64)),
    "dynamic": lambda: RotaryEmbedding(16, scaling=DynamicNTK(2.0, 64)),
    "float32": lambda: RotaryEmbedding(16, angles="float32", interpolation_factor=2.0),
    "given": lambda: RotaryEmbedding.from_inv_freq([1.0, 0.5, 0.1, 0.01], attention_factor=1.25),
}
POSITIONS = torch.tensor([0, 1, 7, 63])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
PARTS = st.sampled_from(["inv_freq", "scale"])


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN, so that reading memory that was not written is noticed."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Life(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(sorted(MAKERS)))
    def born(self, kind: str) -> None:
        self.make = MAKERS[kind]
        self.rope = self.make()
        fresh = self.make()
        role = {"role": "query"} if fresh.use_xpos else {}
        self.role = role
        self.tables = fresh.cos_sin(POSITIONS, length=64, **role)
        self.pair = fresh(9)
        self.buffers = {name: buffer.clone() for name, buffer in fresh.named_buffers()}

    @rule(n=st.integers(0, 70), dtype=DTYPES)
    def tables_of_any_length(self, n: int, dtype: torch.dtype) -> None:
        self.rope.cos_sin(n if n <= 64 else 64, dtype, **self.role)
        self.rope(n)

    @rule(seq=st.integers(1, 20), offset=st.integers(0, 40), dtype=DTYPES, inplace=st.booleans(), wanted=st.booleans())
    def rotate(self, seq: int, offset: int, dtype: torch.dtype, inplace: bool, wanted: bool) -> None:
        q = torch.randn(2, 3, seq, 18).to(dtype)
        k = torch.randn(2, 1, seq, 18).to(dtype)
        leaf = wanted and not inplace
        q, k = q.requires_grad_(leaf), k.requires_grad_(leaf)
        expected = self.make().rotate(q.detach().clone(), k.detach().clone(), offset=offset, length=64)
        result = self.rope.rotate(q, k, offset=offset, length=64, inplace=inplace)
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
        if leaf:
            (result[0].sum() + result[1].sum()).backward()

    @rule(rows=st.lists(st.integers(1, 64), min_size=2, max_size=2))
    def rows_of_their_own(self, rows: list[int]) -> None:
        x = torch.randn(2, 2, 1, 16)
        self.rope.rotate(x, x, offset=torch.tensor(rows) - 1, length=torch.tensor(rows))

    @rule(dtype=DTYPES)
    def cast(self, dtype: torch.dtype) -> None:
        assert self.rope.to(dtype) is self.rope

    @rule(how=st.sampled_from(["half", "bfloat16", "double", "float", "eval", "train", "cpu", "share_memory"]))
    def call(self, how: str) -> None:
        getattr(self.rope, how)()

    @rule(how=st.sampled_from(["deepcopy", "pickle", "in a model"]))
    def copied(self, how: str) -> None:
        if how == "deepcopy":
            self.rope = copy.deepcopy(self.rope)
        elif how == "pickle":
            self.rope = pickle.loads(pickle.dumps(self.rope))
        else:
            self.rope = copy.deepcopy(nn.Sequential(self.rope).to(torch.bfloat16))[0]

    @rule()
    def meta_and_back(self) -> None:
        with poisoned():
            self.rope = self.rope.to("meta").to_empty(device="cpu")
            self.tables_still()
            self.rope.reset_parameters()

    @rule(name=PARTS, value=st.sampled_from([0.0, float("nan"), 7.0]))
    def overwritten(self, name: str, value: float) -> None:
        buffer = getattr(self.rope, name)
        if buffer is not None:
            buffer.data.fill_(value)
            self.tables_still()
            self.rope.reset_parameters()

    @rule(assign=st.booleans())
    def state(self, assign: bool) -> None:
        assert self.rope.state_dict() == {}
        self.rope.load_state_dict({}, assign=assign)
        self.rope.load_state_dict({"inv_freq": self.buffers["inv_freq"].clone()}, strict=False, assign=assign)

    @rule(mode=st.sampled_from(["inference", "autocast", "no_grad", "fake", "compile", "poison"]))
    def under(self, mode: str) -> None:
        if mode == "fake":
            with FakeTensorMode():
                self.rope.cos_sin(5, **self.role)
            return
        if mode == "compile":
            x = torch.randn(1, 2, 5, 16)
            expected = self.make().rotate(x, length=64, **self.role)
            result = torch.compile(self.rope.rotate, backend="eager")(x, length=64, **self.role)
            assert torch.equal(result, expected)
            torch._dynamo.reset()
            return
        if mode == "poison":
            with poisoned():
                self.tables_still()
                x = torch.randn(1, 2, 5, 16)
                assert torch.equal(
                    self.rope.rotate(x, length=64, **self.role), self.make().rotate(x, length=64, **self.role)
                )
            return
        with {"inference": torch.inference_mode(), "autocast": torch.autocast("cpu"), "no_grad": torch.no_grad()}[mode]:
            self.tables_still()
            self.rope(5)

    @rule()
    def in_threads(self) -> None:
        wrong: list[int] = []

        def job() -> None:
            cos, sin = self.rope.cos_sin(POSITIONS, length=64, **self.role)
            q = torch.ones(1, 4, 2 * cos.shape[-1])
            apply_rotary_qk(q, q, cos, sin)
            if not (torch.equal(cos, self.tables[0]) and torch.equal(sin, self.tables[1])):
                wrong.append(1)

        threads = [threading.Thread(target=job) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    @invariant()
    def tables_still(self) -> None:
        for result, expected in zip(self.rope.cos_sin(POSITIONS, length=64, **self.role), self.tables, strict=True):
            assert torch.equal(result, expected)

    @invariant()
    def pair_still(self) -> None:
        for result, expected in zip(self.rope(9), self.pair, strict=True):
            assert torch.equal(result, expected)

    @invariant()
    def buffers_still(self) -> None:
        for name, expected in self.buffers.items():
            assert torch.equal(getattr(self.rope, name), expected) and getattr(self.rope, name).dtype == torch.float32


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
