"""Convert a checkpoint from one pairing of channels to the other, and detect which pairing it has.

convert("llama", "llama-interleaved", to="interleaved")
by_weights("llama")                 by_text(model, tokens)
"""

from .convert import Converted, convert
from .detect import Verdict, by_text, by_weights

__all__ = ["Converted", "Verdict", "by_text", "by_weights", "convert"]
