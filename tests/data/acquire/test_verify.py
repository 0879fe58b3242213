import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from qgbench.base.errors import NotFoundError, QGBenchError
from qgbench.data.acquire import verify as module
from qgbench.data.acquire.verify import Finding, joined_groups, print_findings, verify, write_findings
from qgbench.data.cache import prepare
from qgbench.data.readers import open_source
from qgbench.data.splits import load_split, make_split
from tests.data.test_duplicates import encoded, picture, smaller

IDS = [f"{n:02}" for n in range(24)]
REAL = ["ph2", "scd", "cvc_clinicdb", "cvc_colondb", "isic2017", "isic_pool", "kvasir_pool"]
CARD = """
name = "{name}"
title = "-"
kind = "labelled"
domain = "-"
modality = "-"
terms = "-"
citation = "-"
homepage = "-"
groups = "-"
"""


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:80, :96]
    return np.where(np.hypot(y - 40, x - 48) < radius, 255, 0).astype(np.uint8)


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_set(folder: Path, first_seed: int = 0, ids: list[str] = IDS) -> Path:
    """A labelled data set of different pictures, two to a group."""
    for n, id in enumerate(ids):
        save(folder / f"images/{id}.png", picture(first_seed + n, (80, 96)))
        save(folder / f"masks/{id}.png", disc(12 + 2 * (n % 12)))
    rows = "".join(f"{id},g{n // 2}\n" for n, id in enumerate(ids))
    (folder / "groups.csv").write_text(f"stem,group\n{rows}")
    return folder


def write_pool(folder: Path, first_seed: int, count: int = 3) -> Path:
    for n in range(count):
        save(folder / f"unlabelled/p{n}.png", picture(first_seed + n, (80, 96)))
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_set(tmp_path / "own")


def parts_of(tree: Path) -> dict[str, list[str]]:
    """Images by part, of the split that a run on this data set uses."""
    source = open_source(str(tree))
    split = load_split(source, prepared=prepare(source, 16))
    return {str(part): sorted(rows["id"]) for part, rows in split.groupby("split")}


def copy(tree: Path, one: str, to: str) -> None:
    shutil.copy(tree / f"images/{one}.png", tree / f"images/{to}.png")


def near_copy(tree: Path, one: str, to: str) -> None:
    """Save a picture anew: at 70 % of its size, as JPEG of quality 60, and mirrored back at its size."""
    original = Image.open(tree / f"images/{one}.png")
    again = encoded(smaller(original)).resize(original.size).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    again.save(tree / f"images/{to}.png")


def brief(findings: list[Finding]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(finding.severity, finding.dataset, finding.rule, finding.images) for finding in findings]


# One data set


def test_nothing_is_wrong_with_a_whole_data_set(tree: Path) -> None:
    assert verify([str(tree)]) == []


def test_what_cannot_be_opened_is_named_and_the_others_are_checked(tree: Path, tmp_path: Path) -> None:
    save(tree / "masks/03.png", disc(0))
    (broken := tmp_path / "broken").mkdir()
    assert brief(verify([str(broken), str(tree)])) == [
        ("error", str(broken), "cannot be opened", ()),
        ("warning", "own", "empty mask", ("03",)),
    ]


def test_what_is_not_there_is_a_mistake_of_who_named_it(tree: Path) -> None:
    for name, hint in (("ph3", "ph2"), (str(tree / "gone"), "no folder")):
        with pytest.raises(NotFoundError, match=hint):
            verify([name, str(tree)])


def test_groups_of_unknown_images_are_an_error(tree: Path) -> None:
    with (tree / "groups.csv").open("a") as file:
        file.write("99,g0\n")
    (finding,) = verify([str(tree)])
    assert (finding.severity, finding.rule) == ("error", "cannot be opened")
    assert "99" in finding.text


def test_a_second_copy_of_a_data_set_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, again := tmp_path / "elsewhere/own")
    assert brief(verify([str(tree), str(tree), str(again)])) == [("error", str(again), "cannot be opened", ())]


@pytest.mark.parametrize(("images", "severity", "rule"), [(25, "error", "missing"), (20, "warning", "extra")])
def test_images_are_counted(tree: Path, images: int, severity: str, rule: str) -> None:
    (tree / "card.toml").write_text(CARD.format(name="mine") + f"images = {images}\n")
    (finding,) = verify([str(tree)])
    assert brief([finding]) == [(severity, "mine", f"{rule} images", ())]
    assert "24 images" in finding.text
    assert str(images) in finding.text


def test_missing_and_extra_images_of_a_shipped_data_set_are_named(tmp_path: Path) -> None:
    ids = load_split("ph2")["id"].tolist()
    for folder, ids_there in (("less", ids[2:]), ("more", [*ids, "IMD999"])):
        for id in ids_there:
            save(tmp_path / folder / f"ph2/images/{id}.png", np.zeros((4, 4, 3), np.uint8))
            save(tmp_path / folder / f"ph2/masks/{id}.png", np.eye(4, dtype=np.uint8))
    less = [finding for finding in verify(["ph2"], tmp_path / "less") if finding.severity == "error"]
    assert brief(less) == [("error", "ph2", "missing images", tuple(sorted(ids[:2]))), ("error", "ph2", "split", ())]
    more = [finding for finding in verify(["ph2"], tmp_path / "more") if "images" in finding.rule]
    assert brief(more) == [("warning", "ph2", "extra images", ("IMD999",))]


def test_all_unreadable_images_are_named(tree: Path) -> None:
    for id in ("05", "11", "23"):
        file = tree / f"images/{id}.png"
        file.write_bytes(file.read_bytes()[:300])
    findings = verify([str(tree)])
    assert brief(findings) == [("error", "own", "unreadable image", (id,)) for id in ("05", "11", "23")]
    assert "05.png" in findings[0].text


def test_faults_of_masks_are_told_apart(tree: Path) -> None:
    (tree / "masks/01.png").write_bytes(b"no picture")
    save(tree / "masks/02.png", disc(9)[:-1])
    save(tree / "masks/03.png", disc(9) // 3 + disc(4) // 3)
    assert brief(verify([str(tree)])) == [
        ("error", "own", "unreadable mask", ("01",)),
        ("error", "own", "mask size", ("02",)),
        ("error", "own", "grey mask", ("03",)),
    ]


def test_strange_masks_are_warned_of(tree: Path) -> None:
    nearly = np.full((80, 96), 255, np.uint8)
    nearly[:, -2:] = nearly[:12, 0] = nearly[-1, :20] = 0  # 97.5 % of the image, 67 % of its border
    strange = {
        "01": disc(0),
        "02": disc(100),
        "03": 255 - disc(5),
        "04": 255 - disc(0.5),  # an inverted mask of one pixel
        "05": nearly,
        "06": disc(47),  # a lesion that reaches the border
    }
    for id, mask in strange.items():
        save(tree / f"masks/{id}.png", mask)
    assert brief(verify([str(tree)])) == [
        ("warning", "own", "empty mask", ("01",)),
        ("warning", "own", "full mask", ("02",)),
        ("warning", "own", "inverted mask", ("03", "04")),
    ]


def test_nearly_full_masks_are_noted(tree: Path) -> None:
    mask = np.full((80, 96), 255, np.uint8)
    mask[0, :60] = 0  # 99 % of the image, 83 % of its border
    save(tree / "masks/07.png", mask)
    assert brief(verify([str(tree)])) == [("note", "own", "nearly full mask", ("07",))]


def test_known_defects_are_noted(tree: Path) -> None:
    (tree / "card.toml").write_text(CARD.format(name="mine") + 'defects = ["Some frames are dark."]\n')
    assert verify([str(tree)]) == [Finding("note", "mine", "known defect", "Some frames are dark.")]


# Splits


def test_a_data_set_that_is_too_small_to_be_split_is_an_error(tmp_path: Path) -> None:
    tree = write_set(tmp_path / "own", ids=IDS[:4])
    (finding,) = verify([str(tree)])
    assert brief([finding]) == [("error", "own", "split", ())]
    assert "4 images" in finding.text


def test_an_image_split_is_warned_of_and_says_how_many_groups_cross(tree: Path) -> None:
    split = make_split(
        (source := open_source(str(tree))).ids,
        source.groups,
        "image",
        areas=[float(source.mask(id).mean()) for id in IDS],
    )
    crossing = int((split.groupby("group")["split"].nunique() > 1).sum())
    assert crossing > 0
    (finding,) = verify([str(tree)], split="image")
    assert brief([finding]) == [("warning", "own", "groups cross", ())]
    assert f"{crossing} of 12 groups" in finding.text


def test_a_group_that_crosses_a_grouped_split_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(IDS, [f"g{n // 2}" for n in range(24)], "grouped")
    split["split"] = ["train"] * 11 + ["test"] * 9 + ["val"] * 4  # g5 is images 10 and 11
    monkeypatch.setattr(module, "split_source", lambda *args, **options: split)
    assert brief(verify([str(tree)])) == [("error", "own", "groups cross", ("10", "11"))]


# Copies


def test_copies_of_one_group_are_a_warning(tree: Path) -> None:
    copy(tree, "04", "05")
    (finding,) = verify([str(tree)])
    assert brief([finding]) == [("warning", "own", "exact copy", ("04", "05"))]
    assert "one group" in finding.text


def test_near_copies_of_one_group_are_noted(tree: Path) -> None:
    near_copy(tree, "04", "05")
    assert brief(verify([str(tree)])) == [("note", "own", "near copy", ("04", "05"))]


@pytest.mark.parametrize(("make", "rule"), [(copy, "exact copy"), (near_copy, "near copy")])
def test_copies_in_one_part_but_two_groups_are_a_warning(tree: Path, make, rule: str) -> None:  # type: ignore[no-untyped-def]
    one, other = parts_of(tree)["train"][0], parts_of(tree)["train"][-1]
    make(tree, one, other)
    (finding,) = verify([str(tree)])
    assert brief([finding]) == [("warning", "own", rule, (one, other))]
    assert "different groups" in finding.text


@pytest.mark.parametrize(("make", "rule"), [(copy, "exact copy"), (near_copy, "near copy")])
@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("train", "val"), ("val", "test")])
def test_copies_in_two_parts_are_an_error(tree: Path, make, rule: str, first: str, second: str) -> None:  # type: ignore[no-untyped-def]
    one, other = parts_of(tree)[first][0], parts_of(tree)[second][0]
    make(tree, one, other)
    (finding,) = verify([str(tree)])
    assert brief([finding]) == [("error", "own", rule, tuple(sorted([one, other])))]
    assert f"{first} and {second}" in finding.text


def test_a_picture_in_three_parts_is_named_for_each_two_of_them(tree: Path) -> None:
    parts = parts_of(tree)
    train, val, test = parts["train"][:2], parts["val"][0], parts["test"][0]
    for id in (train[1], val, test):
        copy(tree, train[0], id)
    findings = {(f.severity, f.text.split(", ", 1)[1], f.images) for f in verify([str(tree)])}
    assert findings == {
        ("error", "in two parts, train and val", tuple(sorted([*train, val]))),
        ("error", "in two parts, train and test", tuple(sorted([*train, test]))),
        ("error", "in two parts, val and test", tuple(sorted([val, test]))),
        ("warning", "in one group in the train part", tuple(train)),
    }


def test_all_copies_of_a_picture_are_named_beside_a_near_copy(tree: Path) -> None:
    train, test = parts_of(tree)["train"], parts_of(tree)["test"][-2:]
    copy(tree, train[0], train[1])
    near_copy(tree, train[0], test[0])
    copy(tree, test[0], test[1])
    errors = [finding for finding in verify([str(tree)]) if finding.severity == "error"]
    assert brief(errors) == [("error", "own", "near copy", tuple(sorted([*train[:2], *test])))]


def test_frames_of_one_group_that_an_image_split_parts_are_warned_of(tree: Path) -> None:
    split = make_split(
        IDS,
        [f"g{n // 2}" for n in range(24)],
        "image",
        areas=[float((disc(12 + 2 * (n % 12)) > 0).mean()) for n in range(24)],
    )
    parted = split.groupby("group")["split"].nunique()
    one, other = split.loc[split["group"] == parted.index[parted > 1][0], "id"]
    image = np.asarray(Image.open(tree / f"images/{one}.png")).copy()
    image[0, 0] ^= 1
    save(tree / f"images/{other}.png", image)
    assert ("warning", "own", "near copy", (one, other)) in brief(verify([str(tree)], split="image"))
    copy(tree, one, other)
    assert ("error", "own", "exact copy", (one, other)) in brief(verify([str(tree)], split="image"))


def test_copies_in_two_data_sets_are_a_warning(tree: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", 100)
    shutil.copy(tree / "images/03.png", other / "images/20.png")
    assert brief(verify([str(tree), str(other)])) == [("warning", "own", "exact copy", ("03", "other/20"))]


@pytest.mark.parametrize(("part", "severity"), [("test", "error"), ("val", "warning"), ("train", "note")])
def test_a_pool_that_repeats_a_labelled_image(tree: Path, tmp_path: Path, part: str, severity: str) -> None:
    pool = write_pool(tmp_path / "pool", 200)
    id = parts_of(tree)[part][1]
    encoded(Image.open(tree / f"images/{id}.png")).save(pool / "unlabelled/p1.png")
    for order in ([tree, pool], [pool, tree]):
        (finding,) = verify([str(folder) for folder in order])
        assert (finding.severity, finding.dataset, finding.rule) == (severity, "own", "near copy")
        assert set(finding.images) == {id, "pool/p1"}


def test_unlabelled_images_of_a_data_set_are_a_pool(tree: Path) -> None:
    write_pool(tree, 200)
    id = parts_of(tree)["test"][0]
    shutil.copy(tree / f"images/{id}.png", tree / "unlabelled/p2.png")
    assert brief(verify([str(tree)])) == [("error", "own", "exact copy", (id, "own_unlabelled/p2"))]


def test_pools_that_repeat_themselves_or_each_other_are_noted(tmp_path: Path) -> None:
    first, second = write_pool(tmp_path / "first", 200, 4), write_pool(tmp_path / "second", 300)
    shutil.copy(first / "unlabelled/p0.png", first / "unlabelled/p3.png")
    shutil.copy(first / "unlabelled/p1.png", second / "unlabelled/p0.png")
    assert brief(verify([str(first), str(second)])) == [
        ("note", "first", "exact copy", ("p0", "p3")),
        ("note", "first", "exact copy", ("p1", "second/p0")),
    ]


def test_copies_are_listed_by_data_set_then_by_rule(tree: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", 100)
    for folder in (tree, other):
        parts = parts_of(folder)
        for part in ("test", "train"):
            copy(folder, *parts[part][:2])
            near_copy(folder, *parts[part][2:4])
    findings = verify([str(other), str(tree)])
    assert [(finding.dataset, finding.rule) for finding in findings] == [
        *[("other", "exact copy")] * 2,
        *[("own", "exact copy")] * 2,
        *[("other", "near copy")] * 2,
        *[("own", "near copy")] * 2,
    ]


def test_many_equal_pictures_are_one_finding(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 0, 0)
    for n in range(1500):
        save(pool / f"unlabelled/{n:04}.bmp", np.zeros((2, 2, 3), np.uint8))
    (finding,) = verify([str(pool)])
    assert len(finding.images) == 1500


# Groups


def test_groups_of_which_copies_were_found_are_joined_over_any_number_of_steps(tree: Path, tmp_path: Path) -> None:
    near_copy(tree, "00", "05")  # groups g0, g2
    copy(tree, "04", "20")  # g2, g10
    copy(tree, "14", "22")  # g7, g11
    other = write_set(tmp_path / "other", 100)
    shutil.copy(tree / "images/08.png", other / "images/08.png")  # of another data set
    expected = {"g2": "g0", "g10": "g0", "g7": "g11"}
    source = open_source(str(tree))
    joined = joined_groups(source, verify([str(tree), str(other)]))
    assert joined == {id: expected.get(group, group) for id, group in zip(source.ids, source.groups, strict=True)}


def test_images_that_a_pool_repeats_keep_their_groups(tree: Path, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 200)
    for id, to in (("00", "p0"), ("06", "p1")):
        shutil.copy(tree / f"images/{id}.png", pool / f"unlabelled/{to}.png")
    source = open_source(str(tree))
    assert list(joined_groups(source, verify([str(tree), str(pool)])).values()) == source.groups


# Reports


def test_the_report_names_every_image(tmp_path: Path) -> None:
    findings = [Finding("error", "a", "grey mask", "ein Maß", ("x", "y")), Finding("note", "b", "known defect", "dark")]
    write_findings(findings, tmp_path / "deep/report.json")
    report = json.loads((tmp_path / "deep/report.json").read_text(encoding="utf-8"))
    assert (report["errors"], report["warnings"], report["notes"]) == (1, 0, 1)
    read = [Finding(**{**each, "images": tuple(each["images"])}) for each in report["findings"]]
    assert read == findings


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QGBenchError, match="cannot write"):
        write_findings([], tmp_path / "file/report.json")


def printed(findings: list[Finding]) -> str:
    console = Console(width=160, record=True, quiet=False, file=Path("/dev/null").open("w"))  # noqa: SIM115
    print_findings(findings, console)
    return console.export_text()


def test_the_table_says_when_nothing_was_found() -> None:
    assert printed([]) == "errors: 0, warnings: 0, notes: 0\n"


def test_the_table_shows_what_was_found() -> None:
    many = [Finding("warning", "[b]set", "exact copy", f"text {n}", (f"one{n}", f"two{n}")) for n in range(30)]
    text = printed([Finding("error", "s", "split", "wrong", tuple(f"i{n}" for n in range(20))), *many])
    assert "i11, and 8 more" in text
    assert "one19, two19" in text
    assert "one20" not in text
    assert "[b]set" in text
    assert "and 10 more" in text
    assert text.endswith("errors: 1, warnings: 30, notes: 0\n")


def test_progress_is_shown_for_each_data_set(tree: Path, tmp_path: Path) -> None:
    shown: list[tuple[str, int]] = []

    def track(iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
        shown.append((description, total))
        yield from iterable

    verify([str(tree), str(write_pool(tmp_path / "pool", 200))], track=track)
    assert shown == [("Verifying own", 24), ("Verifying pool", 3)]


# The real images


@pytest.mark.real
def test_the_real_data_sets_have_no_error_and_known_copies_only() -> None:
    findings = verify(REAL)
    assert [finding for finding in findings if finding.severity == "error"] == []
    warnings = [finding for finding in findings if finding.severity == "warning"]
    assert {(finding.dataset, finding.rule) for finding in warnings} == {("cvc_colondb", "exact copy")}
    assert sum(len(finding.images) - 1 for finding in warnings) == 34
    noted = {finding.images for finding in findings if finding.rule == "near copy" and "pool" in finding.dataset}
    assert noted == {("ISIC_0012290", "ISIC_0013594"), ("cju5fydrud94708507vo6oy21", "cju7avvi51iox0817ym55y6tt")}


@pytest.mark.real
def test_colondb_with_a_frame_planted_in_another_part_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(open_source("cvc_colondb").files("001")[0].parents[1], tree := tmp_path / "cvc_colondb")
    for file in [tree, *tree.rglob("*")]:
        file.chmod(0o755)
    split = load_split("cvc_colondb").set_index("id")["split"]
    train, test = split.index[split == "train"], split.index[split == "test"]
    shutil.copy(tree / f"images/{train[0]}.jpg", tree / f"images/{test[0]}.jpg")
    Image.open(tree / f"images/{train[5]}.jpg").save(tree / f"images/{test[5]}.jpg", quality=60)
    errors = [finding for finding in verify([str(tree)]) if finding.severity == "error"]
    assert {
        (finding.rule, train[n] in finding.images, test[n] in finding.images)
        for n, finding in zip((0, 5), errors, strict=True)
    } == {
        ("exact copy", True, True),
        ("near copy", True, True),
    }
