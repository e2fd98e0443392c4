"""The documented import path: `from zeta.nn import RotaryEmbedding`.

`zeta` has no __init__.py here, so that it is a namespace package, and an installed upstream `zeta` wins untouched.
"""

from rotary import RotaryEmbedding

__all__ = ["RotaryEmbedding"]
