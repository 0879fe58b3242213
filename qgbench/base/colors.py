"""Colours of Okabe & Ito (Color Universal Design, 2008), which colour-blind readers tell apart."""

ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
YELLOW = "#f0e442"
CLASS_COLORS = (YELLOW, SKY, VERMILLION, PURPLE, GREEN, ORANGE, BLUE)  # of more classes they come round again
