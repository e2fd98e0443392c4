"""base^(-2i / dim) and the schemes applied to it, in float64 or in the float32 arithmetic of transformers."""

from __future__ import annotations

import torch

from .._types import Frequencies, Length
from ..scaling.scheme import Scheme


def in_float64(base: float, dim: int, schemes: tuple[Scheme, ...], device: torch.device, length: Length) -> Frequencies:
    """base^(-2i / dim) (Su et al. 2021, arXiv:2104.09864, section 3.2.2) and the schemes in float64, rounded once to float32."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    inv_freq, factor = torch.pow(base, -exponents), 1.0
    for scheme in schemes:
        inv_freq, more = scheme(inv_freq, base=base, dim=dim, length=length)
        factor = factor * more
    return inv_freq.to(torch.float32), factor


def in_float32(base: float, dim: int, schemes: tuple[Scheme, ...], device: torch.device, length: Length) -> Frequencies:
    """The same in float32, in the order of operations of transformers 5.23 (modeling_llama.py, modeling_rope_utils.py).

    transformers has no chains of schemes. The first scheme is computed in its arithmetic, from the base; each later one by its formula,
    from the frequencies of the scheme before.
    """
    inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float, device=device) / dim))
    factor = 1.0
    for i, scheme in enumerate(schemes):
        formula = scheme.in_float32 if i == 0 else scheme
        inv_freq, more = formula(inv_freq, base=base, dim=dim, length=length)
        factor = factor * more
    return inv_freq, factor
