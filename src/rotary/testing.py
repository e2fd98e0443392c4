"""The laws of a rotation, for any implementation: assert_rotation(rotate, head_dim=...); assert_rerotation for moving keys.

    R(0) = 1        |R(p) x| = |x|        R(p)^T R(m) depends on m - p        R(-p) R(p) = 1        R(p) R(m) = R(p + m)
    R is linear     rows and tokens are independent                         channels past dim pass through bit for bit

Laws find a wrong sign, pairing, axis, broadcast, offset or cache. They do not find wrong frequencies, which obey every law: for those
assert_angles compares with exact arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks
from ._angles.eager import cos_sin_of_angles
from ._angles.polynomials import RADIANS_PER_UNIT
from ._angles.turns import turns, turns_per_token

Rotate = Callable[[Tensor, Tensor], Tensor]
"""rotate(x, positions): x (batch, heads, seq, head_dim), integer positions (seq,) -> x's shape and dtype."""

Rerotate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""rerotate(k, old_positions, new_positions): keys k that rotate() turned at the old positions (seq,) -> keys as at the new ones."""


def assert_rotation(
    rotate: Rotate,
    *,
    head_dim: int,
    dim: int | None = None,
    furthest: int = 1 << 20,
    tolerance: float = 1e-9,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> None:
    """Check an implementation against every law, on random queries, keys and positions within +-furthest.

    rotate: see Rotate. head_dim: channels of a head; dim: those of them that turn, all by default.
    furthest: the largest position [token]. tolerance: absolute, for vectors of norm 1; an implementation with float32 angles needs about
        1e-7 x furthest.
    dtype: of queries and keys. seed: of the random numbers.

    AssertionError names the law, the largest error and its index. TypeError or ValueError for arguments that fit no test.

    >>> from rotary import RotaryEmbedding
    >>> rope = RotaryEmbedding(32)
    >>> assert_rotation(lambda x, positions: rope.rotate(x, positions=positions), head_dim=64, dim=32)
    """
    draw, dim = _draw(head_dim, dim, furthest, tolerance, dtype, seed)
    rotate = _checked("rotate", rotate)
    seq = 12
    x, y = (torch.randn(3, 2, seq, head_dim, generator=draw, dtype=torch.float64) for _ in range(2))
    x, y = ((t / t.norm(dim=-1, keepdim=True)).to(dtype) for t in (x, y))
    p, m = (torch.randint(-furthest // 2, furthest // 2 + 1, (seq,), generator=draw) for _ in range(2))
    shift = int(torch.randint(1, max(furthest // 2, 1) + 1, (1,), generator=draw))
    order = torch.randperm(seq, generator=draw)

    def holds(law: str, result: Tensor, expected: Tensor, within: float = tolerance) -> None:
        _holds(law, result, expected, within)

    before = x.clone()
    holds("channels past dim pass through bit for bit", rotate(x, p)[..., dim:], x[..., dim:], 0.0)
    holds("identity at position 0", rotate(x, torch.zeros_like(p)), x)
    holds("the input is left alone", x, before, 0.0)
    turned = rotate(x, p)
    holds("norms are kept", turned.norm(dim=-1), x.norm(dim=-1))
    score, shifted = (turned * rotate(y, m)).sum(-1), (rotate(x, p + shift) * rotate(y, m + shift)).sum(-1)
    holds(f"scores depend on the distance alone (shift {shift})", shifted, score)
    holds("turning back undoes turning", rotate(turned, -p), x)
    holds("turning twice is turning by the sum", rotate(turned, m), rotate(x, p + m))
    holds("linearity", rotate((2 * x - y).to(dtype), p), 2 * turned - rotate(y, p), 4 * tolerance)
    holds("tokens are independent", rotate(x[:, :, order], p[order]), turned[:, :, order])
    for row in range(x.shape[0]):
        holds("rows of a batch are independent", rotate(x[row : row + 1], p), turned[row : row + 1])
    for t in range(seq):
        holds("one token alone", rotate(x[:, :, t : t + 1], p[t : t + 1]), turned[:, :, t : t + 1])
    if dim > 0 and bool((p != 0).any()) and torch.equal(turned, x):
        raise AssertionError("nothing turns: rotate returns its input at every position")


def assert_rerotation(
    rotate: Rotate,
    rerotate: Rerotate,
    *,
    head_dim: int,
    dim: int | None = None,
    furthest: int = 1 << 20,
    tolerance: float = 1e-9,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> None:
    """Check an implementation that moves rotated keys against its own rotation: moved keys equal keys rotated at the new positions.

    rotate: the rotation that made the keys. rerotate: see Rerotate. Others as in assert_rotation; an implementation with float32 angles
    needs a tolerance of about 1e-7 x furthest, an exact one in a half precision two roundings of that precision.

    AssertionError names the law, the largest error and its index. TypeError or ValueError for arguments that fit no test.

    >>> from rotary import RotaryEmbedding
    >>> rope = RotaryEmbedding(32)
    >>> assert_rerotation(lambda x, positions: rope.rotate(x, positions=positions), rope.rerotate, head_dim=64, dim=32)
    """
    draw, dim = _draw(head_dim, dim, furthest, tolerance, dtype, seed)
    rotate, rerotate = _checked("rotate", rotate), _checked("rerotate", rerotate)
    seq = 12
    x = torch.randn(3, 2, seq, head_dim, generator=draw, dtype=torch.float64)
    x = (x / x.norm(dim=-1, keepdim=True)).to(dtype)
    p, q, r = (torch.randint(-furthest // 2, furthest // 2 + 1, (seq,), generator=draw) for _ in range(3))
    order = torch.randperm(seq, generator=draw)
    key = rotate(x, p)
    before = key.clone()
    moved = rerotate(key, p, q)
    _holds("channels past dim pass through bit for bit", moved[..., dim:], x[..., dim:], 0.0)
    _holds("keys moved are keys rotated afresh", moved, rotate(x, q), tolerance)
    _holds("rotated keys are not changed by rerotate", key, before, 0.0)
    _holds("keys that do not move keep their values", rerotate(key, p, p), key, 0.0)
    some = torch.where(torch.arange(seq) % 2 == 0, p, q)
    _holds(
        "keys that do not move among others that do keep their values",
        rerotate(key, p, some)[:, :, ::2],
        key[:, :, ::2],
        0.0,
    )
    _holds("there and back", rerotate(moved, q, p), key, 2 * tolerance)
    _holds("two moves are one", rerotate(moved, q, r), rerotate(key, p, r), 2 * tolerance)
    _holds("a shift of all", rerotate(key, p, p + 1000), rotate(x, p + 1000), tolerance)
    _holds("tokens are independent", rerotate(key[:, :, order], p[order], q[order]), moved[:, :, order], tolerance)
    for t in range(seq):
        _holds(
            "one token alone",
            rerotate(key[:, :, t : t + 1], p[t : t + 1], q[t : t + 1]),
            moved[:, :, t : t + 1],
            tolerance,
        )


def _draw(head_dim: Any, dim: Any, furthest: Any, tolerance: Any, dtype: Any, seed: Any) -> tuple[torch.Generator, int]:
    """The random numbers of a test, and dim; TypeError or ValueError for arguments that fit no test."""
    head_dim = _checks.count("head_dim", head_dim, most=_checks.WIDEST)
    dim = head_dim if dim is None else _checks.length("dim", dim)
    if dim > head_dim:
        raise ValueError(f"dim must be at most head_dim {head_dim}, got {_checks.describe(dim)}")
    _checks.count("furthest", furthest, most=2**62)
    _checks.number("tolerance", tolerance, at_least=0.0)
    _checks.floating_dtype("dtype", dtype)
    return torch.Generator().manual_seed(_checks.position("seed", seed)), dim


def _checked(name: str, function: Any) -> Callable[..., Tensor]:
    """The function, with an AssertionError for a result that is no dense tensor of its first argument's shape, dtype and device."""
    if not callable(function):
        raise TypeError(f"{name} must be a function of tensors, got {_checks.describe(function)}")

    def checked(x: Tensor, *positions: Tensor) -> Tensor:
        expected = f"expected a dense tensor {x.dtype} {tuple(x.shape)} on {x.device}, like its first argument"
        result: Any = function(x, *positions)
        if not isinstance(result, Tensor) or result.layout is not torch.strided:
            raise AssertionError(f"{name} returned {_checks.describe(result)}, {expected}")
        if (result.shape, result.dtype, result.device) != (x.shape, x.dtype, x.device):
            raise AssertionError(f"{name} returned {result.dtype} {tuple(result.shape)} on {result.device}, {expected}")
        return result

    return checked


def _holds(law: str, result: Tensor, expected: Tensor, within: float) -> None:
    """AssertionError unless the values of a result are those expected, within that absolute error."""
    error = (result.double() - expected.double()).abs()
    worst = float(error.max()) if error.numel() else 0.0
    if not worst <= within:  # NaN too
        at = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
        raise AssertionError(f"{law}: error {worst:.3g} at {at}, allowed {within:.3g}")


def assert_angles(
    cos: Tensor, sin: Tensor, positions: Sequence[int] | Tensor, inv_freq: Tensor, *, tolerance: float = 3.1e-8
) -> None:
    """Check tables against exact ones: |cos, sin - truth| <= tolerance, absolute.

    cos, sin: (seq, dim/2) for integer positions (seq,) with |position| <= 2^31 and float32 frequencies inv_freq (dim/2,) [rad/token].
    The truth is computed from turns in 95 bits of fixed point, within 5e-16 of mpmath. AssertionError names position, plane and error;
    TypeError for tables that are no floating tensors, positions that are no integers, and frequencies that are not float32.

    >>> from rotary import RotaryEmbedding
    >>> rope = RotaryEmbedding(64)
    >>> assert_angles(*rope.cos_sin(100), range(100), rope.inv_freq)
    """
    at = _integer_positions(positions)
    if _checks.tensor("inv_freq", inv_freq, "a float32 tensor (dim/2,)").dtype != torch.float32:
        raise TypeError(f"inv_freq must be float32, whose bits define the angles, got {inv_freq.dtype}")
    if inv_freq.ndim != 1 or inv_freq.is_meta or inv_freq.layout is not torch.strided:
        raise ValueError(f"inv_freq must be a dense tensor (dim/2,) with values, got {_checks.describe(inv_freq)}")
    if not bool(inv_freq.isfinite().all()):
        raise ValueError("inv_freq must be finite; some of its values are infinite or nan")
    _checks.number("tolerance", tolerance, at_least=0.0)
    words = turns_per_token(inv_freq.detach().cpu())
    angles = turns(at, *words).to(torch.float64) * RADIANS_PER_UNIT
    exact = cos_sin_of_angles(angles, torch.float64)  # torch's, not the polynomials that are judged
    for name, table, truth in zip(("cos", "sin"), (cos, sin), exact, strict=True):
        _checks.tensor(name, table, "a floating tensor (seq, dim/2)")
        if not table.is_floating_point() or table.is_meta:
            raise TypeError(f"{name} must be a floating tensor (seq, dim/2) with values, got {_checks.describe(table)}")
        _checks.dense(name, table)
        if table.shape != truth.shape:
            raise AssertionError(f"{name}: shape {tuple(table.shape)}, expected {tuple(truth.shape)}")
        error = (table.detach().cpu().double() - truth).abs()
        worst = float(error.max()) if error.numel() else 0.0
        if not worst <= tolerance or math.isnan(worst):
            row, plane = divmod(int(error.argmax()), truth.shape[1])
            raise AssertionError(
                f"{name} of position {int(at[row])}, plane {plane} (inv_freq {float(inv_freq[plane]):.6g}) is off by {worst:.3g}, "
                f"allowed {tolerance:.3g}"
            )


def _integer_positions(positions: Any) -> Tensor:
    """(seq,) int64 on the CPU; TypeError for what is no integers, ValueError for another shape or no values."""
    if isinstance(positions, Tensor):
        _checks.integers("positions", positions)
        if positions.ndim != 1 or positions.is_meta:
            raise ValueError(f"positions must be a tensor (seq,) with values, got {_checks.describe(positions)}")
        return positions.detach().cpu().to(torch.int64)
    items = _checks.list_of("positions", positions, "integers, or an integer tensor (seq,)")
    return torch.tensor([_checks.position(f"positions[{i}]", item) for i, item in enumerate(items)], dtype=torch.int64)
