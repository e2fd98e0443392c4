"""The rotation as one operator registered with torch: one node that a compiler leaves whole, with the kernel of the device inside.

    torch.ops.rotary.rotate     fresh outputs, q and k in one launch
    torch.ops.rotary.rotate_    the same, written over q and k

Under torch.compile the functions of `rotary` become the plain formula, which fuses with the operations around it; docs/design/0009
says when which is faster. To get the operator, import apply_rotary and apply_rotary_qk from this module: arguments, checks and bits
are the same, but for nested (jagged) tensors, which an operator does not take: give it their values(). `import rotary` registers the
operators, so that a saved program finds them. use_backend() is read when the operator runs, not when it is traced.
"""

from __future__ import annotations

from torch import Tensor

from . import _inputs
from ._operators.rotation import rotate


def apply_rotary(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    seq_dim: int = -2,
    interleaved: bool = False,
    conjugate: bool = False,
    inplace: bool = False,
) -> Tensor:
    """rotary.apply_rotary by way of the operator: the same arguments, errors and bits, and one node in a compiled graph. TypeError
    for a nested (jagged) tensor.

    >>> import torch
    >>> x, (cos, sin) = torch.randn(2, 4, 9, 64), torch.randn(2, 9, 32)
    >>> import rotary
    >>> torch.equal(apply_rotary(x, cos, sin), rotary.apply_rotary(x, cos, sin))
    True
    """
    _inputs.check_flags(interleaved=interleaved, conjugate=conjugate, inplace=inplace)
    axis, table = _inputs.for_table(x, cos, sin, seq_dim)
    return rotate((x,), (table,), axis, interleaved, conjugate, inplace)[0]


def apply_rotary_qk(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    key_cos: Tensor | None = None,
    key_sin: Tensor | None = None,
    seq_dim: int = -2,
    interleaved: bool = False,
    conjugate: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """rotary.apply_rotary_qk by way of the operator: the same arguments, errors and bits, and one node in a compiled graph. TypeError
    for a nested (jagged) tensor."""
    _inputs.check_flags(interleaved=interleaved, conjugate=conjugate, inplace=inplace)
    axis, tables = _inputs.for_pair(q, k, cos, sin, key_cos, key_sin, seq_dim)
    q, k = rotate((q, k), tables, axis, interleaved, conjugate, inplace)
    return q, k
