"""Check data sets before they are trained on: files, masks, groups, splits, and pictures that are there twice.

An error makes results wrong or stops a run; a warning is to be looked at and harms no grouped split; a note is good to
know. The rules:

================== ======== ===========================================================================================
rule               severity found
================== ======== ===========================================================================================
cannot be opened   error    unknown name, missing folder or mask, faulty groups.csv (`qgbench.data.readers`)
missing images     error    fewer images than the card says
extra images       warning  more images than the card says
unreadable image   error    damaged, or of a kind that is refused (`qgbench.data.images`)
unreadable mask    error    the same
mask size          error    a mask that has not the size of its image
grey mask          error    a mask of more than two values
unknown class      error    a mask with a value that is no class of the card
absent class       warning  a class that no mask shows
classes            note     of several classes: each one's share of all pixels, and how many masks show it
empty mask         warning  no foreground
full mask          warning  nothing but foreground
nearly full mask   note     98 % foreground or more
inverted mask      warning  more than half of the image and at least 90 % of its border are foreground
split              error    the committed split lists other images or groups, or the images are too few to be split
groups cross       error    images of one group in several parts; a warning where the kind of split is 'image'
exact copy         see next images of equal pixels
near copy          see next images that are one picture (`qgbench.data.duplicates`): least agreement in the text
volumes            note     how many there are, of how many patients, and their spacing
known defect       note     what the card says of the distribution
================== ======== ===========================================================================================

Copies in two parts of one data set, or in a pool and a test part, are errors; in a pool and a validation part, in two
labelled data sets, or in one part, warnings. A pool that repeats itself or a training part is noted. Near copies of one
group are taken for frames of a camera that stood still: a note, or a warning where the group crosses. Unlabelled images
of a labelled data set are a pool. Each finding about copies is one picture, with all images that show it. Of volumes
each is looked at as a whole, and copies are looked for among their middle slices.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qgbench.base.cores import in_threads
from qgbench.base.errors import NotFoundError, UserError
from qgbench.base.files import write_atomically
from qgbench.base.progress import Track, no_progress
from qgbench.data.cards import CARD_NAME
from qgbench.data.duplicates import Fingerprint, fingerprint, near_pairs
from qgbench.data.images import MaskSizeError, MaskValuesError
from qgbench.data.readers import Source, open_any
from qgbench.data.splits import HALF_TEST, PARTS, Fractions, SplitKind, load_split, shares, split_source
from qgbench.data.volumes import counted, spacing_words

Severity = Literal["error", "warning", "note"]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_ROWS = {"error": 50, "warning": 20, "note": 5}  # of one rule and data set in the table
_NAMES = 12  # in one row of the table

_COPIES = ("exact copy", "near copy")  # rules
_NEARLY_FULL = 0.98  # of the image
# Of 1,798 real masks none has more than 0.82 of the border in its foreground (a PH2 lesion that fills the image).
_MOST_OF_BORDER = 0.9

_POOL, _UNKNOWN = "pool", ""  # beside the parts of a split
_OF_POOL: dict[str, Severity] = {"train": "note", "val": "warning", "test": "error", _UNKNOWN: "warning"}


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Attributes
    ----------
    severity : {'error', 'warning', 'note'}
    dataset : str
        Where it was found: the name of a data set or a pool.
    rule : str
        One of those listed in `qgbench.data.acquire.verify`.
    text : str
        What is wrong.
    images : tuple of str
        The images that it is about, all of them: ids, those of another data set as ``name/id``. Empty where it is about
        the whole data set.
    """

    severity: Severity
    dataset: str
    rule: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Looked:
    """What reading an image and its mask showed."""

    id: str
    fault: tuple[str, str] | None  # rule and text
    print: Fingerprint | None  # None where the image cannot be read
    areas: NDArray[np.float64] | None  # each class's share of the mask; None without a mask
    border: float | None  # the foreground's share of the mask's border

    @property
    def cover(self) -> float | None:
        """The foreground's share of the mask."""
        return None if self.areas is None else round(float(self.areas.sum()), 12)  # the whole is 1, however divided


@dataclass(frozen=True)
class _Image:
    dataset: str
    id: str
    group: str
    part: str  # 'train', 'val', 'test', 'pool', or '' where the data set cannot be split


@dataclass(frozen=True)
class _Verdict:
    """What it means that an image is a copy of another."""

    severity: Severity
    dataset: str
    rule: str
    where: str


def verify(
    names: Sequence[str],
    data_dir: Path | None = None,
    split: SplitKind = "grouped",
    fractions: Fractions = HALF_TEST,
    track: Track = no_progress,
) -> list[Finding]:
    """Check data sets and pools, each by itself and all against each other.

    Every image and mask is decoded, on all cores. Memory: about 15 KB an image, beside those being decoded.

    Parameters
    ----------
    names : sequence of str
        Data sets and pools, as `qgbench.data.readers.open_source` and `open_pool` take them.
    data_dir : Path, optional
        Folder that holds a folder per data set; the environment variable QGBENCH_DATA where None.
    split : {'grouped', 'image'}
    fractions : (train, val, test)
        The split that is checked: as `qgbench.data.splits.load_split` hands it to a run.
    track : Track
        Shows progress while images are decoded.

    Returns
    -------
    list of Finding
        Errors first; within each severity by data set, in the order given, copies last.

    Raises
    ------
    NotFoundError
        There is no data set of a name; raised before anything is decoded.
    """
    findings: list[Finding] = []
    images: list[_Image] = []
    prints: list[Fingerprint] = []
    opened: set[str] = set()
    for name, source in {name: _open(name, data_dir) for name in names}.items():
        if isinstance(source, Finding):
            findings.append(source)
            continue
        if source.name in opened:
            text = f"is the data set '{source.name}' again; give each once, or rename one in its {CARD_NAME}"
            findings.append(Finding("error", name, "cannot be opened", text))
            continue
        opened.add(source.name)
        findings += [Finding("note", source.name, "known defect", text) for text in source.card.defects]
        for one in [source] if source.extra is None else [source, source.extra]:
            looked = _look_at_all(one, track)
            parts, of_split = _split(one, split, fractions, looked)
            groups = dict(zip(one.ids, one.groups, strict=True))
            findings += _counts(one, _listed(one.name, split, fractions))
            if one.volumes:
                looked, groups, parts = _by_volume(one, looked, groups, parts)
                findings.append(_volumes(one))
            findings += [*_files(one, looked), *of_split]
            otherwise = _UNKNOWN if one.labelled else _POOL
            for each in looked:
                if each.print is not None:
                    images.append(_Image(one.name, each.id, groups[each.id], parts.get(each.id, otherwise)))
                    prints.append(each.print)
    findings += _copies(images, prints)
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))


def _open(name: str, data_dir: Path | None) -> Source | Finding:
    """Open a data set that is there, or return why it cannot be opened."""
    try:
        return open_any(name, data_dir)
    except NotFoundError:
        raise
    except UserError as error:
        return Finding("error", name, "cannot be opened", str(error))


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print a table of the findings, the first few of each rule, and how many there are of each severity."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for (severity, dataset, rule), alike in groupby(findings, lambda f: (f.severity, f.dataset, f.rule)):
        rows = list(alike)
        for finding in rows[: _ROWS[severity]]:
            more = f", and {len(finding.images) - _NAMES} more" if len(finding.images) > _NAMES else ""
            shown = f": {', '.join(finding.images[:_NAMES])}{more}" if finding.images else ""
            table.add_row(*map(Text, (severity, dataset, f"{rule}: {finding.text}{shown}")), style=_COLOURS[severity])
        if (hidden := len(rows) - _ROWS[severity]) > 0:
            table.add_row(severity, dataset, f"{rule}: and {hidden} more (--output FILE)", style=_COLOURS[severity])
    if findings:
        console.print(table)
    count = Counter(finding.severity for finding in findings)
    console.print(Text(", ".join(f"{severity}s: {count[severity]}" for severity in _SEVERITIES)))


def write_findings(findings: Sequence[Finding], file: Path) -> None:
    """Write the findings as JSON: their number by severity, then ``findings``, a list with the fields of `Finding`.

    Raises
    ------
    QGBenchError
        The file cannot be written.
    """
    count = Counter(finding.severity for finding in findings)
    report = {
        **{f"{severity}s": count[severity] for severity in _SEVERITIES},
        "findings": [asdict(finding) for finding in findings],
    }
    write_atomically(file, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def joined_groups(source: Source, findings: Sequence[Finding]) -> dict[str, str]:
    """Return each image of a data set its group, after those of which copies were found are joined.

    Parameters
    ----------
    source : Source
    findings : sequence of Finding
        What `verify` found in it.

    Returns
    -------
    dict of str to str
        Group by id; of volumes, by the volume's name. Groups that are joined, over however many steps, bear the name of
        the first of them by name.
    """
    group_of = dict(zip(source.ids, source.groups, strict=True))
    if source.volumes:
        group_of = {source.volumes[id].volume: group for id, group in group_of.items()}
    joined: dict[str, str] = {}  # a group, and one that it went into

    def last(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    for finding in findings:
        if finding.dataset == source.name and finding.rule in _COPIES:
            first, *others = sorted({last(group_of[id]) for id in finding.images if id in group_of})
            joined.update(dict.fromkeys(others, first))
    return {id: last(group) for id, group in group_of.items()}


def _look_at_all(source: Source, track: Track) -> list[_Looked]:
    """Read every image and mask, on all cores; return what was seen, in the order of the ids."""
    with closing(in_threads(partial(_look, source), source.ids)) as looked:
        return list(track(looked, f"Verifying {source.name}", len(source.ids), f"{source.noun}s"))


def _look(source: Source, id: str) -> _Looked:
    try:
        found = fingerprint(source.image(id))
    except UserError as error:
        return _Looked(id, ("unreadable image", str(error)), None, None, None)
    if not source.labelled:
        return _Looked(id, None, found, None, None)
    try:
        mask = source.mask(id)
    except MaskSizeError as error:
        return _Looked(id, ("mask size", str(error)), found, None, None)
    except MaskValuesError as error:
        return _Looked(id, ("unknown class" if source.card.classes else "grey mask", str(error)), found, None, None)
    except UserError as error:
        return _Looked(id, ("unreadable mask", str(error)), found, None, None)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return _Looked(id, None, found, shares(mask, len(source.classes)), float((border != 0).mean()))


def _by_volume(
    source: Source, looked: Sequence[_Looked], groups: dict[str, str], parts: dict[str, str]
) -> tuple[list[_Looked], dict[str, str], dict[str, str]]:
    """Return what was seen of each volume, its group and its part: a picture of it is its middle slice."""
    of_volume: dict[str, list[_Looked]] = {}
    for each in looked:
        of_volume.setdefault(source.volumes[each.id].volume, []).append(each)
    found = []
    for volume, slices in of_volume.items():
        fault = next((each.fault for each in slices if each.fault is not None), None)
        areas = [each.areas for each in slices if each.areas is not None]
        borders = [each.border for each in slices if each.border is not None]
        middle = slices[len(slices) // 2].print
        mean_areas = np.mean(areas, axis=0) if areas else None
        found.append(_Looked(volume, fault, middle, mean_areas, float(np.mean(borders)) if borders else None))
    first = {volume: slices[0].id for volume, slices in of_volume.items()}
    return (
        found,
        {volume: groups[id] for volume, id in first.items()},
        {volume: parts[id] for volume, id in first.items() if id in parts},
    )


def _volumes(source: Source) -> Finding:
    volumes, patients = counted(source)
    text = f"{volumes:,} of {patients:,} groups ({source.card.groups}), {len(source.ids):,} slices; spacing "
    return Finding("note", source.name, "volumes", text + spacing_words(source))


def _split(
    source: Source, kind: SplitKind, fractions: Fractions, looked: Sequence[_Looked]
) -> tuple[dict[str, str], list[Finding]]:
    """Return each image its part, as a run would; none where there is no split. And find what is wrong with it."""
    if not source.labelled:
        return {}, []
    try:
        if _listed(source.name, kind, fractions) is None:
            areas = [each.areas for each in looked if each.areas is not None]
            balanced = areas if len(areas) == len(looked) else None
            table = split_source(source, kind, fractions, areas=balanced)
        else:
            table = load_split(source, kind, fractions)
    except UserError as error:
        return {}, [Finding("error", source.name, "split", str(error))]
    parts = dict(zip(table["id"], table["split"], strict=True))
    numbers = table.groupby("group")["split"].nunique()
    if (crossing := numbers.index[numbers > 1]).empty:
        return parts, []
    text = f"{len(crossing)} of {len(numbers)} groups have {source.noun}s in several parts"
    if kind == "image":
        return parts, [Finding("warning", source.name, "groups cross", f"{text}, as this kind of split means it")]
    images = tuple(table.loc[table["group"].isin(crossing), "id"])
    return parts, [Finding("error", source.name, "groups cross", text, images)]


def _listed(name: str, kind: SplitKind, fractions: Fractions) -> set[str] | None:
    """Return the images of a committed split; None where there is none."""
    try:
        return set(load_split(name, kind, fractions)["id"])
    except UserError:
        return None


def _counts(source: Source, listed: set[str] | None) -> Iterator[Finding]:
    """Yield a finding if there are more or fewer images than the card says; a committed split knows their names."""
    expected, count = source.card.images, len(source.ids)
    if expected is None or count == expected:
        return
    text = f"{count} {source.noun}s; the card says {expected}"
    known = listed or set(source.ids)
    if count < expected:
        yield Finding("error", source.name, "missing images", text, tuple(sorted(known - set(source.ids))))
    else:
        yield Finding("warning", source.name, "extra images", text, tuple(sorted(set(source.ids) - known)))


def _files(source: Source, looked: Sequence[_Looked]) -> Iterator[Finding]:
    for each in looked:
        if each.fault is not None:
            rule, text = each.fault
            yield Finding("error", source.name, rule, text, (each.id,))
    strange: dict[tuple[Severity, str, str], list[str]] = {}
    for each in looked:
        if (rule_and_text := _strange_mask(each)) is not None:
            strange.setdefault(rule_and_text, []).append(each.id)
    for (severity, rule, text), ids in strange.items():
        yield Finding(severity, source.name, rule, f"{len(ids)} mask{'s' if len(ids) > 1 else ''}: {text}", tuple(ids))
    if len(source.classes) > 1 and (areas := np.array([each.areas for each in looked if each.areas is not None])).size:
        yield from _classes(source, areas)


def _classes(source: Source, areas: NDArray[np.float64]) -> Iterator[Finding]:
    """Yield how much each of several classes is shown, of areas (N, K)."""
    masks = (areas > 0).sum(0)
    for name in (name for name, count in zip(source.classes, masks, strict=True) if count == 0):
        yield Finding("warning", source.name, "absent class", f"no mask shows {name}; is its value right?")
    told = zip(source.classes, areas.mean(0), masks, strict=True)
    text = "; ".join(
        f"{name} {share:.1%} of the pixels, in {count} of {len(areas)} masks" for name, share, count in told
    )
    yield Finding("note", source.name, "classes", text)


def _strange_mask(looked: _Looked) -> tuple[Severity, str, str] | None:
    if looked.cover is None or looked.border is None:
        return None
    if looked.cover == 0:
        return "warning", "empty mask", "no foreground"
    if looked.cover == 1:
        return "warning", "full mask", "nothing but foreground"
    if looked.cover > 0.5 and looked.border >= _MOST_OF_BORDER:
        return "warning", "inverted mask", "foreground in most of the image and of its border"
    if looked.cover >= _NEARLY_FULL:
        return "note", "nearly full mask", f"{_NEARLY_FULL:.0%} foreground or more"
    return None


def _copies(images: Sequence[_Image], prints: Sequence[Fingerprint]) -> Iterator[Finding]:
    """Yield pictures that several images show."""
    alike: dict[bytes, list[int]] = {}
    for index, each in enumerate(prints):
        alike.setdefault(each.pixels, []).append(index)
    links: dict[_Verdict, list[tuple[int, int, float]]] = {}
    for members in alike.values():
        for i, j in _across(images, members, members):
            links.setdefault(_judge(images[i], images[j], "exact copy"), []).append((i, j, 1.0))
    distinct = list(alike.values())
    shown_once = [prints[members[0]] for members in distinct]
    waves = np.array([each.waves for each in shown_once])
    for one, other, value in near_pairs(waves, lambda index: shown_once[index].detail):
        for i, j in _across(images, distinct[one], distinct[other]):
            links.setdefault(_judge(images[i], images[j], "near copy"), []).append((i, j, value))
    datasets = list(dict.fromkeys(each.dataset for each in images))
    for verdict in sorted(links, key=lambda verdict: (datasets.index(verdict.dataset), verdict.rule)):
        for members, least in _connected(links[verdict]):
            shown = [images[index] for index in members]
            names = tuple(each.id if each.dataset == verdict.dataset else f"{each.dataset}/{each.id}" for each in shown)
            kind = "equal pixels" if verdict.rule == "exact copy" else f"one picture (agreement {least:.2f})"
            yield Finding(verdict.severity, verdict.dataset, verdict.rule, f"{kind}, {verdict.where}", names)


def _across(images: Sequence[_Image], left: list[int], right: list[int]) -> Iterable[tuple[int, int]]:
    """Return pairs i < j of two lists that link images of any two places, without pairing each with each."""
    pairs: set[tuple[int, int]] = set()
    for place_left in _by_place(images, left):
        for place_right in _by_place(images, right):
            pairs.update((place_left[0], j) for j in place_right)
            pairs.update((i, place_right[0]) for i in place_left)
    return sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})


def _by_place(images: Sequence[_Image], members: list[int]) -> list[list[int]]:
    places: dict[tuple[str, str], list[int]] = {}
    for index in members:
        places.setdefault((images[index].dataset, images[index].part), []).append(index)
    return list(places.values())


def _judge(a: _Image, b: _Image, rule: str) -> _Verdict:
    """Return what it means that two images are one picture."""
    if a.part == _POOL and b.part == _POOL:
        where = "in one pool" if a.dataset == b.dataset else f"in two pools, this one and {b.dataset}"
        return _Verdict("note", a.dataset, rule, where)
    if _POOL in (a.part, b.part):
        pool, other = (a, b) if a.part == _POOL else (b, a)
        severity = _OF_POOL[other.part]
        return _Verdict(severity, other.dataset, rule, f"in {_named(other.part)} and in the pool {pool.dataset}")
    if a.dataset != b.dataset:
        return _Verdict("warning", a.dataset, rule, f"in two data sets, this one and {b.dataset}")
    if a.part != b.part:
        first, second = sorted((a.part, b.part), key=PARTS.index)
        # Where groups cross, which is a finding of its own, so do frames of a camera that stood still.
        severity = "warning" if a.group == b.group and rule == "near copy" else "error"
        return _Verdict(severity, a.dataset, rule, f"in two parts, {first} and {second}")
    if a.group == b.group:
        severity = "warning" if rule == "exact copy" else "note"
        return _Verdict(severity, a.dataset, rule, f"in one group in {_named(a.part)}")
    return _Verdict("warning", a.dataset, rule, f"in different groups in {_named(a.part)}")


def _named(part: str) -> str:
    return f"the {part} part" if part else "this data set (not split)"


def _connected(pairs: Sequence[tuple[int, int, float]]) -> Iterator[tuple[list[int], float]]:
    """Yield sets of pairs that share members: the members of each set, and its least value."""
    left, right, values = (np.array(column) for column in zip(*pairs, strict=True))
    members, nodes = np.unique([left, right], return_inverse=True)
    rows, columns = nodes.reshape(2, -1)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(members), len(members)))
    _, set_of = connected_components(graph, directed=False)
    least: dict[int, float] = {}
    for number, value in zip(set_of[rows].tolist(), values.tolist(), strict=True):
        least[number] = min(value, least.get(number, value))
    joined: dict[int, list[int]] = {}
    for member, number in zip(members.tolist(), set_of.tolist(), strict=True):
        joined.setdefault(number, []).append(member)
    yield from ((found, least[number]) for number, found in joined.items())
