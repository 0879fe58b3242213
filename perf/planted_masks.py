"""How many planted bad masks stand first by predicted quality: ``python perf/planted_masks.py FOLDER [DATASET ...]``.

FOLDER keeps the trained predictors, and the same command continues an interrupted one. Needs QGBENCH_DATA (cvc_colondb,
isic2017, ph2). Of each set, 200 images in whole groups (half of the set where it is smaller) keep their true masks, but
for one in ten: a mask swapped with another planted image's, shifted by a quarter of the sides, empty, or that of
an image that is not among them. g is trained by `qgbench quality train` on the images of all other groups, and on 28 of
them (7 of skin sets, whose groups are single images); a fifth is held back there. Printed are, for each g, the planted
masks among the first as many by predicted quality, by kind; the area under the ROC curve, planted against true; the
mean Dice of the planted masks, since a swapped one is not always bad; and r on held-back images' synthetic masks.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from qgbench.data.acquire.pairs import open_pairs
from qgbench.data.readers import FolderSource, open_source
from qgbench.engine.device import make_accelerator
from qgbench.quality.audit import auroc
from qgbench.quality.folder import score_masks, train_on_folder
from qgbench.spec.protocol import load_protocol

TARGETS, SHARE, SEED = 200, 10, 0
FEW = {"cvc_colondb": 28, "isic2017": 7, "ph2": 7}
Planted = tuple[str, np.ndarray, float]  # kind, mask, and its Dice with the true one
KINDS = ("swapped", "shifted", "empty", "other image's")
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))


def fitted(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return a mask in the size of another."""
    height, width = like.shape
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def shifted(mask: np.ndarray) -> np.ndarray:
    """Return the mask moved by a quarter of the sides, towards where it stays in the picture."""
    rows, columns = np.nonzero(mask) if mask.any() else (np.zeros(1), np.zeros(1))
    height, width = mask.shape
    down = height // 4 * (1 if rows.mean() < height / 2 else -1)
    across = width // 4 * (1 if columns.mean() < width / 2 else -1)
    out = np.zeros_like(mask)
    into = tuple(slice(max(m, 0), n + min(m, 0)) for m, n in ((down, height), (across, width)))
    out_of = tuple(slice(max(-m, 0), n - max(m, 0)) for m, n in ((down, height), (across, width)))
    out[into] = mask[out_of]
    return out


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / max(1, int(first.sum()) + int(second.sum()))


def plant(source: FolderSource, targets: list[str], others: list[str], rng: np.random.Generator) -> dict[str, Planted]:
    """Return the planted masks: kind and mask by image."""
    count = len(targets) // SHARE
    chosen = rng.choice(targets, count, replace=False).tolist()
    planted: dict[str, Planted] = {}
    for place, id in enumerate(chosen):
        own, kind = source.mask(id), KINDS[(place // 2) % len(KINDS)]  # in pairs, which are swapped
        if kind == "swapped":
            pair = place + 1 if place % 2 == 0 else place - 1
            mask = fitted(source.mask(chosen[pair % count]), own)
        elif kind == "other image's":
            mask = fitted(source.mask(str(rng.choice(others))), own)
        else:
            mask = shifted(own) if kind == "shifted" else np.zeros_like(own)
        planted[id] = (kind, mask, dice(own, mask))
    return planted


def lay_out(source: FolderSource, ids: list[str], folder: Path, planted: dict[str, Planted]) -> tuple[Path, Path]:
    """Make folders of images, as links, and masks."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    for id in ids:
        file = source.files(id)[0]
        if not (link := images / f"{id}{file.suffix}").exists():
            link.symlink_to(file.resolve())
        Image.fromarray(planted[id][1] if id in planted else source.mask(id)).save(masks / f"{id}.png")
    return images, masks


def with_groups(source: FolderSource, ids: list[str], folder: Path) -> Path:
    group_of = dict(zip(source.ids, source.groups, strict=True))
    file = folder / "groups.csv"
    file.write_text("stem,group\n" + "".join(f"{id},{group_of[id]}\n" for id in ids))
    return file


def trial(dataset: str, scratch: Path) -> None:
    source = open_source(dataset)
    assert isinstance(source, FolderSource)
    rng = np.random.default_rng(SEED)
    group_of = dict(zip(source.ids, source.groups, strict=True))
    wanted = min(TARGETS, len(source.ids) // 2)
    left = rng.permutation(sorted(set(source.groups))).tolist()
    kept: list[str] = []
    while len(kept) < wanted:
        group = left.pop()
        kept += [id for id in source.ids if group_of[id] == group]
    targets = sorted(rng.choice(kept, wanted, replace=False).tolist())
    others = [id for id in source.ids if group_of[id] in set(left)]
    planted = plant(source, targets, others, rng)
    judged = open_pairs(*lay_out(source, targets, scratch / dataset / "judged", planted))
    for labels in (FEW[dataset], len(others)):
        ids = sorted(rng.choice(others, labels, replace=False).tolist())
        place = scratch / dataset / str(labels)
        images, masks = lay_out(source, ids, place, {})
        own = open_pairs(images, masks, groups=with_groups(source, ids, place))
        protocol = load_protocol("small")
        g = train_on_folder(own, place / "g", protocol, SEED, make_accelerator("cpu", "bf16", THREADS), "bf16")
        table = score_masks(g, judged, make_accelerator("cpu", "fp32", THREADS))
        first = [id for id in table["image"][: len(planted)] if id in planted]
        of_kind, found = Counter(kind for kind, *_ in planted.values()), Counter(planted[id][0] for id in first)
        by_kind = ", ".join(f"{kind} {found[kind]}/{count}" for kind, count in sorted(of_kind.items()))
        area = auroc(table["quality"].to_numpy(), np.array([float(id not in planted) for id in table["image"]]))
        bad = np.mean([worth for *_, worth in planted.values()])
        worth = f"{g.card.synthetic.pearson or 0:.2f}"
        print(
            f"| {dataset} | {labels} | {len(first)} of {len(planted)} | {by_kind} | {area:.2f} | {bad:.2f} | {worth} | "
            f"{int(table['unlike'].sum())} of {len(table)} | {g.card.seconds:.0f} s |",
            flush=True,
        )


def main() -> None:
    print("| set | labels | planted in the first | by kind | AUROC | their Dice | g's r | unlike | time |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|")
    for dataset in sys.argv[2:] or FEW:
        trial(dataset, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
