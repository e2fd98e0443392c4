"""The road of one call: rotate() passes few rooms of the house, never goes back up, and asks once whether something traces.

A room is an entry of the drawing in docs/design/0001-the-house.md: a folder or a file of src/rotary. A call passes it if a Python function
of it runs. The native library, at the end of the road, is C++ and has no such functions; on a GPU the launch adds the room _triton/.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest
import torch

import rotary
from rotary import RotaryEmbedding, _torch
from rotary._rotation import call

PACKAGE = Path(rotary.__file__).parent
DRAWING = Path(__file__).parents[1] / "docs" / "design" / "0001-the-house.md"
ORDER = re.findall(r"^(\w+(?:/|\.py))", re.findall(r"```\n(.*?)```", DRAWING.read_text(), re.S)[0], re.M)

ROOMS, STEPS_UP, QUESTIONS = 7, 3, 1


class Road(NamedTuple):
    """rooms: in the order in which a call enters them. steps_up: (caller, callee) of calls from a room to one that is drawn above it.
    questions: how often tracing() was asked."""

    rooms: list[str]
    steps_up: list[tuple[str, str]]
    questions: int


def room(code: CodeType) -> str | None:
    """The room of a function; None outside of the package."""
    path = Path(code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    first = path.relative_to(PACKAGE).parts[0]
    return first if first.endswith(".py") else f"{first}/"


def caller(frame: FrameType) -> str | None:
    """The room of the nearest function of the package that called this one, by way of torch's functions or directly."""
    outer = frame.f_back
    while outer is not None and room(outer.f_code) is None:
        outer = outer.f_back
    return None if outer is None else room(outer.f_code)


def road(rotate: Callable[[], Any]) -> Road:
    """The road of the second call: the first one imports modules and makes constants."""
    rotate()
    calls: list[tuple[str | None, str, CodeType]] = []

    def record(frame: FrameType, event: str, argument: Any) -> None:
        callee = room(frame.f_code)
        if event == "call" and callee is not None:
            calls.append((caller(frame), callee, frame.f_code))

    sys.setprofile(record)
    try:
        rotate()
    finally:
        sys.setprofile(None)
    up = [(above, here) for above, here, _ in calls if above is not None and ORDER.index(here) < ORDER.index(above)]
    questions = sum(code is _torch.tracing.__code__ for *_, code in calls)
    return Road(list(dict.fromkeys(here for _, here, _ in calls)), up, questions)


Q, K = torch.randn(2, 4, 10, 64), torch.randn(2, 2, 10, 64)
PLAIN, XPOS = RotaryEmbedding(64), RotaryEmbedding(64, use_xpos=True)
FLOAT32 = RotaryEmbedding(64, angles="float32")
CALLS: dict[str, Callable[[], Any]] = {
    "q and k": lambda: PLAIN.rotate(Q, K),
    "q alone": lambda: PLAIN.rotate(Q),
    "fewer queries": lambda: PLAIN.rotate(Q[:, :, -1:], K),
    "offset": lambda: PLAIN.rotate(Q, K, offset=99),
    "positions": lambda: PLAIN.rotate(Q, K, positions=torch.arange(10)),
    "positions by row": lambda: PLAIN.rotate(Q, K, positions=torch.arange(20).view(2, 10)),
    "real positions": lambda: PLAIN.rotate(Q, K, positions=torch.arange(10.0)),
    "xPos": lambda: XPOS.rotate(Q, K),
    "float32 angles": lambda: FLOAT32.rotate(Q, K),
    "in place": lambda: PLAIN.rotate(Q.clone(), K.clone(), inplace=True),
    "gradient": lambda: PLAIN.rotate(Q.clone().requires_grad_(), K),
}


@pytest.fixture(params=["whole calls in C", "calls in Python"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ordinary calls as they are, or all calls by the Python road, which gradients, compilers and GPUs take."""
    if request.param == "calls in Python":
        for name in ("rotate", "rotate_at", "tables_at"):
            monkeypatch.setattr(call, name, lambda *arguments: None)
    return request.param


@pytest.mark.parametrize("rotate", CALLS.values(), ids=CALLS)
def test_a_call_passes_few_rooms_and_goes_down(rotate: Callable[[], Any], how: str):
    passed = road(rotate)
    assert passed.rooms[0] == "embedding.py" and len(passed.rooms) <= ROOMS, passed.rooms
    assert len(passed.steps_up) <= STEPS_UP, passed.steps_up


@pytest.mark.parametrize("rotate", CALLS.values(), ids=CALLS)
def test_whether_something_traces_is_asked_once(rotate: Callable[[], Any], how: str):
    assert road(rotate).questions <= QUESTIONS


def test_packed_documents_pass_as_many_rooms_and_that_of_checks():
    """And one more: rotary.positions.packed, which is public, checks its arguments and asks whether something traces."""
    passed = road(lambda: PLAIN.rotate(Q, K, cu_seqlens=torch.tensor([0, 4, 10])))
    assert len(passed.rooms) <= ROOMS + 1 and passed.steps_up == [] and passed.questions <= QUESTIONS + 1


@pytest.mark.skipif(call.unavailable() is not None, reason="the native library is not here")
def test_an_ordinary_call_on_a_cpu_is_two_rooms_and_one_crossing():
    assert road(CALLS["q and k"]) == Road(["embedding.py", "_angles/"], [], 0)


def test_the_test_of_the_road_can_fail(monkeypatch: pytest.MonkeyPatch):
    """Another question, and a call from a low room to a high one, are seen."""
    plan = type(PLAIN._tables).plan

    def climbing(tables: Any) -> Any:
        _torch.tracing()
        return plan.fget(tables)  # pyright: ignore[reportOptionalCall]

    before = road(CALLS["gradient"])
    monkeypatch.setattr(type(PLAIN._tables), "plan", property(climbing))
    assert road(CALLS["gradient"]).questions == before.questions + 1
    climb = compile("def climb(rope, n): return rope.cos_sin(n)", str(PACKAGE / "_checks.py"), "exec")
    names: dict[str, Any] = {}
    exec(climb, names)
    assert road(lambda: names["climb"](PLAIN, 3)).steps_up == [("_checks.py", "embedding.py")]
