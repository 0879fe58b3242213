"""The embedded data set: pictures of skin and mucosa with lesions, drawn from a seed in seconds.

The rule to be learnt is the same everywhere: the lesion is the region whose *inside is textured* and whose colour
leaves that of the tissue around it, whichever way (darker, paler, redder, bluer). What else leaves the tissue's colour
is smooth (freckles, shadows, blood, debris), drawn (ink, stickers) or see-through (bubbles) and is not in the mask.

Tissue colour follows Beer-Lambert absorption by melanin and blood. All arithmetic is float64: the last bit of an
exponential may differ between processors, and rounding to 8 bits then hides it.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from qgbench.base.errors import UserError

Field = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Absorption per unit of pigment in R, G, B, and the colour of tissue without pigment.
_MELANIN = np.array([0.55, 0.95, 1.35])
_BLOOD = np.array([0.16, 1.00, 0.86])
_BARE_SKIN = np.array([0.97, 0.87, 0.79])
_BARE_MUCOSA = np.array([0.97, 0.84, 0.74])

_SKIN_DISTRACTORS = ("freckles", "patch", "shadow", "ink", "bubbles", "sticker")
_MUCOSA_DISTRACTORS = ("blood", "debris", "shadow", "bubbles")

_LEAST_CONTRAST = 0.17  # distance of the lesion's colour from the tissue's, relative to the tissue's
_TILE = 128  # pixels of a periodic noise tile, which covers `_TILE_SPAN` units of its coordinates
_TILE_SPAN = 4.0


@dataclass(frozen=True)
class PhantomImage:
    """One picture of the phantom.

    Attributes
    ----------
    id : str
        Group and view, for example ``"g017_1"``.
    group : str
        The patient, for example ``"g017"``; its pictures show one lesion under one tone and camera.
    image : (H, W, 3) uint8
        RGB.
    mask : (H, W) bool
        True on the lesion.
    """

    id: str
    group: str
    image: NDArray[np.uint8]
    mask: Mask


@dataclass(frozen=True)
class _Kind:
    """A kind of lesion: ranges of what it adds to the tissue under it."""

    weight: int  # how often it is drawn, relative to the others of its site
    melanin: tuple[float, float] = (0.0, 0.0)
    blood: tuple[float, float] = (0.0, 0.0)
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)  # RGB that the tissue's colour is blended with
    tint_share: tuple[float, float] = (0.0, 0.0)
    texture: str = "network"
    texture_scale: tuple[float, float] = (0.10, 0.16)  # wavelength, in half image sides
    rim: tuple[float, float] = (0.0, 0.3)  # pigment added along the border
    dome: tuple[float, float] = (0.0, 0.0)  # shading of a raised lesion


_SKIN_KINDS = (
    _Kind(7, melanin=(0.4, 1.4), blood=(0.0, 0.3), texture="network", rim=(0.1, 0.5)),
    _Kind(5, melanin=(0.3, 1.0), blood=(0.0, 0.2), texture="granules", rim=(0.0, 0.4)),
    _Kind(4, melanin=(0.0, 0.3), blood=(0.4, 1.1), texture="granules", texture_scale=(0.14, 0.22)),
    _Kind(2, melanin=(0.1, 0.6), tint=(0.66, 0.50, 0.30), tint_share=(0.3, 0.6), texture="pits"),
    _Kind(1, melanin=(0.2, 0.5), tint=(0.32, 0.34, 0.42), tint_share=(0.3, 0.6), texture="network"),
    _Kind(1, blood=(0.0, 0.3), tint=(0.92, 0.84, 0.76), tint_share=(0.35, 0.6), texture="streaks"),
)
_MUCOSA_KINDS = (
    _Kind(7, blood=(0.15, 0.6), texture="pits", dome=(0.5, 1.0)),
    _Kind(5, blood=(0.3, 0.8), texture="granules", rim=(0.0, 0.1)),
    _Kind(4, melanin=(0.2, 0.6), blood=(-0.1, 0.3), texture="network", dome=(0.0, 0.5)),
    _Kind(2, blood=(-0.4, -0.15), texture="pits", texture_scale=(0.14, 0.2), dome=(0.3, 0.8)),
    _Kind(2, tint=(0.90, 0.83, 0.62), tint_share=(0.3, 0.6), texture="streaks", rim=(0.2, 0.5)),
)


@dataclass(frozen=True)
class _Patient:
    """What the pictures of one group share."""

    mucosa: bool
    melanin: float
    blood: float
    lesion: "_Lesion"
    gains: Field  # (3,): white balance times exposure
    gamma: float
    blur: float  # in half image sides
    grain: float
    vignette: float
    aperture: float | None  # radius of a dark surround, in half image sides
    hairs: int
    relief: float
    distractors: tuple[str, ...]


@dataclass(frozen=True)
class _Lesion:
    """The lesion of a group."""

    kind: _Kind
    melanin: float
    blood: float
    tint_share: float
    rim: float
    dome: float
    texture_gain: float  # negative where the pattern takes pigment away
    texture_scale: float
    share: float  # of the image that it fills before zoom
    stretch: float
    harmonics: NDArray[np.complex128]  # (6,): amplitudes of the radius, orders 2 to 7
    ragged: float  # how far noise moves the border, in radii
    softness: float  # width of the border, in radii
    satellite: tuple[float, float, float] | None  # position in radii and size of a second lesion
    tiles: Field  # (3, T, T): border noise, texture noise, patchiness


@dataclass
class _Scene:
    """A picture while it is being painted; every field is (H, W), coordinates in half image sides from the centre."""

    x: Field
    y: Field
    radius: float  # of the lesion
    along: Field  # coordinates in the lesion's frame
    across: Field
    level: Field  # of the lesion's border, in radii, positive inside
    mask: Mask
    alpha: Field  # the lesion's coverage
    melanin: Field
    blood: Field
    shade: Field  # factor on the light
    glare: Field  # share of white light added
    veils: list[tuple[Field, Field]]  # coverage (H, W) and RGB (3,) of opaque things on the tissue

    @property
    def size(self) -> int:
        return self.x.shape[0]


def generate_phantom(
    *, groups: int = 120, images_per_group: int = 2, size: int = 128, seed: int = 2606
) -> list[PhantomImage]:
    """Return the phantom's pictures.

    Each picture depends on `seed`, `size`, its group's index and its own index only: fewer groups are a prefix.

    Parameters
    ----------
    groups : int
        Number of patients, at least 1.
    images_per_group : int
        Views of each patient's lesion, at least 1.
    size : int
        Side of the square pictures in pixels, at least 32.
    seed : int
        Non-negative.

    Returns
    -------
    list of PhantomImage
        ``groups * images_per_group`` pictures, by group, then by view.

    Raises
    ------
    UserError
        An argument is below its least value.
    """
    for name, value, least in (
        ("groups", groups, 1),
        ("images_per_group", images_per_group, 1),
        ("size", size, 32),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"the phantom's {name} is {value}; give {least} or more.")
    return [picture for g in range(groups) for picture in draw_group(g, images_per_group, size, seed)]


def draw_group(group: int, images: int, size: int, seed: int) -> list[PhantomImage]:
    """Return the pictures of one patient: as many as `images`, sides of `size` pixels; see `generate_phantom`."""
    patient = _draw_patient(_generator(seed, group, 0))
    pictures = []
    for i in range(images):
        image, mask = _draw_view(patient, size, _generator(seed, group, 1 + i))
        pictures.append(PhantomImage(f"g{group:03d}_{i}", f"g{group:03d}", image, mask))
    return pictures


def _generator(seed: int, group: int, part: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(group, part)))


def _draw_patient(rng: np.random.Generator) -> _Patient:
    mucosa = bool(rng.random() < 0.33)
    tones = (0.1, 0.25, 0.42, 0.65, 0.95, 1.35)  # melanin, as Fitzpatrick I to VI
    melanin = 0.0 if mucosa else tones[rng.integers(len(tones))] * rng.uniform(0.85, 1.15)
    blood = rng.uniform(0.6, 1.35) if mucosa else rng.uniform(0.08, 0.3)
    brightness = float(_tissue_colour(mucosa, np.array(melanin), np.array(blood)).mean())
    distractors = _MUCOSA_DISTRACTORS if mucosa else _SKIN_DISTRACTORS
    return _Patient(
        mucosa=mucosa,
        melanin=melanin,
        blood=blood,
        lesion=_draw_lesion(rng, mucosa, melanin, blood),
        # Cameras expose dark tissue longer, though not so long that every tone comes out the same.
        gains=(0.55 / brightness) ** 0.35 * rng.uniform(0.8, 1.1) * rng.uniform(0.92, 1.08, size=3),
        gamma=rng.uniform(0.85, 1.2),
        blur=rng.uniform(0.006, 0.022),
        grain=rng.uniform(0.006, 0.022),
        vignette=rng.uniform(0.05, 0.4),
        aperture=rng.uniform(1.05, 1.25) if rng.random() < 0.35 else None,
        hairs=0 if mucosa or rng.random() < 0.4 else int(rng.integers(2, 16)),
        relief=rng.uniform(0.02, 0.07),
        distractors=tuple(str(name) for name in rng.choice(distractors, size=rng.integers(1, 3), replace=False)),
    )


def _draw_lesion(rng: np.random.Generator, mucosa: bool, melanin: float, blood: float) -> _Lesion:
    """Return a lesion whose colour can be told from that of its tissue."""
    kinds = _MUCOSA_KINDS if mucosa else _SKIN_KINDS
    weights = np.array([kind.weight for kind in kinds])
    tissue = _tissue_colour(mucosa, np.array(melanin), np.array(blood))
    contrast = 0.0
    while contrast < _LEAST_CONTRAST:
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        added_melanin, added_blood = rng.uniform(*kind.melanin), rng.uniform(*kind.blood)
        share = rng.uniform(*kind.tint_share)
        pigmented = _tissue_colour(mucosa, np.array(melanin + added_melanin), np.array(blood + added_blood))
        colour = (1 - share) * pigmented + share * _tint(kind, melanin)
        contrast = float(np.linalg.norm(colour - tissue) / np.linalg.norm(tissue))
    # The pattern deepens what sets the lesion apart: where it cancelled that, parts of the lesion would vanish.
    sign = 1.0 if colour.mean() < tissue.mean() else -1.0
    return _Lesion(
        kind=kind,
        melanin=added_melanin,
        blood=added_blood,
        tint_share=share,
        rim=rng.uniform(*kind.rim),
        dome=rng.uniform(*kind.dome),
        texture_gain=sign * rng.uniform(0.3, 0.7),
        texture_scale=rng.uniform(*kind.texture_scale),
        share=np.exp(rng.uniform(np.log(0.03), np.log(0.3))),
        stretch=np.exp(rng.uniform(0.0, 0.35)),
        harmonics=rng.normal(size=(6, 2)).view(np.complex128)[:, 0] * rng.uniform(0.1, 0.35) / np.arange(2, 8),
        ragged=rng.uniform(0.05, 0.3),
        softness=rng.uniform(0.04, 0.22),
        satellite=_draw_satellite(rng) if rng.random() < 0.1 else None,
        tiles=np.stack([_band_noise(rng, 0.7), _band_noise(rng, 0.25, narrow=True), _band_noise(rng, 1.0)]),
    )


def _tissue_colour(mucosa: bool, melanin: Field, blood: Field) -> Field:
    """Return RGB (..., 3) of tissue with the given pigments (...)."""
    bare = _BARE_MUCOSA if mucosa else _BARE_SKIN
    return bare * np.exp(-(melanin[..., None] * _MELANIN + blood[..., None] * _BLOOD))


def _tint(kind: _Kind, melanin: float) -> Field:
    """Return RGB (3,) of a lesion's own substance; the skin's melanin dims it too."""
    return np.array(kind.tint) * np.exp(-0.35 * melanin)


def _draw_satellite(rng: np.random.Generator) -> tuple[float, float, float]:
    angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.55)
    distance = 1.5 + size
    return distance * np.cos(angle), distance * np.sin(angle), size


def _band_noise(rng: np.random.Generator, wavelength: float, *, narrow: bool = False) -> Field:
    """Return periodic Gaussian noise (T, T) of zero mean and unit deviation; wavelength in the tile's units."""
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]) * _TILE / _TILE_SPAN
    relative = frequency * wavelength
    gain = np.exp(-0.5 * ((relative - 1) / 0.25) ** 2) if narrow else np.exp(-0.5 * relative**2)
    gain[0, 0] = 0.0
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) * gain, s=(_TILE, _TILE))
    return noise / noise.std()


def _sample(tile: Field, x: Field, y: Field) -> Field:
    """Return a periodic tile's values at coordinates of its own unit."""
    step = _TILE / _TILE_SPAN
    values: Field = scipy.ndimage.map_coordinates(tile, [y * step, x * step], np.float64, order=1, mode="grid-wrap")
    return values


def _logistic(x: Field) -> Field:
    curve: Field = np.tanh(0.5 * x)
    return 0.5 * curve + 0.5


def _shape_level(lesion: _Lesion, u: Field, v: Field) -> Field:
    """Return the signed level of a star-shaped border at lesion coordinates, in radii, positive inside."""
    rho = np.hypot(u, v)
    turn = (u + 1j * v) / np.maximum(rho, 1e-9)
    wave: Field = np.real(np.polynomial.polynomial.polyval(turn, lesion.harmonics) * turn**2)
    return 1 + wave - rho


def _lesion_level(lesion: _Lesion, u: Field, v: Field) -> tuple[Field, Mask]:
    """Return the border's level (radii, positive inside) and the mask: few components, no holes."""
    level = _shape_level(lesion, u * lesion.stretch, v / lesion.stretch)
    if lesion.satellite is not None:
        x, y, size = lesion.satellite
        level = np.maximum(level, _shape_level(lesion, (u - x) / size, (v - y) / size))
    level = level + lesion.ragged * 0.5 * np.clip(_sample(lesion.tiles[0], u, v), -2, 2)
    labels, count = scipy.ndimage.label(level > 0)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    mask = scipy.ndimage.binary_fill_holes(np.isin(labels, np.flatnonzero(areas > 0.08 * areas.max())))
    # Specks that were dropped and holes that were filled change sides, so that what is seen is what is masked.
    return np.where(mask, np.abs(level), -np.abs(level)), mask


def _texture(lesion: _Lesion, x: Field, y: Field) -> Field:
    """Return the lesion's inner pattern, 0 to 1, at coordinates in half image sides."""
    scale = 0.25 / lesion.texture_scale
    along, across = (0.45, 1.8) if lesion.kind.texture == "streaks" else (1.0, 1.0)
    noise = _sample(lesion.tiles[1], x * scale * along, y * scale * across)
    match lesion.kind.texture:
        case "network":
            return 1 - np.minimum(np.abs(noise) * 1.2, 1)
        case "granules":
            return _logistic(5 * (noise - 0.5))
        case "pits":
            return _logistic(6 * (np.abs(noise) - 0.8))
        case _:
            return _logistic(2.5 * noise)


def _blob(x: Field, y: Field, centre: Field, radius: float, softness: float, rng: np.random.Generator) -> Field:
    """Return the coverage (H, W) in [0, 1] of a smooth, nearly elliptic spot."""
    dx, dy = x - centre[0], y - centre[1]
    angle = np.arctan2(dy, dx)
    a, b, turn2, turn3 = rng.uniform(0, 0.22), rng.uniform(0, 0.1), *rng.uniform(0, 2 * np.pi, size=2)
    edge = 1 + a * np.cos(2 * angle + turn2) + b * np.cos(3 * angle + turn3)
    return _logistic((edge - np.hypot(dx, dy) / radius) * 4 / softness)


def _strands(size: int, paths: Field, width: float) -> Field:
    """Return the coverage (H, W) in [0, 1] of curves.

    Parameters
    ----------
    size : int
        Side of the picture in pixels.
    paths : (N, P, 2) float
        Points (x, y) of each curve in half image sides, evenly spaced and denser than pixels.
    width : float
        Standard deviation of a curve's profile in image sides.
    """
    steps = np.hypot(*np.moveaxis(np.diff(paths, axis=1), -1, 0)).mean(1) * size / 2  # pixels between points
    weights = np.repeat(steps, paths.shape[1])
    column, row = ((paths.reshape(-1, 2) + 1) * size / 2).T
    drawn, _, _ = np.histogram2d(row, column, bins=size, range=[[0, size], [0, size]], weights=weights)
    spread = width * size
    return np.minimum(scipy.ndimage.gaussian_filter(drawn, spread) * np.sqrt(2 * np.pi) * spread, 1.0)


def _curves(rng: np.random.Generator, count: int, bend: float, length: tuple[float, float]) -> Field:
    """Return points (N, 400, 2) of curves with constant curvature through random points of the picture."""
    t = np.linspace(-0.5, 0.5, 400)[None, :]
    start = rng.uniform(-0.9, 0.9, size=(count, 2))
    direction = rng.uniform(0, np.pi, size=(count, 1))
    bending = rng.normal(0, bend, size=(count, 1))
    span = rng.uniform(*length, size=(count, 1))
    angle = direction + bending * t
    step = span / 400
    return start[:, None] + np.stack([np.cumsum(np.cos(angle) * step, 1), np.cumsum(np.sin(angle) * step, 1)], -1)


def _free_spot(rng: np.random.Generator, scene: _Scene, reach: float) -> Field:
    """Return the first of ten random places that is `reach` away from the lesion, else the farthest."""
    places = rng.uniform(-0.85, 0.85, size=(10, 2))
    column, row = ((places + 1) * scene.size / 2).astype(int).T
    distance = -scene.level[row, column] * scene.radius
    free = np.flatnonzero(distance > reach)
    return places[free[0] if free.size else int(np.argmax(distance))]


def _draw_view(patient: _Patient, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Mask]:
    """Return one picture (size, size, 3) uint8 and its mask (size, size)."""
    # Distractors draw from a generator of their own: the rest of the picture is the same without them.
    (distractor_rng,) = rng.spawn(1)
    scene = _place_lesion(patient.lesion, size, rng)
    _paint_tissue(scene, patient, rng)
    for name in patient.distractors:
        _paint_distractor(scene, name, distractor_rng)
    return _photograph(scene, patient, _paint_lesion(scene, patient, rng), rng)


def _place_lesion(lesion: _Lesion, size: int, rng: np.random.Generator) -> _Scene:
    """Return a view: where the lesion lies, how large and how turned it is."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = float(np.clip(2 * np.sqrt(lesion.share / np.pi) * rng.uniform(0.8, 1.25), 0.17, 0.8))
    turn = rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(-1, 1, size=2) * (0.12 + 0.5 * (0.8 - radius))
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    level, mask = _lesion_level(lesion, along / radius, across / radius)
    # One side of the border is softer than the other; a border narrower than a pixel would alias.
    width = np.maximum(lesion.softness * np.exp(0.6 * np.cos(np.arctan2(across, along))), 2 / (size * radius))
    blank = np.zeros_like(x)
    return _Scene(
        x=x,
        y=y,
        radius=radius,
        along=along,
        across=across,
        level=level,
        mask=mask,
        alpha=_logistic(4 * level / width),
        melanin=blank,
        blood=blank,
        shade=blank + 1,
        glare=blank,
        veils=[],
    )


def _paint_tissue(scene: _Scene, patient: _Patient, rng: np.random.Generator) -> None:
    """Lay the ground: mottled skin with relief, or mucosa with vessels and folds."""
    x, y = scene.x, scene.y
    coarse, fine = (_sample(_band_noise(rng, wavelength), x, y) for wavelength in (0.9, 0.45))
    scene.melanin = patient.melanin * (1 + 0.1 * coarse)
    scene.blood = patient.blood * (1 + (0.1 if patient.mucosa else 0.25) * fine)
    scene.shade = 1 + patient.relief * _sample(_band_noise(rng, 0.09, narrow=True), x, y) + 0.05 * coarse
    if patient.mucosa:
        # Vessels run where a smooth noise changes sign.
        vessels = np.exp(-((_sample(_band_noise(rng, 0.55), x, y) / 0.07) ** 2))
        scene.blood += 0.35 * vessels * (1 - scene.alpha)
        turn, phase = rng.uniform(0, 2 * np.pi, size=2)
        ahead, aside = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        scene.shade *= 1 + 0.16 * np.tanh(2 * np.sin(5 * (ahead + 0.35 * aside**2) + phase + 0.5 * coarse))


def _paint_distractor(scene: _Scene, name: str, rng: np.random.Generator) -> None:
    """Add what is not lesion; only shadows and bubbles may lie over the lesion."""
    x, y, clear = scene.x, scene.y, 1 - scene.alpha
    radius = scene.radius * rng.uniform(0.45, 1.0)
    spot = _blob(x, y, _free_spot(rng, scene, 0.9 * radius), radius, rng.uniform(0.15, 0.4), rng)
    match name:
        case "freckles":
            for _ in range(rng.integers(3, 9)):
                place, width = rng.uniform(-0.95, 0.95, size=2), rng.uniform(0.04, 0.1)
                scene.melanin = scene.melanin + clear * rng.uniform(0.3, 0.8) * _blob(x, y, place, width, 0.8, rng)
        case "patch":
            scene.melanin = scene.melanin + clear * rng.uniform(0.3, 0.8) * spot
        case "blood":
            scene.blood = scene.blood + clear * rng.uniform(0.4, 0.9) * spot
        case "shadow":
            scene.shade = scene.shade * (1 - rng.uniform(0.3, 0.6) * spot)
        case "debris":
            scene.veils.append((0.85 * clear * spot, np.array([0.62, 0.52, 0.22]) * rng.uniform(0.7, 1.2)))
        case "sticker":
            angle = rng.uniform(0, 2 * np.pi)
            place = 1.05 * np.array([np.cos(angle), np.sin(angle)])
            colour = 0.25 + 0.25 * rng.uniform() + rng.uniform(-0.2, 0.2, size=3)
            scene.veils.append((clear * _blob(x, y, place, rng.uniform(0.3, 0.5), 0.06, rng), colour))
        case "ink":
            arcs = _curves(rng, int(rng.integers(1, 4)), 1.5, (0.4, 1.2))
            scene.veils.append((0.75 * clear * _strands(scene.size, arcs, 0.012), np.array([0.30, 0.22, 0.55])))
        case "bubbles":
            for _ in range(rng.integers(2, 6)):
                (left, top), width = rng.uniform(-0.95, 0.95, size=2), rng.uniform(0.06, 0.24)
                distance = np.hypot(x - left, y - top) / width
                spark = np.hypot(x - left + 0.4 * width, y - top + 0.4 * width) / width
                ring = 0.3 * np.exp(-(((distance - 1) / 0.12) ** 2))
                scene.glare = scene.glare + ring + 0.7 * np.exp(-((spark / 0.18) ** 2))


def _paint_lesion(scene: _Scene, patient: _Patient, rng: np.random.Generator) -> Field:
    """Return the picture's RGB (H, W, 3) with the lesion, before light and camera."""
    lesion, alpha = patient.lesion, scene.alpha
    u, v = scene.along / scene.radius, scene.across / scene.radius
    patchy = alpha * (1 + 0.25 * np.clip(_sample(lesion.tiles[2], u, v), -1.5, 1.5))
    texture = alpha * lesion.texture_gain * _texture(lesion, scene.along, scene.across)
    border = lesion.rim * np.exp(-((scene.level / 0.15) ** 2)) * alpha + 0.8 * texture
    melanin = scene.melanin + lesion.melanin * patchy + (0.0 if patient.mucosa else border)
    blood = scene.blood + lesion.blood * patchy + (border if patient.mucosa else 0.0)
    colour = _tissue_colour(patient.mucosa, np.maximum(melanin, 0), np.maximum(blood, 0))
    cover = (lesion.tint_share * patchy).clip(0, 0.9)[..., None]
    colour = colour * (1 - cover) + cover * _tint(lesion.kind, patient.melanin) * np.exp(-0.3 * texture)[..., None]
    for coverage, veil in scene.veils:
        colour = colour * (1 - coverage[..., None]) + coverage[..., None] * veil
    if patient.hairs:
        hair = _strands(scene.size, _curves(rng, patient.hairs, 0.9, (0.8, 2.4)), rng.uniform(0.004, 0.008))
        shaft = np.array([0.12, 0.09, 0.07]) + rng.uniform(0, 0.25) * np.array([1.0, 0.75, 0.45])
        colour = colour * (1 - 0.85 * hair[..., None]) + 0.85 * hair[..., None] * shaft
    return colour


def _photograph(
    scene: _Scene, patient: _Patient, colour: Field, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Mask]:
    """Return the picture, lit from one side, and its mask without what the aperture hides."""
    x, y, size = scene.x, scene.y, scene.size
    turn = rng.uniform(0, 2 * np.pi)
    light = scene.shade * (1 + rng.uniform(0, 0.28) * (np.cos(turn) * x + np.sin(turn) * y))
    light *= 1 - 0.5 * patient.vignette * (x**2 + y**2)
    dome = patient.lesion.dome
    if dome:
        height = scipy.ndimage.gaussian_filter(np.sqrt(np.maximum(scene.level, 0)), 0.06 * scene.radius * size)
        slope_y, slope_x = np.gradient(height, 2 / size)
        light *= 1 + 0.22 * dome * np.tanh((np.cos(turn) * slope_x + np.sin(turn) * slope_y) * scene.radius)
    shine = _sample(_band_noise(rng, 0.16), x, y) + 0.6 * scene.alpha * dome
    glare = scene.glare + (1.0 if patient.mucosa else 0.5) * _logistic(12 * (shine - rng.uniform(2.3, 3.2)))
    colour = colour * light[..., None] * patient.gains
    colour += 0.9 * glare.clip(0, 1)[..., None] * (1 - colour).clip(0)
    mask = scene.mask
    if patient.aperture is not None:
        open_part = _logistic((patient.aperture - np.hypot(x, y)) * size / 2)
        colour = 0.03 + (colour - 0.03) * open_part[..., None]
        mask = mask & (open_part > 0.5)
    blur = patient.blur * size / 2
    colour = scipy.ndimage.gaussian_filter(colour, (blur, blur, 0)).clip(0, 1) ** patient.gamma
    colour += patient.grain * rng.standard_normal((size, size, 3))
    return np.rint(colour.clip(0, 1) * 255).astype(np.uint8), mask
