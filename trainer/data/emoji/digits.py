"""Printed numbers: digits of 4 x 6 pixels, drawn here so that nothing depends on a font."""

from __future__ import annotations

import numpy as np

DIGIT_WIDTH = 4
DIGIT_HEIGHT = 6
NUMBER_WIDTH = 2 * DIGIT_WIDTH + 1
"""Two digits and the column between them."""

_ROWS = """
.##. ..#. ###. ###. #..# #### .##. #### .##. .##.
#..# .##. ...# ...# #..# #... #... ...# #..# #..#
#..# ..#. ...# .##. #..# ###. ###. ..#. .##. #..#
#..# ..#. .##. ...# #### ...# #..# ..#. #..# .###
#..# ..#. #... ...# ...# ...# #..# .#.. #..# ...#
.##. .### #### ###. ...# ###. .##. .#.. .##. .##.
"""
_BITS = np.array([[[mark == "#" for mark in digit] for digit in row.split()] for row in _ROWS.split("\n")[1:-1]])
DIGITS = np.ascontiguousarray(_BITS.transpose(1, 0, 2))
"""bool [10, DIGIT_HEIGHT, DIGIT_WIDTH]; True is ink."""
