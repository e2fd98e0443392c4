"""Drop-in for models that somebody else wrote: their rotation on our kernels, and nothing else changed.

    handle = patch(model)        ...        handle.remove()

A model's own function is recognised by what it does (probe), not by its name or text. Nothing here imports transformers.
"""

from .body import Body
from .patch import Handle, Report, patch
from .probe import probe

__all__ = ["Body", "Handle", "Report", "patch", "probe"]
