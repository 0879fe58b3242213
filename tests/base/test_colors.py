"""Colours of classes, judged by scikit-image's CIEDE2000 and a published simulation of colour blindness."""

import itertools

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab, rgb2xyz

from qgbench.base.colors import CLASS_COLORS

# Machado, Oliveira & Fernandes (2009), of linear RGB: what a reader without the middle cones, or the long ones, sees.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
RGB = np.array([list(bytes.fromhex(colour[1:])) for colour in CLASS_COLORS]) / 255


def seen(colours: NDArray[np.float64], simulation: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    mixed = np.clip(linear @ simulation.T, 0, 1)
    return np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)


def nearest(colours: NDArray[np.float64]) -> float:
    """The distance of the two that are most alike; 1 is what an eye just tells apart side by side."""
    lab = rgb2lab(colours)
    return min(float(deltaE_ciede2000(one, other)) for one, other in itertools.combinations(lab, 2))


def test_twenty_classes_and_more_have_colours_that_are_told_apart() -> None:
    assert len(CLASS_COLORS) >= 20
    assert nearest(RGB[:7]) > 20
    assert nearest(RGB) > 13
    for simulation in (DEUTERANOPIA, PROTANOPIA):
        assert nearest(seen(RGB[:7], simulation)) > 11
        assert nearest(seen(RGB, simulation)) > 7


def test_every_colour_shows_on_black_on_white_and_on_grey() -> None:
    luminance = rgb2xyz(RGB)[:, 1]
    assert ((luminance + 0.05) / 0.05).min() > 3  # WCAG 2.1 asks 3 : 1 of graphics
    lab = rgb2lab(RGB)
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 23  # chroma
    assert deltaE_ciede2000(lab, rgb2lab(np.ones((1, 3)))).min() > 13
