"""Small trees of generated files, each in the layout and the file formats of a distribution that a card describes.

`build` writes one; `write` says besides what a reader must find in it. Names, folders, formats and the files that lie
about beside images and masks are those of the distributions; every pixel is generated here.
"""

import csv
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from qgbench.data.cards import listed_ids, load_card

JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}  # without halved colours, what is lost is small


@dataclass(frozen=True)
class Sample:
    """An image as a reader must find it.

    Attributes
    ----------
    id, group : str
    image : (H, W, 3) uint8
        As drawn; what JPEG makes of it differs by a little.
    mask : (H, W) bool, or None in a pool
    image_file : Path
    mask_files : list of Path
    """

    id: str
    group: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    image_file: Path
    mask_files: list[Path]


def build(name: str, root: Path, layout: int = 0) -> Path:
    """Write the distribution of a card below a folder, which is created, and return the folder."""
    write(name, root, layout)
    return root


def write(name: str, root: Path, layout: int = 0) -> list[Sample]:
    """Write the distribution of a card below a folder; return its images, sorted by id."""
    root.mkdir(parents=True, exist_ok=True)
    return sorted(BUILDERS[name, layout](root), key=lambda sample: sample.id)


# Pictures


def draw(id: str) -> NDArray[np.uint8]:
    """A smooth picture (H, W, 3) of a size and in colours of its own."""
    rng = np.random.default_rng(zlib.crc32(id.encode()))
    height, width = rng.integers(24, 41, size=2)
    corners = rng.integers(40, 216, size=(2, 2, 3))
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top, bottom = (corners[n, 0] * (1 - columns) + corners[n, 1] * columns for n in (0, 1))
    return np.rint(top * (1 - rows) + bottom * rows).astype(np.uint8)


def lesions(id: str, count: int = 1) -> list[NDArray[np.bool_]]:
    """Rectangles (H, W) bool beside each other on the picture of that id, none at a border."""
    height, width = draw(id).shape[:2]
    rng = np.random.default_rng(zlib.crc32(f"lesions of {id}".encode()))
    masks = []
    for n in range(count):
        mask = np.zeros((height, width), dtype=bool)
        left, right = (width * n // count + 1, width * (n + 1) // count - 1)
        first = rng.integers(3, height // 2)
        mask[first : first + rng.integers(4, height // 2), left:right] = True
        masks.append(mask)
    return masks


def grey(mask: NDArray[np.bool_], value: int = 255) -> NDArray[np.uint8]:
    return mask.astype(np.uint8) * np.uint8(value)


def save(file: Path, pixels: NDArray[Any], mode: str | None = None, **options: Any) -> Path:
    """Write a picture in the format of the file's suffix, converted to another mode first if one is given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, **options)
    return file


def save_text(file: Path, text: str = "generated") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def save_labelled_grey(file: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write colours (H, W, 3) as a TIFF that is tagged BlackIsZero."""
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="minisblack", planarconfig="contig")
    file.write_bytes(buffer.getvalue())
    return file


def save_palette(file: Path, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Path:
    """Write a mask as a palette PNG: black, and one other colour."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(grey(mask, 1), "P")
    picture.putpalette([0, 0, 0, *colour])
    picture.save(file)
    return file


def save_soft(file: Path, mask: NDArray[np.bool_], mode: str = "L", **options: Any) -> Path:
    """Write a mask with greys on both sides of half along its upper border, in the colours of a mode."""
    pixels = grey(mask)
    row, columns = np.nonzero(mask)[0][0], np.nonzero(mask.any(axis=0))[0]
    pixels[row, columns] = 140
    pixels[row - 1, columns] = 110
    return save(file, pixels, None if mode == "L" else mode, **options)


# Distributions


def _ph2(root: Path) -> list[Sample]:
    samples = []
    for id in ("IMD002", "IMD003", "IMD417"):
        folder, mask = root / "PH2Dataset" / "PH2 Dataset images" / id, lesions(id)[0]
        image_file = save(folder / f"{id}_Dermoscopic_Image/{id}.bmp", draw(id))
        mask_file = save(folder / f"{id}_lesion/{id}_lesion.bmp", mask)  # 1 bit
        save(folder / f"{id}_roi/{id}_R1_Label2.bmp", ~mask)
        samples.append(Sample(id, id, draw(id), mask, image_file, [mask_file]))
    save_text(root / "PH2Dataset/PH2_dataset.txt")
    save_text(root / "PH2Dataset/PH2_dataset.xlsx")
    return samples


def _scd(root: Path) -> list[Sample]:
    samples = []
    for n, (folder, name, id, group) in enumerate(
        [
            ("melanoma/dermis", "SSM1", "mel_dermis_SSM1", "mel_dermis_SSM1"),
            ("melanoma/dermquest", "SSM1", "mel_dermquest_SSM1", "mel_dermquest_SSM1"),
            ("melanoma/dermquest", "SSM1_2", "mel_dermquest_SSM1_2", "mel_dermquest_SSM1"),
            ("notmelanoma/dermis", "10_2", "not_dermis_10_2", "not_dermis_10_2"),
            ("notmelanoma/dermquest", "D12", "not_dermquest_D12", "not_dermquest_D12"),
        ]
    ):
        archive = root / f"Skin Image Data Set-{1 if folder.startswith('mel') else 2}"
        mask = lesions(id)[0]
        image_file = save(archive / "skin_data" / folder / f"{name}_orig.jpg", draw(id), **JPEG)
        mask_file = archive / "skin_data" / folder / f"{name}_contour.png"
        if n == 0:
            save_palette(mask_file, mask, (200, 30, 1))
        else:
            save(mask_file, grey(mask))
        samples.append(Sample(id, group, draw(id), mask, image_file, [mask_file]))
        save_text(archive / "skin_data/readme.txt")
    return samples


def _dermofit(root: Path) -> list[Sample]:
    samples = []
    for diagnosis, id in (("AK", "A1"), ("AK", "A5a"), ("BCC", "B12"), ("ML", "P218b")):
        mask = lesions(id)[0]
        image_file = save(root / diagnosis / id / f"{id}.png", draw(id))
        mask_file = root / diagnosis / id / f"{id}mask.png"
        if diagnosis == "AK":
            save_palette(mask_file, mask, (255, 255, 255))
        else:
            save(mask_file, grey(mask))
        samples.append(Sample(id, id, draw(id), mask, image_file, [mask_file]))
        save_text(root / diagnosis / "lesionlist.txt")
    return samples


COLONDB_GROUPS = {"1": "seq01", "38": "seq01", "39": "seq02", "301": "seq04", "380": "seq13"}


def _colondb(root: Path) -> list[Sample]:
    samples = []
    for name, group in COLONDB_GROUPS.items():
        id = f"{int(name):03}"
        mask = lesions(id)[0]
        image_file = save(root / f"CVC-ColonDB/{name}.tiff", draw(id))
        mask_file = save_soft(root / f"CVC-ColonDB/p{name}.tiff", mask)
        samples.append(Sample(id, group, draw(id), mask, image_file, [mask_file]))
    return samples


def _colondb_mirror(root: Path) -> list[Sample]:
    samples = []
    for name, group in COLONDB_GROUPS.items():
        id = f"{int(name):03}"
        mask = lesions(id)[0]
        image_file = save(root / f"CVC-ColonDB/images/{name}.png", draw(id))
        mask_file = save_soft(root / f"CVC-ColonDB/masks/{name}.png", mask)
        samples.append(Sample(id, group, draw(id), mask, image_file, [mask_file]))
    return samples


CLINICDB_GROUPS = {"1": "seq01", "25": "seq01", "26": "seq02", "612": "seq29"}


def _clinicdb(root: Path) -> list[Sample]:
    samples = []
    for n, (name, group) in enumerate(CLINICDB_GROUPS.items()):
        id = f"{int(name):03}"
        mask = lesions(id)[0]
        image_file = root / f"CVC-ClinicDB/Original/{name}.tif"
        mask_file = root / f"CVC-ClinicDB/Ground Truth/{name}.tif"
        if n % 2:
            save_labelled_grey(image_file, draw(id))
            save_labelled_grey(mask_file, np.repeat(grey(mask)[..., None], 3, axis=2))
        else:
            save(image_file, draw(id), compression="tiff_lzw")
            save_soft(mask_file, mask)
        samples.append(Sample(id, group, draw(id), mask, image_file, [mask_file]))
    return samples


def _clinicdb_mirror(root: Path) -> list[Sample]:
    samples = []
    for name, group in CLINICDB_GROUPS.items():
        id = f"{int(name):03}"
        mask = lesions(id)[0]
        image_file = save(root / f"CVC-ClinicDB/PNG/Original/{name}.png", draw(id))
        mask_file = save_soft(root / f"CVC-ClinicDB/PNG/Ground Truth/{name}.png", mask, "RGB")
        samples.append(Sample(id, group, draw(id), mask, image_file, [mask_file]))
    return samples


def _kvasir_seg(root: Path) -> list[Sample]:
    samples = []
    for id in ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0qx73cjw570799j4n5cjze"):
        mask = lesions(id)[0]
        image_file = save(root / f"Kvasir-SEG/images/{id}.jpg", draw(id), **JPEG)
        mask_file = save(root / f"Kvasir-SEG/masks/{id}.jpg", grey(mask), "RGB", quality=90)
        samples.append(Sample(id, id, draw(id), mask, image_file, [mask_file]))
    save_text(root / "Kvasir-SEG/kavsir_bboxes.json", "{}")
    return samples


def _isic(root: Path, ids: list[str], images: str, masks: str, ending: str) -> list[Sample]:
    samples = []
    for id in ids:
        mask = lesions(id)[0]
        image_file = save(root / images / f"{id}.jpg", draw(id), **JPEG)
        mask_file = save(root / masks / f"{id}_{ending}.png", grey(mask))
        samples.append(Sample(id, id, draw(id), mask, image_file, [mask_file]))
    return samples


def _isic2016(root: Path) -> list[Sample]:
    part = "ISBI2016_ISIC_Part1_Training"
    return _isic(root, ["ISIC_0000000", "ISIC_0011363"], f"{part}_Data", f"{part}_GroundTruth", "Segmentation")


def _isic2017(root: Path) -> list[Sample]:
    """The images that the data set lists, and one more that is not of it."""
    other = "ISIC_0099999"
    ids = [*(listed_ids(load_card("isic2017")) or []), other]
    return [sample for sample in _isic2017_of(root, ids) if sample.id != other]


def _isic2017_full(root: Path) -> list[Sample]:
    return _isic2017_of(root, ["ISIC_0000000", "ISIC_0000001", "ISIC_0015294"])


def _isic2017_of(root: Path, ids: list[str]) -> list[Sample]:
    folder = "ISIC-2017_Training_Data"
    save(root / folder / f"{ids[0]}_superpixels.png", draw(ids[0]))
    save_text(root / folder / "ISIC-2017_Training_Data_metadata.csv", "image_id,age_approximate,sex\n")
    return _isic(root, ids, folder, "ISIC-2017_Training_Part1_GroundTruth", "segmentation")


def _isic2018(root: Path) -> list[Sample]:
    for folder in (images := "ISIC2018_Task1-2_Training_Input", masks := "ISIC2018_Task1_Training_GroundTruth"):
        save_text(root / folder / "LICENSE.txt")
        save_text(root / folder / "ATTRIBUTION.txt")
    return _isic(root, ["ISIC_0000000", "ISIC_0016072"], images, masks, "segmentation")


def _isic2020(root: Path) -> list[Sample]:
    samples, rows = [], [("ISIC_9999999", "IP_0000009", "IL_9")]  # a row of an image that is not there
    for id, patient in (("ISIC_0015719", "IP_3075186"), ("ISIC_0052212", "IP_2842074"), ("ISIC_0068279", "IP_3075186")):
        image_file = save(root / f"train/{id}.jpg", draw(id), **JPEG)
        samples.append(Sample(id, patient, draw(id), None, image_file, []))
        rows.append((id, patient, f"IL_{id[-3:]}"))
    with (root / "ISIC_2020_Training_GroundTruth_v2.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_name", "patient_id", "lesion_id"), *rows])
    with (root / "ISIC_2020_Training_GroundTruth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_name", "patient_id"), *(row[:2] for row in rows)])
    save_text(root / "ISIC_2020_Training_Duplicates.csv", "image_name_1,image_name_2\nISIC_0015719,ISIC_9999999\n")
    return samples


def _polyp_box_seg(root: Path) -> list[Sample]:
    samples = []
    for n, id in enumerate(("00001", "00002", "04070")):
        image_file = save(root / f"{id}.jpg", draw(id), "CMYK" if n == 1 else None, **JPEG)
        samples.append(Sample(id, id, draw(id), None, image_file, []))
    return samples


def _listed_pool(name: str, folder: str) -> Callable[[Path], list[Sample]]:
    """The images that a pool lists, and one more that is not of it."""

    def write_pool(root: Path) -> list[Sample]:
        samples = []
        for id in [*(listed_ids(load_card(name)) or []), "of_no_pool"]:
            image_file = save(root / folder / f"{id}.jpg", draw(id), **JPEG)
            samples.append(Sample(id, id, draw(id), None, image_file, []))
        return samples[:-1]

    return write_pool


def _busi(root: Path) -> list[Sample]:
    samples = []
    for diagnosis, id, count in (
        ("benign", "benign (1)", 1),
        ("benign", "benign (4)", 2),
        ("malignant", "malignant (1)", 1),
        ("normal", "normal (1)", 0),
    ):
        folder = root / "Dataset_BUSI_with_GT" / diagnosis
        masks = lesions(id, count) if count else [np.zeros(draw(id).shape[:2], dtype=bool)]
        files = [save(folder / f"{id}_mask{f'_{n}' if n else ''}.png", mask) for n, mask in enumerate(masks)]  # 1 bit
        image_file = save(folder / f"{id}.png", draw(id))
        samples.append(Sample(id, id, draw(id), np.logical_or.reduce(masks), image_file, files))
    return samples


def _dsb2018(root: Path) -> list[Sample]:
    samples = []
    for n in range(3):
        id = f"{n:x}" * 64
        image, masks = draw(id), lesions(id, n + 1)
        files = [save(root / id / f"masks/{n}{m:063x}.png", grey(mask)) for m, mask in enumerate(masks)]
        image_file = root / id / f"images/{id}.png"
        if n == 2:
            image[:] = image[..., :1]
            save(image_file, image[..., 0].astype(np.uint16) * 257)  # grey of 16 bits
        else:
            save(image_file, image, "RGBA")
        samples.append(Sample(id, id, image, np.logical_or.reduce(masks), image_file, files))
    return samples


def _glas(root: Path) -> list[Sample]:
    folder = root / "Warwick QU Dataset (Released 2016_07_08)"
    samples, rows = [], ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for id, patient in (("testA_1", "5"), ("testB_1", "10"), ("train_1", "1"), ("train_2", "5")):
        glands = lesions(id, 3)
        labels = np.zeros(glands[0].shape, dtype=np.uint8)
        for number, gland in enumerate(glands, 1):
            labels[gland] = number
        image_file = save(folder / f"{id}.bmp", draw(id))
        mask_file = save(folder / f"{id}_anno.bmp", labels)
        samples.append(Sample(id, patient, draw(id), np.logical_or.reduce(glands), image_file, [mask_file]))
        rows.append(f"{id}, {patient}, benign, healthy")
    save_text(folder / "Grade.csv", "\r\n".join(rows) + "\r\n")
    return samples


# The distributions, by name of the card and number of its layout.
BUILDERS: dict[tuple[str, int], Callable[[Path], list[Sample]]] = {
    ("busi", 0): _busi,
    ("cvc_clinicdb", 0): _clinicdb,
    ("cvc_clinicdb", 1): _clinicdb_mirror,
    ("cvc_colondb", 0): _colondb,
    ("cvc_colondb", 1): _colondb_mirror,
    ("dermofit", 0): _dermofit,
    ("dsb2018", 0): _dsb2018,
    ("glas", 0): _glas,
    ("isic2016", 0): _isic2016,
    ("isic2017", 0): _isic2017,
    ("isic2017_full", 0): _isic2017_full,
    ("isic2018", 0): _isic2018,
    ("isic2020", 0): _isic2020,
    ("isic_pool", 0): _listed_pool("isic_pool", "ISIC-2017_Training_Data"),
    ("kvasir_pool", 0): _listed_pool("kvasir_pool", "Kvasir-SEG/images"),
    ("kvasir_seg", 0): _kvasir_seg,
    ("ph2", 0): _ph2,
    ("polyp_box_seg", 0): _polyp_box_seg,
    ("scd", 0): _scd,
}
