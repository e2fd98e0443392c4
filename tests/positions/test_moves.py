"""Where cached keys go: each map against its source's formula, written again in plain Python, and against attention over raw keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, positions

ROPE = RotaryEmbedding(32, base=500_000)


def raw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [0, 3, 20, 21, 500, 2_000_000_000])
def test_streaming_puts_the_sinks_before_the_window(n: int):
    old, new = positions.streaming(n, 4, 16)
    assert old.tolist() == [0, 1, 2, 3]
    assert new.tolist() == [max(n - 20, 0) + i for i in range(4)]


def test_streaming_has_the_scores_of_slots():
    """StreamingLLM's reference numbers the slots of the cache and rotates raw keys; moved sinks give its scores."""
    n, sinks, window = 1000, 4, 64
    x, q = raw(n, 32), raw(1, 32, seed=1)
    slots = torch.cat((x[:sinks], x[n - window :]))
    reference = ROPE.rotate(q, offset=sinks + window - 1) @ ROPE.rotate(slots).mT
    old, new = positions.streaming(n, sinks, window)
    cached = ROPE.rotate(x)
    keys = torch.cat((ROPE.rerotate(cached[:sinks], old, new), cached[n - window :]))
    ours = ROPE.rotate(q, offset=n - 1) @ keys.mT
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


def test_streaming_at_two_billion_tokens_in_float32():
    """Float32 angles leave errors of order one there; moved sinks 7e-8 of the norm."""
    n, sinks, window = 2_000_000_000, 4, 64
    x, q = raw(sinks + window, 32), raw(1, 32, seed=1)
    reference = ROPE.rotate(q, offset=sinks + window - 1) @ ROPE.rotate(x).mT
    old, new = positions.streaming(n, sinks, window)
    first = ROPE.rotate(x[:sinks].float())
    late = ROPE.rotate(x[sinks:].float(), offset=n - window)
    ours = ROPE.rotate(q.float(), offset=n - 1) @ torch.cat((ROPE.rerotate(first, old, new), late)).mT
    assert (ours - reference).abs().max() <= 1e-6 * float(x.norm(dim=-1).max() * q.norm())


@pytest.mark.parametrize(("group", "window"), [(2, 4), (4, 16), (3, 7), (1, 5)])
def test_self_extend_is_the_papers_equation(group: int, window: int):
    (near_q, near_k), (far_q, far_k) = positions.self_extend(40, group, window)
    assert near_q.tolist() == near_k.tolist() == list(range(40))
    assert far_q.tolist() == [i // group + window - window // group for i in range(40)]
    assert far_k.tolist() == [j // group for j in range(40)]
    at = torch.tensor([[0, 5, 9], [7, 8, 300]])
    (q, k), (far, _) = positions.self_extend(at, group, window)
    assert torch.equal(q, at) and torch.equal(k, at) and far.shape == at.shape


def test_self_extend_moves_keys_from_near_to_far():
    (_, near), (q, far) = positions.self_extend(60, 4, 8)
    x = raw(2, 60, 32)
    moved = ROPE.rerotate(ROPE.rotate(x), near, far)
    torch.testing.assert_close(moved, ROPE.rotate(x, positions=far), rtol=0, atol=1e-13)
    distances = (q[:, None] - far)[torch.tril(torch.ones(60, 60, dtype=torch.bool), -8)]
    assert int(distances.min()) >= 8 and int(distances.max()) <= 60 // 4 + 8


@pytest.mark.parametrize(("n", "keep"), [(8, 2), (9, 2), (100, 0), (5, 5), (3, 7)])
def test_context_shift_is_llama_cpps(n: int, keep: int):
    old, new = positions.context_shift(n, keep)
    discard = max(n - keep, 0) // 2
    assert old.tolist() == list(range(n))
    left = [p for p in range(n) if not keep <= p < keep + discard]
    assert new[left].tolist() == list(range(n - discard))


def test_context_shift_of_rows_with_a_length_each():
    cells = torch.stack(
        (torch.arange(10), torch.arange(10) + 30)
    )  # the second row has been shifted before, or is longer
    old, new = positions.context_shift(cells, 4)
    for row in range(2):
        n = int(cells[row, -1]) + 1
        discard = (n - 4) // 2
        assert new[row].tolist() == [p - discard if p >= 4 + discard else p for p in cells[row].tolist()]
    _, given = positions.context_shift(cells, 4, torch.tensor([1, 2]))
    assert (old - given)[:, -1].tolist() == [1, 2]


def test_kept_tokens_close_up():
    chosen = torch.tensor([[0, 3, 4, 9], [1, 2, 8, 9]])
    old, new = positions.kept(chosen)
    assert torch.equal(old, chosen) and new.tolist() == [[0, 1, 2, 3]] * 2
    x = raw(2, 10, 32)
    rows = torch.arange(2)[:, None]
    moved = ROPE.rerotate(ROPE.rotate(x)[rows, chosen], old, new)
    torch.testing.assert_close(moved, ROPE.rotate(x[rows, chosen]), rtol=0, atol=1e-13)


def test_a_chunk_laid_at_an_offset_of_each_row():
    start = torch.tensor([100, 7])
    old, new = positions.chunk(5, start)
    x = raw(2, 3, 5, 32)
    torch.testing.assert_close(
        ROPE.rerotate(ROPE.rotate(x), old, new), ROPE.rotate(x, offset=start), rtol=0, atol=1e-13
    )
    assert [t.tolist() for t in positions.chunk(2, -5, old=9)] == [[9, 10], [-5, -4]]


def test_drafts_stand_at_their_depth():
    depth = torch.tensor([0, 0, 1, 1, 2])
    old, new = positions.tree(torch.tensor([10, 50]), depth)
    assert old.tolist() == [[10, 11, 12, 13, 14], [50, 51, 52, 53, 54]]
    assert new.tolist() == [[10, 10, 11, 11, 12], [50, 50, 51, 51, 52]]
    for prefix in (10, torch.tensor(10)):
        assert [t.tolist() for t in positions.tree(prefix, depth)] == [old[0].tolist(), new[0].tolist()]
    x = raw(2, 5, 32)
    moved = ROPE.rerotate(ROPE.rotate(x, positions=old), old, new)
    path = ROPE.rotate(x[:, [0, 2, 4]], offset=torch.tensor([10, 50]))  # an accepted branch: 0 -> 2 -> 4
    torch.testing.assert_close(moved[:, [0, 2, 4]], path, rtol=0, atol=1e-13)


def test_lengths_of_rows_are_not_read():
    """Values on a device are never read by the host: maps of meta tensors have shapes."""
    n = torch.empty(3, dtype=torch.int32, device="meta")
    assert positions.streaming(n, 4, 16)[1].shape == (3, 4)
    assert positions.chunk(7, n)[1].shape == (3, 7)
    cells = torch.empty(3, 9, dtype=torch.int64, device="meta")
    assert positions.context_shift(cells, 4)[1].shape == (3, 9)
    assert positions.self_extend(cells, 4, 16)[1][0].shape == (3, 9)
    assert positions.kept(cells)[1].shape == (3, 9)
    assert positions.tree(n, cells)[1].shape == (3, 9)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: positions.streaming(-1, 4, 16), ValueError, "n_seen must be >= 0"),
        (lambda: positions.streaming(9.0, 4, 16), TypeError, "n_seen must be an integer"),
        (lambda: positions.streaming(torch.ones(2), 4, 16), TypeError, "n_seen must be an integer tensor"),
        (
            lambda: positions.streaming(torch.ones(2, 2, dtype=torch.int64), 4, 16),
            ValueError,
            "n_seen must be an int, 0-d",
        ),
        (lambda: positions.streaming(9, -4, 16), ValueError, "sinks must be >= 0"),
        (lambda: positions.streaming(9, 4, 0), ValueError, "window must be at least 1"),
        (lambda: positions.self_extend(9, 0, 4), ValueError, "group must be at least 1"),
        (lambda: positions.self_extend(torch.arange(3.0), 2, 4), TypeError, "n must be an integer tensor"),
        (lambda: positions.context_shift(9, -1), ValueError, "keep must be >= 0"),
        (
            lambda: positions.context_shift(torch.zeros(1, 2, 3, dtype=torch.int64), 1),
            ValueError,
            "n must be an int or",
        ),
        (lambda: positions.kept(4), TypeError, "positions must be an integer tensor"),
        (lambda: positions.chunk(3, 1.5), TypeError, "start must be an integer"),
        (lambda: positions.tree(3, [0, 1]), TypeError, "depth must be an integer tensor"),
    ],
)
def test_what_is_no_integer_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
