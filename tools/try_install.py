"""Whether an installed rotary works, wherever it is: names, the documented path, a rotation, every kernel against the plain formula.

    python -I tools/try_install.py [--native]        a second more than importing torch; writes nothing

Prints a line of JSON, the version of torch and what the native kernel says. Exit status 1 where an assertion fails, or with --native where
the native kernel is off. tools/wheel.py and the build of the wheels run it. Python's -I keeps this folder and PYTHONPATH out of the way.
"""

from __future__ import annotations

import json
import sys

import torch

import rotary
from zeta.nn import RotaryEmbedding


def main() -> None:
    assert rotary.__file__.startswith(sys.prefix), f"{rotary.__file__} is not the installed package"
    assert RotaryEmbedding is rotary.RotaryEmbedding
    freqs, scale = RotaryEmbedding(dim=64, use_xpos=True)(10)
    assert freqs.shape == scale.shape == (10, 64)
    rope, q, k = rotary.RotaryEmbedding(64), torch.randn(2, 8, 100, 64), torch.randn(2, 2, 100, 64)
    turned = rope.rotate(q, k)
    with rotary.use_backend("eager"):
        plain = rope.rotate(q, k)
    assert all(torch.equal(a, b) for a, b in zip(turned, plain, strict=True)), "the kernels disagree"
    assert torch.allclose(turned[0].norm(dim=-1), q.norm(dim=-1), rtol=1e-5), "a rotation changed a norm"
    native = rotary.backends()["native"]
    print(json.dumps([torch.__version__, native]))
    assert native == "available" or "--native" not in sys.argv[1:], f"the native kernel is off: {native}"


if __name__ == "__main__":
    main()
