"""What context-extension schemes do to each plane: as numbers (Diagnosis), as text (report_text) and as pictures (draw).

matplotlib is imported by draw() alone, when it is called.
"""

from .diagnosis import Diagnosis, Plane
from .plots import draw
from .report import report_text

__all__ = ["Diagnosis", "Plane", "draw", "report_text"]
