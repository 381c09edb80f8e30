"""Files whose names say where a face is: `name_x_y_w_h.png`."""

from __future__ import annotations

import re

FACE = re.compile(r"_(\d+)_(\d+)_(\d+)_(\d+)$")
"""The end of a file name with a face: x and y of its centre, its width and its height."""
