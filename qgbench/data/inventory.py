"""What is known of each data set and what of it is there: the lines of ``qgbench data list``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qgbench.base.console import print_table
from qgbench.base.errors import UserError
from qgbench.base.paths import expanded
from qgbench.data.cards import CARD_NAME, DATA_VARIABLE, Card, card_names, load_card, own_names, read_card
from qgbench.data.readers import DRAWN, PHANTOM_NAME, open_pool, open_source
from qgbench.data.volumes import counted

State = Literal["ready", "incomplete", "broken", "absent"]
_COLORS = {"ready": "green", "incomplete": "yellow", "broken": "red", "absent": "dim"}


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes
    ----------
    card : Card
    state : {'ready', 'incomplete', 'broken', 'absent'}
        'incomplete': more or fewer images than the card expects.
    images : int or None
        How many are there.
    volumes : (int, int) or None
        How many volumes and patients are there; None for pictures.
    remark : str
        What is wrong with it.
    """

    card: Card
    state: State
    images: int | None
    remark: str
    volumes: tuple[int, int] | None = None


def inventory(data_dir: Path | None = None) -> list[Entry]:
    """Return the shipped data sets and one's own in the data folder, sorted by kind and name. Nothing is decoded.

    Parameters
    ----------
    data_dir : Path, optional
        The variable QGBENCH_DATA where None; without either only the phantom is there.

    Raises
    ------
    UserError
        The data folder is named but not there.
    """
    named = data_dir or os.environ.get(DATA_VARIABLE)
    folder = expanded(named) if named else None
    if folder is not None and not folder.is_dir():
        raise UserError(f"there is no folder {folder}: correct {DATA_VARIABLE} or --data-dir.")
    entries = [_entry(load_card(name), folder) for name in card_names()]
    if folder is not None:
        entries += [_own_entry(folder / name) for name in own_names(folder)]
    return sorted(entries, key=lambda entry: (entry.card.kind, entry.card.name))


def _entry(card: Card, folder: Path | None) -> Entry:
    if card.name not in DRAWN and (folder is None or not (folder / card.name).is_dir()):
        return Entry(card, "absent", None, "")
    return _opened(card, card.name, folder)


def _own_entry(folder: Path) -> Entry:
    try:
        card = read_card(folder / CARD_NAME)
    except UserError as error:
        unknown = load_card(PHANTOM_NAME).model_copy(update={"name": folder.name, "title": "-", "terms": "-"})
        return Entry(unknown, "broken", None, str(error))
    return _opened(card, str(folder.absolute()), None)


def _opened(card: Card, name: str, folder: Path | None) -> Entry:
    try:
        source = (open_pool if card.kind == "pool" else open_source)(name, folder)
    except UserError as error:
        return Entry(card, "broken", None, str(error))
    count = len(source.ids)
    volumes = counted(source) if source.volumes else None
    if volumes is not None and card.volumes != volumes[0]:
        return Entry(card, "incomplete", count, f"the card expects {card.volumes} volumes", volumes)
    if card.images is not None and count != card.images:
        return Entry(card, "incomplete", count, f"the card expects {card.images} images", volumes)
    return Entry(card, "ready", count, "", volumes)


def print_inventory(entries: list[Entry], console: Console) -> None:
    """Print one line for each data set, then what is wrong with some."""
    rows = [("name", "kind", "domain", "images", "state", "get it", "terms")]
    for entry in entries:
        card = entry.card
        count = card.images if entry.images is None else entry.images
        how = "" if entry.state != "absent" else "fetch" if card.downloads else "by hand"
        images = "-" if count is None else f"{count:,}"
        if card.volumes is not None:
            images = f"{card.volumes if entry.volumes is None else entry.volumes[0]:,} volumes"
        rows.append((card.name, card.kind, card.domain, images, entry.state, how, card.terms))
    table = Table(box=None, pad_edge=False)
    for column, heading in zip(zip(*rows, strict=True), rows[0], strict=True):
        width = None if heading == "terms" else max(map(len, column))  # where room is short, terms are cut
        table.add_column(heading, min_width=width, no_wrap=True, justify="right" if heading == "images" else "left")
    for row in rows[1:]:
        color = _COLORS[cast(State, row[4])]
        table.add_row(*(Text(text, style=color if text == row[4] else "") for text in row))
    print_table(table, console)
    for entry in entries:
        if entry.remark:
            console.print(f"[{_COLORS[entry.state]}]{escape(entry.card.name)}[/]: {escape(entry.remark)}")
    console.print("More of one: qgbench data list NAME. Get one: qgbench data fetch NAME.", style="dim")


def print_entry(entry: Entry, console: Console) -> None:
    """Print all that is known of one data set."""
    card = entry.card
    budget = "" if card.budget is None else f"; {card.budget} labelled by default"
    there = "none there" if entry.images is None else f"{entry.images:,} there"
    budget = budget.replace("labelled", "labelled patients") if card.volumes else budget
    volumes = "" if card.volumes is None else f"{card.volumes:,}, none there{budget}"
    if entry.volumes is not None:
        volumes = "{:,} of {:,} patients".format(*entry.volumes) + budget
    facts = {
        "what": f"{card.title} ({card.kind})",
        "domain": f"{card.domain}, {card.modality}",
        "volumes": volumes,
        "slices" if card.volumes else "images": (
            f"{'any number' if card.images is None else f'{card.images:,}'}, {there}" + ("" if volumes else budget)
        ),
        "state": " ".join((entry.state, entry.remark)),
        "groups": card.groups,
        "classes": ", ".join(f"{name} ({value})" for name, value in card.classes.items()),
        "masks": "" if card.threshold is None else f"soft ones, of which values above {card.threshold:g} were taken",
        "spacing": card.spacing,
        "terms": card.terms,
        "cite": card.citation,
        "homepage": card.homepage,
        "get it": f"qgbench data fetch {card.name}" if card.downloads else card.obtain,
        "files": "\n".join(f"{layout.about}: {layout.images}" for layout in card.layout),
        "defects": "\n".join(card.defects),
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for heading, text in facts.items():
        if text:
            table.add_row(heading, escape(text))
    console.print(table)
