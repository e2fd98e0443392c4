"""What context-extension schemes do to each plane: as numbers (Diagnosis), as text (report_text) and as pictures (draw);
and which planes read which coordinate of a position (Coordinates, coordinates_text, draw_coordinates).

matplotlib is imported by draw() alone, when it is called.
"""

from .coordinates import Coordinates, coordinates_text
from .diagnosis import Diagnosis, Plane
from .gratings import draw_coordinates
from .plots import draw
from .report import report_text

__all__ = ["Coordinates", "Diagnosis", "Plane", "coordinates_text", "draw", "draw_coordinates", "report_text"]
