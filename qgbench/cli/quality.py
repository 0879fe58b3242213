"""The verbs of ``qgbench quality``: thin, over `qgbench.quality.folder`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgbench.base.console import print_table, standard_output
from qgbench.base.cores import MOST_THREADS
from qgbench.base.errors import UserError, refuse_unwritable
from qgbench.base.logs import logger
from qgbench.base.paths import expanded
from qgbench.base.seeds import LARGEST_SEED
from qgbench.cli.options import Quiet, Verbose

if TYPE_CHECKING:
    from accelerate import Accelerator

    from qgbench.quality.audit import Estimate, ScoreAudit
    from qgbench.quality.folder import StoredPredictor

app = typer.Typer(
    no_args_is_help=True,
    help="Find bad masks in any folder of images: train the quality predictor g, score masks with it, audit it.",
)

Images = Annotated[
    Path, typer.Option(parser=expanded, help="Folder of the images: pictures, or volumes (NIfTI, HDF5).")
]
Masks = Annotated[
    Path,
    typer.Option(parser=expanded, help="Folder of the masks: ID.png, ID_mask.png, ...; of volumes ID.nii.gz, ..."),
]
Classes = Annotated[
    str | None,
    typer.Option(help="For masks of several classes: name and value of each, 'edema=1,tumour=2', or its colour."),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        help="CSV with the columns stem and group: patient, lesion or video. (default: each image is its own)",
    ),
]
Stored = Annotated[
    list[Path],
    typer.Argument(
        parser=expanded, metavar="PREDICTOR", help="Folder of a quality predictor, of quality train or a run."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Threads = Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Processor threads.")]


@app.command()
def train(
    images: Images,
    masks: Masks,
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder of the quality predictor.")],
    classes: Classes = None,
    groups: Groups = None,
    size: Annotated[int | None, typer.Option(min=32, help="Side of g's images in pixels. (default: 96)")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of what is held back, of weights, order and masks.")
    ] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of g: quality.steps=300, quality.lr=1e-4.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "bf16",
    threads: Threads = 2,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train the quality predictor g on images with masks that are right.

    A fifth of the groups is held back from training, to select g and to say what it is worth. Settings are those of the
    protocol small. The same command continues an interrupted training.

    Example: [bold]qgbench quality train --images photos --masks outlines --output g[/bold]
    """
    from qgbench.data.acquire.pairs import open_pairs
    from qgbench.spec.protocol import load_protocol
    from qgbench.spec.settings import apply_settings, parse_assignments

    refuse_unwritable(output)
    protocol = load_protocol("small")
    changes = parse_assignments(settings or [])
    if other := [key for key in changes if not key.startswith("quality.")]:
        raise UserError(f"--set {other[0]}: g has settings quality.NAME=VALUE, for example --set quality.steps=300.")
    changed = {key.removeprefix("quality."): value for key, value in changes.items()}
    quality = apply_settings(protocol.quality, changed, "quality.")
    protocol = protocol.model_copy(update={"quality": quality, "size": size or protocol.size})
    source = open_pairs(images, masks, _parsed(classes), groups)

    from qgbench.quality.folder import train_on_folder

    accelerator = _accelerator(device, precision, threads)
    stored = train_on_folder(source, output, protocol, seed, accelerator, precision)
    _print_worth(stored)


@app.command()
def score(
    predictor: Stored,
    images: Images,
    masks: Masks,
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder for quality.csv and the page, index.html.")],
    classes: Classes = None,
    device: Device = "auto",
    threads: Threads = 2,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Predict the Dice of masks that nobody has checked: a table, and a page of thumbnails, the worst first.

    Images unlike those that g was trained on are marked: what it says of those means little.

    Example: [bold]qgbench quality score g --images photos --masks predicted --output scored[/bold]
    """
    from qgbench.base.files import write_atomically
    from qgbench.base.progress import track
    from qgbench.data.acquire.pairs import open_pairs
    from qgbench.data.volumes import slice_id

    refuse_unwritable(output)
    stored = _opened(predictor)
    source = open_pairs(images, masks, stored.values_of(_parsed(classes)))

    from qgbench.quality.folder import score_masks
    from qgbench.report.page.gallery import Shot, write_gallery

    table = score_masks(stored, source, _accelerator(device, "fp32", threads))
    shots = []
    for row in table.to_dict("records"):
        unlike = None if stored.likeness is None else bool(row["unlike"])
        id, note = row["image"], ""
        if source.volumes:
            id = slice_id(id, int(row["worst_slice"]))
            note = f"worst slice {row['worst_slice']} of {row['slices']}: {row['worst_quality']:.2f}"
        shots.append(Shot(id, row["image"], row["quality"], unlike, note))
    page = write_gallery(shots, source, stored.card.classes, output, track)
    write_atomically(output / "quality.csv", table.to_csv(index=False, float_format="%.6g").encode())
    noun = "volumes" if source.volumes else "images"
    if stored.likeness is None:
        logger.warning(
            "this g does not know which images are unlike those of its training; one of qgbench quality train does."
        )
    elif unlikes := int(table["unlike"].sum()):
        logger.warning("%d of %d %s are unlike those that g was trained on.", unlikes, len(table), noun)
    mean, least = table["quality"].mean(), table["quality"].min()
    logger.info("%d %s, mean predicted Dice %.3f, lowest %.3f", len(table), noun, mean, least)
    print(output / "quality.csv")
    print(page)


@app.command()
def audit(
    predictor: Stored,
    images: Images,
    truth: Annotated[Path, typer.Option(parser=expanded, help="Folder of the true masks.")],
    masks: Annotated[
        Path | None,
        typer.Option(parser=expanded, help="Folder of the masks to be judged. (default: synthetic ones of the truth)"),
    ] = None,
    groups: Groups = None,
    classes: Classes = None,
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder for audit.json and the figure.")] = Path(
        "audit"
    ),
    device: Device = "auto",
    threads: Threads = 2,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Say how well g predicts the true Dice of masks, on images that it was not trained on.

    Each number has a 95 % interval of a bootstrap over groups.

    Example: [bold]qgbench quality audit g --images photos --truth outlines --masks predicted[/bold]
    """
    from functools import partial

    from qgbench.base.files import write_atomically
    from qgbench.data.acquire.pairs import open_pairs

    refuse_unwritable(output)
    stored = _opened(predictor)
    values = stored.values_of(_parsed(classes))
    known = open_pairs(images, truth, values, groups)
    judged = None if masks is None else open_pairs(images, masks, values)

    from qgbench.quality.folder import audit_on_folder
    from qgbench.report.figures import render
    from qgbench.report.figures.calibration import draw_calibration

    found = audit_on_folder(stored, known, _accelerator(device, "fp32", threads), judged)
    _print_audit(found, "synthetic masks" if masks is None else "masks")
    files = {f"calibration.{kind}": data for kind, data in render(partial(draw_calibration, found)).items()}
    files["audit.json"] = (found.model_dump_json(indent=1) + "\n").encode()
    for name, content in files.items():
        write_atomically(output / name, content)
        print(output / name)


@app.command()
def export(
    predictor: Stored,
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder for predictor.onnx and its card.")],
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    r"""Write g as ONNX, for programs without torch, checked with onnxruntime (pip install "qgbench\[onnx]").

    Its weights as safetensors and its card as JSON are in its folder already.

    Example: [bold]qgbench quality export g --output exported[/bold]
    """
    refuse_unwritable(output)
    stored = _opened(predictor)

    from qgbench.quality.export import export_onnx

    for file in export_onnx(stored, output):
        print(file)


def _parsed(classes: str | None) -> dict[str, int | str] | None:
    from qgbench.data.cards import parse_classes

    return None if classes is None else parse_classes(classes)


def _opened(named: list[Path]) -> "StoredPredictor":
    if len(named) > 1:
        raise UserError(
            f"{len(named)} quality predictors are named ({', '.join(map(str, named))}): run this once for each, with "
            "an --output of its own, and compare what they say."
        )
    from qgbench.quality.folder import open_predictor

    return open_predictor(named[0])


def _accelerator(device: str, precision: str, threads: int) -> "Accelerator":
    from qgbench.engine.device import make_accelerator
    from qgbench.engine.here import best_device

    for option, value, allowed in (
        ("--device", device, ("auto", "cpu", "cuda", "mps")),
        ("--precision", precision, ("fp32", "bf16", "fp16")),
    ):
        if value not in allowed:
            raise UserError(f"{option} {value}: expected {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return make_accelerator(best_device() if device == "auto" else device, precision, threads)


def _print_worth(stored: "StoredPredictor") -> None:
    from rich.table import Table

    from qgbench.quality.audit import IMAGE_DEPENDENCE_LIMIT
    from qgbench.report.audit import PREDICTS_RULE as RULE
    from qgbench.report.audit import predicts

    card = stored.card
    table = Table("held-back images", "masks", "r", "rho", "MAE", title=f"g of {len(card.labelled_ids)} images")
    for name, found in (("synthetic masks", card.synthetic), ("weak models' masks", card.weak_models)):
        row = (_number(found.pearson), _number(found.spearman), _number(found.mae))
        table.add_row(name, str(found.masks), *row)
    print_table(table, standard_output())
    if not predicts(card.synthetic):
        logger.warning(
            "this g does not predict the Dice of held-back images' masks: train on more images. One predicts it if %s.",
            RULE,
        )
    elif card.image_dependence >= IMAGE_DEPENDENCE_LIMIT:
        logger.warning(
            "this g judges shapes more than images (its output correlates %.2f with that for blacked-out or swapped "
            "images), and will hardly find the mask of another image.",
            card.image_dependence,
        )
    print(stored.folder)


def _print_audit(found: "ScoreAudit", noun: str) -> None:
    from rich.table import Table

    from qgbench.quality.audit import FAILED

    console = standard_output()
    table = Table(
        "measure", "value", "95 % interval", "note", title=f"{found.masks} {noun} on images of {found.groups} groups"
    )
    rows: list[tuple[str, Estimate | None, str]] = [
        ("r", found.pearson, "Pearson, with true Dice"),
        ("rho", found.spearman, "Spearman"),
        ("MAE", found.mae, f"of the predicted Dice; mean true Dice {found.mean_dice:.3f}"),
        ("AUROC", found.auroc, f"finds the {found.failures} masks of Dice < {FAILED}; 0.5 is chance"),
        ("AURC", found.aurc, f"less is better; by chance {found.aurc_random:.3f}, best {found.aurc_best:.3f}"),
        ("image dependence", found.image_dependence, "r with q of another image; below 0.70: looks at the image"),
    ]
    for name, estimate, note in rows:
        if estimate is not None:
            table.add_row(name, _number(estimate.value), _interval(estimate), note)
    print_table(table, console)
    curve = Table("predicted", "masks", "mean predicted", "mean true Dice", "95 % interval", title="calibration")
    for each in found.calibration:
        cells = (str(each.masks), _number(each.mean_score), _number(each.dice.value), _interval(each.dice))
        curve.add_row(f"{each.low:.1f} to {each.high:.1f}", *cells)
    print_table(curve, console)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(estimate: "Estimate") -> str:
    return "-" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
