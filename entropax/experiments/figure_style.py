"""The look that the figures of all programs share."""

from typing import Any

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
INK = "#444444"
# Colours that differ in lightness as well, for methods in the order in which they come.
COLOURS = (
    *(INK, "#e69f00", "#0072b2", "#d55e00", "#009e73"),
    *("#cc79a7", "#56b4e9", "#8c6d00", "#7f3fbf", "#a0a0a0"),
)
MARKERS = "osD^vP*Xph"
