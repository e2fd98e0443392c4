"""Views that leave the rows of a norm whole: methods of a tensor after which each row of the last dimension has the same elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

VIEWS = frozenset(
    {"transpose", "permute", "view", "reshape", "contiguous", "unflatten", "flatten", "unsqueeze", "squeeze"}
)
"""Methods of a tensor that move, split or join dimensions. Whether one leaves the last dimension whole depends on its arguments."""


class View(NamedTuple):
    """A method of a tensor and its arguments."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def of(self, x: Tensor) -> Tensor:
        """x under this view."""
        return getattr(x, self.name)(*self.args, **self.kwargs)

    def keeps_rows(self, x: Tensor, y: Tensor) -> bool:
        """Whether the rows of the last dimension of x are rows of y, which is x under this view."""
        if y.shape[-1:] != x.shape[-1:]:
            return False
        if self.name == "transpose":
            axes = (*self.args, *self.kwargs.values())
            return not {axis % x.ndim for axis in axes} & {x.ndim - 1}
        if self.name == "permute":
            args = self.args
            axes = args if args and isinstance(args[0], int) else (*args, *self.kwargs.values())[0]
            return axes[-1] % x.ndim == x.ndim - 1
        return True
