"""Colours of Okabe & Ito (Color Universal Design, 2008), which colour-blind readers tell apart; of more classes, more.

From the eighth on, each is as far as can be (CIEDE2000) from those before it, also as colour-blind readers see them,
neither grey nor darker than what shows on black (3 : 1).
"""

ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
YELLOW = "#f0e442"
# fmt: off
CLASS_COLORS = (  # of still more classes they come round again
    YELLOW, SKY, VERMILLION, PURPLE, GREEN, ORANGE, BLUE,
    "#c3003c", "#78f0e1", "#ffb4a5", "#8778ff", "#874b78", "#3c694b", "#f05a69", "#780fff", "#96d269", "#d200b4",
    "#1ee1ff", "#1e9696", "#d20f00", "#78874b", "#ffa5c3",
)
# fmt: on
