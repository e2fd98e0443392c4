"""What the operators share: the tag that keeps strides, registration by dispatch key, and the call past autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import _torch

# Without this tag Inductor may change the strides of x, and so those of the output, which are those of empty_like(x). Before torch 2.8
# it does so for lists of tensors regardless; values are unaffected.
STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)


def implement(
    library: torch.library.Library,
    name: str,
    plain: Callable[..., Any],
    differentiable: Callable[..., Any],
    formula: Callable[..., Any],
    fake: Callable[..., Any],
) -> None:
    """Register an operator's implementations: by kernel, for autograd, under both kinds of vmap, and for fake tensors."""
    torch.library.register_fake(f"rotary::{name}", fake, lib=library)
    _torch.implement(library, name, plain, ("CompositeExplicitAutograd",))
    _torch.implement(library, name, differentiable, ("Autograd",))
    # functorch's vmap, and the older one of is_grads_batched=True
    _torch.implement(library, name, formula, ("FuncTorchBatched", "Batched"))


def below(operator: Any, formula: Any, by_formula: bool, *arguments: Any) -> Any:
    """The operator called again past its autograd implementation, or the formula where that is needed."""
    past = None if by_formula else _torch.below_autograd()
    if past is None:
        return formula(*arguments)
    with past:
        return operator(*arguments)
