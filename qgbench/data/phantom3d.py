"""The embedded data set of volumes: short-axis pictures of a heart-like organ in two phases, drawn from a seed.

The left cavity is bright blood in a dark wall that closes around it at the apex; the right cavity is a crescent of the
same blood that touches the wall. What else is bright (vessels, fat) has no wall, and the wall alone is as dark as other
muscle. Cavities shrink and the wall thickens from the first phase to the second. Slices are far thicker than pixels are
wide, breathing shifts them, and the first or last ones may lie beyond the organ.

All arithmetic is float64: the last bit of an exponential may differ between processors, rounding to 8 bits hides it.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from qgbench.data.volume_files import Spacing, scaled

CLASSES = ("rv", "myo", "lv")
RV, MYO, LV = 1, 2, 3
PHASES = 2

Field = NDArray[np.float64]


@dataclass(frozen=True)
class PhantomVolume:
    """One phase of one patient.

    Attributes
    ----------
    image : (D, H, W) uint8
        Grey.
    labels : (D, H, W) uint8
        0 background, 1 right cavity, 2 wall, 3 left cavity.
    spacing : (depth, height, width)
        In mm.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    spacing: Spacing


@dataclass(frozen=True)
class _Patient:
    """What both phases share; lengths in mm."""

    spacing: Spacing
    radius: float  # of the left cavity at the base
    wall: float
    length: float  # of the left cavity, from apex to base
    base: float  # of the organ: its place along the depth, from the middle of the volume
    centre: Field  # (2,): place at the base, from the middle of the slice
    lean: Field  # (2,): how far the apex lies beside the base
    turn: float  # where the right cavity is, in radians
    oval: float
    crescent: float  # width of the right cavity, in radii of the left one
    shrink: float  # of the cavities in the second phase
    blood: float
    muscle: float
    lung: float
    vessels: Field  # (N, 3): place and radius of bright discs


def draw_spacing(patient: int, seed: int = 2611) -> Spacing:
    """Return the spacing of a patient's volumes (depth, height, width) in mm; see `draw_patient`."""
    return _draw(_stream(seed, patient, 0)).spacing


def draw_patient(patient: int, depth: int = 8, size: int = 64, seed: int = 2611) -> list[PhantomVolume]:
    """Return the two phases of a patient.

    They depend on the arguments alone: fewer patients are a prefix of more.

    Parameters
    ----------
    patient : int
        Index, from 0.
    depth, size : int
        Number of slices, and their side in pixels.
    seed : int
        Non-negative.
    """
    drawn = _draw(_stream(seed, patient, 0))
    return [_phase(drawn, phase, depth, size, _stream(seed, patient, 1 + phase)) for phase in range(PHASES)]


def _stream(seed: int, patient: int, part: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient, part)))


def _draw(rng: np.random.Generator) -> _Patient:
    pixel = rng.uniform(1.4, 1.8)
    around = rng.uniform(0, 2 * np.pi, size=3)
    away = rng.uniform(38, 55, size=3)
    return _Patient(
        spacing=(float(rng.choice([8.0, 9.0, 10.0])), pixel, pixel),
        radius=rng.uniform(17, 23),
        wall=rng.uniform(6, 9),
        length=rng.uniform(50, 66),
        base=rng.uniform(22, 34),
        centre=rng.uniform(-7, 7, size=2),
        lean=rng.uniform(-6, 6, size=2),
        turn=np.pi + rng.uniform(-0.6, 0.6),
        oval=rng.uniform(-0.1, 0.1),
        crescent=rng.uniform(1.1, 1.5),
        shrink=rng.uniform(0.62, 0.8),
        blood=rng.uniform(0.75, 0.95),
        muscle=rng.uniform(0.25, 0.4),
        lung=rng.uniform(0.03, 0.15),
        vessels=np.stack([away * np.cos(around), away * np.sin(around), rng.uniform(5, 10, size=3)], axis=1),
    )


def _phase(patient: _Patient, phase: int, depth: int, size: int, rng: np.random.Generator) -> PhantomVolume:
    thickness, pixel, _ = patient.spacing
    shrink = patient.shrink if phase else 1.0
    radius, wall = patient.radius * shrink, patient.wall * (2 - shrink) ** 1.3
    places: Field = (np.arange(size, dtype=np.float64) - (size - 1) / 2) * pixel
    image, labels = np.empty((depth, size, size)), np.empty((depth, size, size), np.uint8)
    for z in range(depth):
        below_base = patient.base - (z - (depth - 1) / 2) * thickness  # slices run from the apex to the base
        height = 1 - below_base / patient.length  # 0 at the apex, 1 at the base
        shift = patient.centre + patient.lean * (1 - height) + rng.normal(0, 1.0, size=2)
        y, x = places[:, None] - shift[0], places[None, :] - shift[1]
        labels[z] = _organ(patient, x, y, height, radius, wall, shrink)
        image[z] = _tissue(patient, labels[z], places, x, y, rng)
    bias = 1 + 0.25 * np.cos(places[:, None] / 60 + rng.uniform(0, 6)) * np.cos(places / 60 + rng.uniform(0, 6))
    image = scipy.ndimage.gaussian_filter(image, (0, 0.7, 0.7)) * bias
    image = np.hypot(image + 0.05 * rng.standard_normal(image.shape), 0.05 * rng.standard_normal(image.shape))
    return PhantomVolume(scaled(image), labels, patient.spacing)


def _organ(
    patient: _Patient, x: Field, y: Field, height: float, radius: float, wall: float, shrink: float
) -> NDArray[np.uint8]:
    """Return the labels (H, W) of a slice; `height` is 0 at the left cavity's apex and 1 at the base."""
    labels = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.uint8)
    apex = -wall / patient.length  # where the wall ends
    if not apex < height <= 1:
        return labels
    inside = radius * np.sqrt(max(0.0, 1 - (1 - height) ** 2)) if height > 0 else 0.0
    outside = (radius + wall) * np.sqrt(1 - ((1 - height) / (1 - apex)) ** 2)
    rho = np.hypot(x * (1 + patient.oval), y * (1 - patient.oval))
    if height > 0.12:
        reach = patient.crescent * patient.radius * np.sqrt(shrink) * np.sqrt(height)
        away = outside * 0.72
        u = x * np.cos(patient.turn) + y * np.sin(patient.turn) - away
        v = y * np.cos(patient.turn) - x * np.sin(patient.turn)
        labels[np.hypot(u / reach, v / (1.1 * (outside + 2))) < 1] = RV
        labels[u + away < 0] = 0  # it lies on one side of the wall
    labels[rho < outside] = MYO
    labels[rho < inside] = LV
    return labels


def _tissue(
    patient: _Patient, labels: NDArray[np.uint8], places: Field, x: Field, y: Field, rng: np.random.Generator
) -> Field:
    """Return the brightness (H, W) of a slice before blur and noise."""
    clutter = scipy.ndimage.gaussian_filter(rng.standard_normal(labels.shape), 5, mode="wrap")
    picture = np.where(clutter / clutter.std() > 0.3, 0.5, patient.lung)
    for across, down, reach in patient.vessels:
        picture[np.hypot(places - across, places[:, None] - down) < reach] = patient.blood
    chest = np.hypot(places, 0.9 * places[:, None]) > 0.93 * np.abs(places).max()
    picture[chest] = 0.8
    picture[(labels == RV) | (labels == LV)] = patient.blood
    picture[labels == MYO] = patient.muscle
    angles, middle = (
        rng.uniform(0, 2 * np.pi, size=2),
        0.55 * np.sqrt((labels == LV).sum() / np.pi) * patient.spacing[1],
    )
    for angle in angles:  # muscles within the blood, which belong to the cavity
        spot = np.hypot(x - middle * np.cos(angle), y - middle * np.sin(angle)) < 2.5
        picture[spot & (labels == LV)] = patient.muscle
    return picture
