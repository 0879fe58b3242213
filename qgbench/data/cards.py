"""What is known about a data set before its images are read: ``datasets/<name>/card.toml``.

A card is declarative: adding a data set in the common layout (`qgbench.data.readers`) takes a card and no Python.
"""

import os
import re
import unicodedata
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from qgbench.base.errors import UserError, unknown_name
from qgbench.base.paths import expanded, list_folder
from qgbench.base.text import parse_toml, read_table, read_text
from qgbench.data.layouts import Grouping, Layout
from qgbench.data.links import Download
from qgbench.spec.task import MEAN, Task

CARD_NAME = "card.toml"
DATA_VARIABLE = "QGBENCH_DATA"
Kind = Literal["labelled", "pool"]
NO_CLASSES = ("background", MEAN)
LARGEST_VALUE = 65535  # of 16 bits
_MOST_CLASSES = 254  # a label map has one byte a pixel, of which 0 and 255 are taken


class Card(BaseModel):
    """The facts of one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="letters, digits, '_', '.', '-'")
    title: str
    kind: Kind = Field(description="'labelled': every image has a mask; 'pool': no image has one")
    domain: str = Field(description="'skin', 'colon', 'phantom' or a word of one's own: what a pool shares with a set")
    modality: str = Field(description="for example 'dermoscopy', 'colonoscopy'")
    terms: str = Field(description="what the owners of the images allow")
    citation: str
    homepage: str
    groups: str = Field(description="what one group is, for example 'lesion', 'video sequence'; or 'none known'")
    images: int | None = Field(default=None, gt=0, description="expected number of images; None where it is not fixed")
    budget: int | None = Field(
        default=None, gt=0, description="labelled images, or patients of volumes, used by default; None for a pool"
    )
    volumes: int | None = Field(
        None, gt=0, description="expected number of volumes, whose slices are the images; None for pictures"
    )
    voxels: bool = Field(
        False, description="the spacing in the files of volumes is not the true one: distances are in voxels"
    )
    same_patient: Mapping[str, str] = Field(
        {}, description="patients of volumes whose pictures are another's: second name -> first, which both then have"
    )

    spacing: str = Field("not stated", description="size of a pixel in mm, or why it is not known")
    defects: tuple[str, ...] = Field((), description="known defects of the distribution, a sentence each")
    obtain: str = Field("", description="how to get the data by hand")
    downloads: tuple[Download, ...] = Field((), description="files that the owner offers by direct links")
    subset: str | None = Field(
        None, description="table beside the card whose column id lists the images, where the distribution holds more"
    )
    threshold: float | None = Field(
        None, description="value above which pixels of soft masks became the lesion when the images were added"
    )
    classes: Mapping[str, StrictInt | StrictStr] = Field(
        {}, description="name -> value in a mask, or '#rrggbb' of its colour, in order; none: one class, 'lesion'"
    )
    grouping: Grouping | None = Field(None, description="how a group is told from an id; None: groups.csv")
    layout: tuple[Layout, ...] = Field((), description="distributions that can be read beside the common layout")

    @model_validator(mode="after")
    def _pool_has_no_budget(self) -> Self:
        if self.kind == "pool" and self.budget is not None:
            raise ValueError("a pool has no labelled budget")
        return self

    @model_validator(mode="after")
    def _volumes_are_labelled(self) -> Self:
        if self.volumes is not None and self.kind == "pool":
            raise ValueError("a pool holds pictures, not volumes")
        if (self.voxels or self.same_patient) and self.volumes is None:
            raise ValueError("voxels and same_patient are said of volumes")
        return self

    @field_validator("classes")
    @classmethod
    def _classes_are_distinct(cls, classes: Mapping[str, int | str]) -> Mapping[str, int | str]:
        for name, value in classes.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name in NO_CLASSES:
                raise ValueError(
                    f"'{name}' cannot name a class: letters, digits, '_', '-', '.', and not {' or '.join(NO_CLASSES)}"
                )
            if isinstance(value, str) and not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
                raise ValueError(f"{name} = '{value}': the value is a whole number, or a colour such as '#ff0000'")
            if value == "#000000" or (isinstance(value, int) and not 0 < value <= LARGEST_VALUE):
                raise ValueError(
                    f"{name} = {value}: a class has a number from 1 to {LARGEST_VALUE}, or a colour; 0, or black, is "
                    "the background"
                )
        values = [value.lower() if isinstance(value, str) else value for value in classes.values()]
        if len({type(value) for value in values}) > 1:
            raise ValueError("classes are told by numbers or by colours, not by both")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            named = [name for name, value in zip(classes, values, strict=True) if value == twice]
            raise ValueError(f"two classes have one value: {' and '.join(named)} have {twice}")
        folded: dict[str, str] = {}
        for name in classes:
            if (other := folded.setdefault(name.casefold(), name)) != name:
                raise ValueError(
                    f"'{other}' and '{name}' differ in nothing but case; give each class a name of its own"
                )
        if len(values) > _MOST_CLASSES:
            raise ValueError(f"{len(values)} classes; at most {_MOST_CLASSES} are possible")
        return dict(zip(classes, values, strict=True))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order; ('lesion',) where none are given."""
        return tuple(self.classes) or Task().classes


def parse_classes(text: str) -> dict[str, int | str]:
    """Return classes as they are typed, ``edema=1,tumour=2`` or ``edema=#ff0000``; `Card` refuses impossible ones.

    Raises
    ------
    UserError
        It is written otherwise, or a name is there twice.
    """
    classes: dict[str, int | str] = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if not name or not re.fullmatch(r"\d+|#.*", value):
            raise UserError(
                f"--classes {text}: '{item.strip()}' is not NAME=VALUE; give the value or the colour of each class in "
                'the masks, in the order that tables shall have, such as "edema=1,tumour=2" or "edema=#ff0000".'
            )
        if name in classes:
            raise UserError(f"--classes {text}: '{name}' is there twice; a class has one value and a name of its own.")
        classes[name] = int(value) if value.isdecimal() else value
    return classes


def card_folder(name: str) -> Traversable:
    """Return the folder of a shipped data set (card and splits), in a checkout as in an installed package."""
    return files("qgbench.datasets").joinpath(name)


def card_names(kind: Kind | None = None) -> list[str]:
    """Return the names of the shipped cards, sorted.

    Parameters
    ----------
    kind : {'labelled', 'pool'}, optional
        List only the cards of this kind.
    """
    folders = files("qgbench.datasets").iterdir()
    names = sorted(folder.name for folder in folders if folder.joinpath(CARD_NAME).is_file())
    return [name for name in names if kind is None or load_card(name).kind == kind]


def folder_of_data(data_dir: Path | None) -> Path | None:
    """Return the folder that holds the data sets: as given, else that of QGBENCH_DATA; None where neither says."""
    given = data_dir or os.environ.get(DATA_VARIABLE)
    return expanded(given) if given else None


def own_names(data_dir: Path | None = None, kind: Kind | None = None) -> list[str]:
    """Return what was added to the data folder, sorted by name; nothing where no folder is given or there.

    Parameters
    ----------
    data_dir : Path, optional
        The variable QGBENCH_DATA where None.
    kind : {'labelled', 'pool'}, optional
        List only what is of this kind.

    Raises
    ------
    UserError
        A kind is asked for, and a card cannot be read.
    """
    folder = folder_of_data(data_dir)
    if folder is None or not folder.is_dir():
        return []
    shipped = card_names()
    own = [entry for entry in list_folder(folder) if (entry / CARD_NAME).is_file() and entry.name not in shipped]
    return [entry.name for entry in own if kind is None or read_card(entry / CARD_NAME).kind == kind]


def load_card(name: str) -> Card:
    """Return a shipped card.

    Raises
    ------
    UserError
        No such card is shipped, or it is not valid.
    """
    if name not in (known := card_names()):
        raise unknown_name("dataset", name, known)
    return read_card(card_folder(name).joinpath(CARD_NAME))


def listed_ids(card: Card) -> list[str] | None:
    """Return the images of a shipped data set that is a part of its distribution, sorted; None where it is the whole.

    Raises
    ------
    UserError
        The table that the card names is not beside a shipped card.
    """
    if card.subset is None:
        return None
    table = card_folder(card.name).joinpath(card.subset)
    if not table.is_file():
        raise UserError(
            f"the card '{card.name}' says subset = '{card.subset}'; only shipped data sets have such a table."
        )
    return sorted(read_table(table, ["id"])["id"])


def read_card(file: Path | Traversable) -> Card:
    """Read a card: a shipped one, or one that someone put beside their own images.

    Raises
    ------
    UserError
        The file cannot be read, is not TOML, or lacks a field.
    """
    text = unicodedata.normalize("NFC", read_text(file))  # its patterns and groups meet ids, which are composed
    try:
        return Card.model_validate(parse_toml(text, file))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
        raise UserError(f"{file} is not a valid card: {faults}") from error
