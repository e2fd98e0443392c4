"""Any model's config -> the arguments of RotaryEmbedding. Nothing about rotation is passed over in silence.

Published configs travel with the package: `shipped()` names them, `path(name)` is where one lies.
"""

from .read import Arguments, read
from .shipped import path, shipped

__all__ = ["Arguments", "path", "read", "shipped"]
