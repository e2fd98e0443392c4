"""Dialects: the ways to write a rotation into a config, one value each, in the order in which they are tried."""

from __future__ import annotations

from . import gguf
from .atoms import ATOMS
from .dialect import Config, Dialect, Spelled
from .diffusers import DIFFUSERS
from .litgpt import LITGPT
from .megatron import MEGATRON
from .own_code import OWN_CODE
from .own_keys import OWN_KEYS
from .params_json import META, MISTRAL
from .torchtune import TORCHTUNE
from .transformers import TRANSFORMERS

DIALECTS = (DIFFUSERS, ATOMS, MISTRAL, META, LITGPT, TORCHTUNE, MEGATRON, *OWN_CODE, *OWN_KEYS, TRANSFORMERS)
"""All but GGUF's, whose keys depend on the architecture. The last one takes every config."""

__all__ = ["DIALECTS", "TRANSFORMERS", "Config", "Dialect", "Spelled", "recognise"]


def recognise(config: Config) -> Dialect:
    """The dialect of a config; transformers' for a composite one, whose parts may be in another dialect."""
    if gguf.recognises(config):
        return gguf.dialect(config)
    return next(dialect for dialect in DIALECTS if dialect.recognises(config))
