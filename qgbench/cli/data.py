"""The verbs of ``qgbench data``: thin, over `qgbench.data`."""

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgbench.base.console import standard_output
from qgbench.base.errors import UserError, unknown_name
from qgbench.base.logs import logger
from qgbench.base.paths import expanded
from qgbench.cli import completion
from qgbench.cli.options import DataDir, Quiet, Verbose, name_or_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qgbench.data.acquire.verify import Finding
    from qgbench.data.readers import Source
    from qgbench.data.volume_layouts import VolumeFolder
    from qgbench.spec.regime import SplitKind

app = typer.Typer(
    no_args_is_help=True, help="Get, check, split and look at data; begin with [bold]qgbench data list[/bold]."
)

Name = Annotated[str, typer.Argument(help="A name that qgbench data list shows.", autocompletion=completion.data_names)]
_NOT_STATED = "not stated"
AnyData = Annotated[
    str,
    typer.Argument(
        parser=name_or_path, help="Data set or pool: a name, or a path (./mine).", autocompletion=completion.data_names
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="grouped or image.")]
ProtocolOption = Annotated[
    str,
    typer.Option(help="Protocol whose image size and shares of a split count.", autocompletion=completion.protocols),
]


@app.command("list")
def list_data(
    name: Annotated[
        str | None, typer.Argument(help="Show all about this one.", autocompletion=completion.data_names)
    ] = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """List the data sets and pools: which are there, what their owners allow, how to get them; or show one.

    Example: [bold]qgbench data list --data-dir ~/data[/bold]
    """
    from qgbench.data.inventory import inventory, print_entry, print_inventory

    entries = {entry.card.name: entry for entry in inventory(data_dir)}
    if name is None:
        print_inventory(list(entries.values()), standard_output())
    elif name in entries:
        print_entry(entries[name], standard_output())
    else:
        raise unknown_name("dataset", name, list(entries))


@app.command()
def prepare(
    name: Name,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            parser=expanded,
            help="What you downloaded: a ZIP, or the folder of ZIPs or unpacked files; repeatable. (default: the "
            "images are in the data folder already)",
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            parser=expanded,
            help="CSV with the columns stem and group: the data set's groups from now on, so that it is split anew.",
        ),
    ] = None,
    protocol: ProtocolOption = "small",
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Bring a data set into the data folder, and decode it for a protocol's image size, so that runs start at once.

    Example: [bold]qgbench data prepare ph2 --source ~/Downloads/PH2Dataset.zip --data-dir ~/data[/bold]
    """
    from qgbench.base.progress import track
    from qgbench.data.acquire.install import install_distribution, regroup, writable_data_dir
    from qgbench.data.cards import load_card
    from qgbench.spec.protocol import load_protocol

    size = load_protocol(protocol).size
    if source:
        data_dir = writable_data_dir(data_dir)
        print(install_distribution(load_card(name), source, data_dir, track))
    if groups is not None:
        print(regroup(name, groups, writable_data_dir(data_dir)))
    _decode(name, data_dir, size)


def _decode(name: str, data_dir: Path | None, size: int) -> None:
    from qgbench.base.progress import track
    from qgbench.data.cache import prepare as decode
    from qgbench.data.readers import open_any

    source = open_any(name, data_dir)
    decoded = decode(source, size, track=track)
    if source.extra is not None:
        decode(source.extra, size, track=track)
    count = f"{len(decoded.ids)} {decoded.noun}s"
    logger.info("%s: %s of %d px are ready, fingerprint %s", name, count, size, decoded.fingerprint)


@app.command()
def fetch(
    name: Name,
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Download a data set from its owner, where that is allowed without a form to sign, and bring it into place.

    The same command goes on with an interrupted download.

    Example: [bold]qgbench data fetch kvasir_seg --data-dir ~/data[/bold]
    """
    from qgbench.base.progress import track
    from qgbench.data.acquire.download import fetch as download
    from qgbench.data.acquire.install import install_distribution, writable_data_dir
    from qgbench.data.cards import load_card

    card = load_card(name)
    data_dir = writable_data_dir(data_dir)
    if (data_dir / name).exists():
        raise UserError(f"{data_dir / name} is there already; remove it to fetch '{name}' again.")
    logger.info("%s. Terms: %s. Cite: %s", card.title, card.terms, card.citation)
    archives = data_dir / f".{name}.download"
    print(install_distribution(card, download(card, archives, track), data_dir, track))
    shutil.rmtree(archives, ignore_errors=True)  # what it held is in its place


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            parser=name_or_path,
            help="Data sets and pools. (default: all that are there)",
            autocompletion=completion.data_names,
        ),
    ] = None,
    split: SplitOption = "grouped",
    protocol: ProtocolOption = "small",
    output: Annotated[
        Path | None, typer.Option(parser=expanded, help="Also write the findings into this JSON file.")
    ] = None,
    write_groups: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, help="Also write the groups, joined where they share a picture, into this CSV file."
        ),
    ] = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check files, masks, groups and splits, and look for images that are there twice. Exits with 1 on an error.

    It finds copies of equal pixels, and those compressed, resized, brightened, mirrored or turned by quarters.

    It finds most copies turned by 3 degrees or cropped by 5 %, but no cropped one of a picture in a dark frame.

    Example: [bold]qgbench data verify cvc_colondb kvasir_pool[/bold]
    """
    from qgbench.base.progress import track
    from qgbench.data.acquire.verify import print_findings, verify, write_findings
    from qgbench.data.inventory import inventory
    from qgbench.spec.protocol import load_protocol

    chosen = names or [entry.card.name for entry in inventory(data_dir) if entry.state != "absent"]
    to_group = None if write_groups is None else _only_labelled(chosen, data_dir)
    findings = verify(chosen, data_dir, _kind(split), load_protocol(protocol).fractions, track)
    print_findings(findings, standard_output())
    if output is not None:
        write_findings(findings, output)
    if to_group is not None and write_groups is not None:
        _write_groups(*to_group, findings, write_groups)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _only_labelled(names: list[str], data_dir: Path | None) -> tuple[str, "Source"]:
    from qgbench.data.readers import open_any

    labelled = [(name, source) for name in names if (source := open_any(name, data_dir)).labelled]
    if len(labelled) != 1:
        raise UserError(
            f"--write-groups is for one labelled data set, and {len(labelled)} are to be checked; name one, and pools "
            "beside it as you like."
        )
    return labelled[0]


def _write_groups(name: str, source: "Source", findings: "Sequence[Finding]", file: Path) -> None:
    from qgbench.base.files import write_atomically
    from qgbench.data.acquire.install import groups_text
    from qgbench.data.acquire.verify import joined_groups
    from qgbench.data.splits import keeps_groups

    joined = joined_groups(source, findings)
    write_atomically(file, groups_text(joined).encode())
    before, after = len(set(source.groups)), len(set(joined.values()))
    if after < before:
        cure = f"add NEW --from {name}" if keeps_groups(name) else f"prepare {name}"
        logger.info("next: qgbench data %s --groups %s", cure, file)
    noun = "volumes" if source.volumes else "images"
    print(f"{file}: {len(joined)} {noun} in {after} groups; {before} before copies were joined")


@app.command("split")
def split_data(
    name: AnyData,
    split: SplitOption = "grouped",
    shares: Annotated[str, typer.Option(help="Per cent to train, validate and test on.")] = "40/10/50",
    seed: Annotated[int, typer.Option(min=0, help="Another number, another split.")] = 0,
    labelled: Annotated[
        str | None, typer.Option(help="Also draw labelled images: a number, a share (10%), or all.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Number of draws, one for each seed index k.")] = 5,
    split_from: Annotated[
        list[Path] | None,
        typer.Option(parser=expanded, help="Look at a published split instead of drawing one; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(parser=expanded, help="Write id, group, split into this CSV file.")
    ] = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show how a data set is split, or draw a split and write it for qgbench run --split-from.

    Seed 0 is the split that runs use: the committed one of a shipped data set.

    Example: [bold]qgbench data split ph2 --split grouped --shares 60/20/20 --output ph2.csv[/bold]
    """
    from qgbench.base.progress import track
    from qgbench.data.split_view import print_split, split_of, write_split

    fractions = _fractions(shares)
    found = split_of(name, data_dir, _kind(split), fractions, seed, split_from or [], labelled, draws, track)
    print_split(found, standard_output())
    if output is not None:
        write_split(found, output)
        print(output)


@app.command()
def show(
    name: AnyData,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Images, or volumes. (default: --count of them, evenly chosen)")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=600, help="Number of images.")] = 24,
    output: Annotated[Path | None, typer.Option(parser=expanded, help="PNG file. (default: NAME.png)")] = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Draw a contact sheet: images with the outlines of their masks.

    Example: [bold]qgbench data show scd --count 60 --output scd.png[/bold]
    """
    from qgbench.data.readers import open_any
    from qgbench.data.sheet import choose_images, draw_sheet, slices_of

    source = open_any(name, data_dir)
    ids = slices_of(source, ids or [])
    for id in ids:
        if id not in source.ids:
            raise unknown_name(source.noun, id, source.ids)
    file = output or Path(f"{source.name}.png")
    draw_sheet(source, ids or choose_images(source.ids, count), file)
    print(file)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Its name from now on: letters, digits, '_', '.', '-'.")],
    images: Annotated[Path | None, typer.Option(parser=expanded, help="Folder of the images.")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, help="Folder of the masks: ID.png, ID_mask.png, ... (default: the images are a pool)"
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, help="CSV with the columns stem and group: patient, lesion or video of each image."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="For soft masks: grey level, as the files hold it, above which a pixel is lesion; 127 cuts 8 bits in "
            "half. (default: masks hold 0 and one other value)",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="For masks of several classes: name and value of each, 'edema=1,tumour=2', or its colour, "
            "'edema=#ff0000'. (default: one class, lesion)",
        ),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            parser=name_or_path,
            help="A folder of volumes (ACDC, nnU-Net, Decathlon, SSL4MIS) as it is; or a data set, whose images, masks "
            "and facts are taken with other --groups.",
            autocompletion=completion.data_names,
        ),
    ] = None,
    voxels: Annotated[
        bool,
        typer.Option("--voxels", help="Of volumes: the spacing in the files is not the true one; measure in voxels."),
    ] = False,
    title: Annotated[str | None, typer.Option(help="What tables call it. (default: the name)")] = None,
    domain: Annotated[str, typer.Option(help="For example skin, colon.")] = _NOT_STATED,
    modality: Annotated[str, typer.Option(help="For example dermoscopy.")] = _NOT_STATED,
    terms: Annotated[str, typer.Option(help="What may be done with the images.")] = _NOT_STATED,
    citation: Annotated[str, typer.Option(help="Whom to cite.")] = _NOT_STATED,
    unit: Annotated[str, typer.Option(help="What a group is: patient, lesion, video.")] = "group",
    data_dir: DataDir = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Add images of one's own to the data folder, to be used by name as the others are.

    --from DIR adds a folder of volumes as it is: classes are those of its dataset.json, or --classes.

    --from NAME adds a data set once more, under another name and in other groups (qgbench data verify --write-groups).

    Example: [bold]qgbench data add mine --images photos --masks outlines --groups patients.csv --data-dir ~/data[/bold]

    Example: [bold]qgbench data add spleen --from ~/Downloads/Task09_Spleen --data-dir ~/data[/bold]
    """
    from qgbench.base.progress import track
    from qgbench.data.acquire.install import add_own, add_regrouped, add_volumes, own_card, writable_data_dir
    from qgbench.data.cards import parse_classes
    from qgbench.data.readers import open_source

    facts = {"domain": domain, "modality": modality, "terms": terms, "citation": citation}
    if origin is not None and (found := _volumes_at(origin, data_dir)) is not None:
        if any(given is not None for given in (images, masks, threshold)):
            raise UserError("--from DIR takes the volumes of that folder; leave --images, --masks and --threshold out.")
        facts = {key: found.facts.get(key, value) if value == _NOT_STATED else value for key, value in facts.items()}
        told = found.named_classes() if classes is None else parse_classes(classes)
        told_in = found.told_in if classes is None else "--classes"
        group = "none known" if groups is None and not found.has_patients else "patient" if unit == "group" else unit
        card = own_card(name, title or found.facts.get("title", name), group, False, facts, None, told, told_in)
        print(add_volumes(card, found, groups, voxels, writable_data_dir(data_dir), track))
        _say_next(name, data_dir)
        return
    if voxels:
        raise UserError("--voxels is said of volumes; give it with --from DIR, a folder of volumes.")
    if origin is not None:
        if groups is None or any(given is not None for given in (images, masks, threshold, classes)):
            open_source(origin, data_dir)  # says what is wrong with a name
            raise UserError(
                "--from takes a folder of volumes, or a data set that is there: then give it with --groups, alone. New "
                "pictures are given by --images and --masks."
            )
        source = open_source(origin, data_dir)
        facts = {key: getattr(source.card, key) if value == _NOT_STATED else value for key, value in facts.items()}
        title = title or f"{source.card.title}, other groups"
        card = own_card(name, title, unit, pool=False, facts=facts, classes=source.card.classes)
        print(add_regrouped(card, source, groups, writable_data_dir(data_dir), track))
        _say_next(name, data_dir)
        return
    if images is None:
        raise UserError("which images? Give --images DIR, or --from NAME with --groups.")
    if masks is None and groups is not None:
        raise UserError("--groups says which images a split must not part, and a pool is not split; leave it out.")
    if masks is None and threshold is not None:
        raise UserError("--threshold says how masks are read, and a pool has none; give --masks too, or leave it out.")
    if classes is not None and (masks is None or threshold is not None):
        raise UserError(
            "--classes says what the values of masks mean: give it with --masks, and without --threshold, which cuts "
            "them into lesion and background."
        )
    named = None if classes is None else parse_classes(classes)
    card = own_card(name, title or name, unit if groups else "none known", masks is None, facts, threshold, named)
    print(add_own(card, images, masks, groups, writable_data_dir(data_dir), track))
    _say_next(name, data_dir, pool=masks is None)


def _say_next(name: str, data_dir: Path | None, pool: bool = False) -> None:
    """Log what to type after a data set was added, for the data folder that it went to."""
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    commands = [["data", "verify", name], ["data", "show", name]]
    if not pool:
        commands.append(["run", "--method", "fixmatch", "--qg", "--dataset", name])
    logger.info("next: %s", ", ".join(shlex.join(["qgbench", *command, *where]) for command in commands))


def _volumes_at(origin: str, data_dir: Path | None) -> "VolumeFolder | None":
    """Return the volumes of a folder, given by its path or its name in the data folder; None where it has none."""
    from qgbench.base.paths import is_path
    from qgbench.data.cards import folder_of_data
    from qgbench.data.volume_layouts import find_volumes

    above = Path() if is_path(origin) else folder_of_data(data_dir)
    folder = None if above is None else above / expanded(origin)
    if folder is None or not folder.is_dir() or (folder / "images").is_dir():
        return None
    return find_volumes(folder)


def _kind(text: str) -> "SplitKind":
    if text == "grouped":
        return "grouped"
    if text == "image":
        return "image"
    raise UserError(f"--split {text}: expected grouped or image.")


def _fractions(text: str) -> tuple[float, float, float]:
    parts = text.split("/")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UserError(
            f"--shares {text}: expected whole percentages to train, validate and test on, such as 40/10/50."
        )
    train, val, test = (int(part) / 100 for part in parts)
    return train, val, test
