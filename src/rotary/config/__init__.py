"""Read a model's config into the arguments of RotaryEmbedding. A key about rotation that is unknown is an error, never ignored.

Configs of published models come with the package: `shipped()` lists their names, `path(name)` is the file of one of them.
"""

from .published import path, shipped
from .read import Arguments, read
from .spelling import overridden

__all__ = ["Arguments", "overridden", "path", "read", "shipped"]
