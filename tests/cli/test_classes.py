"""A folder of three classes with any names, from its masks to a table, by the README's commands alone."""

import secrets
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qgbench.cli.main import app
from qgbench.run.record import find_records, read_images, read_record

pytestmark = pytest.mark.slow
VALUES = (7, 90, 201)


def draw(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Three disks an image, a grey level and a value of its own each."""
    (folder / "pictures").mkdir()
    (folder / "outlines").mkdir()
    rows, columns = np.mgrid[:48, :64]
    for number in range(count):
        image, mask = rng.integers(0, 40, (48, 64), np.uint8), np.zeros((48, 64), np.uint8)
        for value, grey, column in zip(VALUES, (90, 150, 230), (12, 32, 52), strict=True):
            inside = (rows - rng.integers(18, 30)) ** 2 + (columns - column) ** 2 < rng.integers(36, 80)
            image[inside], mask[inside] = grey, value
        Image.fromarray(image).save(folder / f"pictures/case{number:02}.png")
        Image.fromarray(mask).save(folder / f"outlines/case{number:02}.png")


def command(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_three_classes_come_from_a_folder_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{word}_{secrets.token_hex(3)}" for word in ("aorta", "bone", "cyst")]
    draw(tmp_path, 24, np.random.default_rng(0))
    classes = ",".join(f"{name}={value}" for name, value in zip(names, VALUES, strict=True))
    given = "--images", "pictures", "--masks", "outlines", "--classes", classes
    command("data", "add", "mine", *given, "--data-dir", "data")
    for addon in ((), ("--qg", "--set", "quality.steps=4")):
        run = "run", "--method", "fixmatch", *addon, "--dataset", "mine", "--labelled", "5", "--data-dir", "data"
        command(*run, "--protocol", "smoke", "--steps", "3")
    records = [read_record(path) for path in find_records(tmp_path / "runs")]
    assert [record.classes for record in records] == [tuple(names)] * 2
    for record, path in zip(records, find_records(tmp_path / "runs"), strict=True):
        rows = read_images(path.with_name("images.csv"))
        assert list(rows["class"]) == names * record.summary.images
        means = rows.groupby("class", sort=False)["dice"].mean()
        assert {name: record.summary.by_class[name]["dice"] for name in names} == pytest.approx(dict(means))
        assert record.summary.means["dice"] == pytest.approx(rows["dice"].mean())
    command("report", "runs", "--output", "report")
    report = (tmp_path / "report/report.md").read_text()
    plain = report.replace("\\_", "_")
    assert all(name in plain for name in names)
    assert "mean" in next(line for line in plain.splitlines() if names[0] in line and names[1] in line)
    assert command("verify", "runs")
