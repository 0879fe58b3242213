"""A folder of several classes with any names, from its masks to a table, by the commands of two pages alone."""

import os
import random
import re
import secrets
import shlex
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qgbench.cli.main import app
from qgbench.run.record import find_records, read_images, read_record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_runs")]
DOCS = Path(__file__).parents[2] / "docs"
IMAGES, TABLES = DOCS / "start" / "your-images.md", DOCS / "how-to" / "report.md"
QUICK = ["--protocol", "smoke", "--steps", "3"]
QUICK_G = ["--set", "quality.steps=4", "--set", "quality.weak_epochs=[1,2]", "--set", "quality.weak_epoch_min_steps=2"]
PATIENTS, OF_ONE = 14, 2


@dataclass(frozen=True)
class Names:
    """What somebody may call things, drawn anew at every run of the test."""

    dataset: str
    folders: dict[str, str]  # by the pages' words
    stems: list[str]
    patients: list[str]
    values: dict[str, int]  # of the classes


@pytest.fixture(params=[3, 12])
def names(request: pytest.FixtureRequest) -> Names:
    """Random names; their seed is printed, and QGBENCH_TEST_SEED repeats it."""
    seed = int(os.environ.get("QGBENCH_TEST_SEED", secrets.randbits(32)))
    print(f"QGBENCH_TEST_SEED={seed}")
    rng = random.Random(seed)

    def word(letters: str) -> str:
        return rng.choice(string.ascii_letters) + "".join(rng.choices(letters, k=rng.randint(3, 9))).rstrip()

    def words(count: int, letters: str) -> list[str]:
        """No two are one on a disk that does not tell large letters from small ones."""
        found: dict[str, str] = {}
        while len(found) < count:
            one = word(letters)
            found.setdefault(one.casefold(), one)
        return list(found.values())

    plain = string.ascii_letters + string.digits + "_-"
    spoken = plain + " öéñß"
    told = words(4, spoken)
    folders = dict(zip(("photos", "outlines", "patients.csv", "~/data"), told, strict=True))
    folders["patients.csv"] += ".csv"
    classes = dict(zip(words(request.param, plain + "."), rng.sample(range(1, 256), request.param), strict=True))
    # Numbered, so that no stem is another's with "_mask" or the like behind it.
    stems = [f"{number:02}{one}" for number, one in enumerate(words(PATIENTS * OF_ONE, spoken))]
    return Names(
        f"d{word(string.ascii_lowercase + string.digits).lower()}", folders, stems, words(PATIENTS, spoken), classes
    )


def draw(folder: Path, names: Names, rng: np.random.Generator) -> None:
    """A disk of each class in an image, with a grey level and a value of its own; two images of each patient."""
    images, masks = folder / names.folders["photos"], folder / names.folders["outlines"]
    for made in (images, masks):
        made.mkdir()
    rows, columns = np.mgrid[:48, :64]
    table = ["stem,group"]
    for number, stem in enumerate(names.stems):
        image, mask = rng.integers(0, 40, (48, 64), np.uint8), np.zeros((48, 64), np.uint8)
        lines = -(-len(names.values) // 4)
        for place, value in enumerate(names.values.values()):
            line, column = divmod(place, 4)
            middle = (line + 0.5) * 48 / lines + rng.integers(-2, 3)
            inside = (rows - middle) ** 2 + (columns - 8 - 16 * column) ** 2 < rng.integers(25, 49)
            image[inside], mask[inside] = 80 + 175 * place // len(names.values), value
        Image.fromarray(image).save(images / f"{stem}.png")
        Image.fromarray(mask).save(masks / f"{stem}{'_mask' if number % 2 else ''}.png")
        table.append(f"{stem},{names.patients[number // OF_ONE]}")
    (folder / names.folders["patients.csv"]).write_text("\n".join(table) + "\n", encoding="utf-8")


def typed(page: Path, names: Names) -> Iterator[list[str]]:
    """The commands of the first block of a page, with these names in the place of its own."""
    block = page.read_text().split("```\n")[1]
    own = {"mine": names.dataset, "28": "5", "results/v1/small/ph2": "runs", "results": "runs", **names.folders}
    for line in re.findall(r"^qgbench (.+)$", block, re.MULTILINE):
        yield [own.get(word, word) for word in shlex.split(line, comments=True)]


def command(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, (words, result.output)
    return result.stdout


def test_classes_come_from_a_folder_to_a_table(names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path, names, np.random.default_rng(0))
    add, run, guided, report = typed(IMAGES, names)
    assert '`--classes "edema=1,tumour=2"`' in IMAGES.read_text()
    command(*add, "--classes", ",".join(f"{name}={value}" for name, value in names.values.items()))
    seeds = ("0", "1") if len(names.values) == 3 else ("0",)  # twelve: the same once more, of other names and widths
    for seed in seeds:
        command(*run, *QUICK, "--seed", seed)
        command(*guided, *QUICK, *QUICK_G, "--seed", seed)
    command(*report)
    assert_records(tmp_path / "runs", names, 2 * len(seeds))
    plain = (tmp_path / "report/report.md").read_text().replace("\\", "")
    assert all(name in plain for name in names.values)
    heads = [line for line in plain.splitlines() if line.startswith("| Method | Add-on | Seeds | Dice % ")]
    assert all(f"Dice % {name} |" in "".join(heads) for name in names.values)
    assert heads[-1].endswith(f"Dice % {list(names.values)[-1]} | Dice % mean |") or "| HD95 px" in heads[-1], heads
    if len(seeds) > 1:
        assert_tables(plain, tmp_path, names)


def assert_records(folder: Path, names: Names, count: int) -> None:
    """Every record's means are those of its rows, class by class."""
    paths = list(find_records(folder))
    assert len(paths) == count
    for path in paths:
        record, rows = read_record(path), read_images(path.with_name("images.csv"))
        assert record.classes == tuple(names.values)
        assert list(rows["class"]) == list(names.values) * record.summary.images
        assert set(rows["group"]) <= set(names.patients)
        means = rows.groupby("class", sort=False)["dice"].mean()
        assert {name: record.summary.by_class[name]["dice"] for name in names.values} == pytest.approx(dict(means))
        assert record.summary.means["dice"] == pytest.approx(rows["dice"].mean())


def assert_tables(report: str, folder: Path, names: Names) -> None:
    """The commands of the page about reports, and the report of one class that the text below them names."""
    html, power, _, verify, _ = typed(TABLES, names)
    command(*html)
    page = (folder / "report/page/index.html").read_text()
    assert all(name in page for name in names.values)
    assert (folder / "report/report.md").read_text().replace("\\", "") == report
    needed = command(*power)
    assert "2 seeds" in needed
    assert "mean over classes" in " ".join(needed.split())
    assert command(*verify)
    one = list(names.values)[1]
    assert "`--metric dice:liver` makes a report of one class" in TABLES.read_text()
    command("report", "runs", "--metric", f"dice:{one}", "--output", "of one")
    assert f"Dice of {one}" in (folder / "of one/report.md").read_text().replace("\\", "")
