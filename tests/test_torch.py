"""Private names of torch: each may be missing, and the library still imports and rotates."""

from __future__ import annotations

import pytest
import torch

from rotary import _torch
from rotary._torch import has_float64, plain_torch
from support import warm

CPU = torch.device("cpu")


def test_float64_is_found_missing_without_raising():
    assert has_float64(CPU) and has_float64(torch.device("cuda")) and has_float64(torch.device("meta"))
    assert not has_float64(torch.device("mps"))  # absent here: what cannot be made is not there


def test_what_is_made_plainly_is_made_outside_autocast_and_inference():
    with torch.autocast("cpu"), torch.inference_mode(), plain_torch():
        x = torch.ones(2, 2)
        assert not x.is_inference() and (x @ x).dtype == torch.float32


# Removes one name from torch before rotary is imported, and judges a rotation with and without a gradient by the plain formula.
WITHOUT = """
import importlib, sys, warnings
import torch
import torch.autograd.forward_ad, torch.utils._python_dispatch
module, _, name = sys.argv[1].rpartition(".")
owner = importlib.import_module(module)
if module == "torch.autograd.forward_ad":
    saved = owner._current_level  # torch itself reads it in its own functions: hide it from getattr alone
    import types
    class Hidden(types.ModuleType):
        def __getattribute__(self, attribute):
            if attribute == "_current_level":
                raise AttributeError(attribute)
            return getattr(owner, attribute)
    torch.autograd.forward_ad = sys.modules[module] = Hidden(module)
elif sys.argv[1] != "torch._C":
    hidden = type(owner)(module)
    hidden.__dict__.update({k: v for k, v in vars(owner).items() if k != name})
    sys.modules[module] = hidden
else:
    hidden = None
import rotary
from rotary import _torch
rope = rotary.RotaryEmbedding(16)
x = torch.randn(2, 3, 5, 16)
q = rope.rotate(x)
cos, sin = rope.cos_sin(5)
a, b = x[..., :8], x[..., 8:]
expected = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
assert torch.equal(q, expected), (q - expected).abs().max()
leaf = x.clone().requires_grad_()
rope.rotate(leaf).backward(q)
assert (leaf.grad - x).abs().max() < 1e-5
print("rotated")
"""


@pytest.mark.parametrize("name", _torch.PRIVATE)
def test_rotary_works_without(name: str):
    """Each private name of torch is removed in turn; what is left is slower or less detailed, and right."""
    run = warm.run("-c", WITHOUT, name)
    assert (run.returncode, run.stdout.strip()) == (0, "rotated"), run.stderr[-2000:]


def test_the_list_of_private_names_is_of_names_that_exist():
    """A misspelled name would be missing for ever, in silence."""
    import importlib

    for name in _torch.PRIVATE:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
