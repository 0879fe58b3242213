"""``qgbench data``: each verb as a user types it."""

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.data.cards import load_card
from qgbench.data.links import Download
from qgbench.data.readers import open_source
from qgbench.data.splits import load_split
from tests.data.acquire.test_download import Owner, owner, quick
from tests.data.acquire.test_verify import near_copy, parts_of, write_set
from tests.data.distributions import build
from tests.data.test_readers import listening, write_tree

__all__ = ["owner", "quick"]  # fixtures

PARTS = ["labelled"] * 2 + ["unlabelled"] * 2 + ["val"] * 2 + ["test"] * 2
IDS = tuple(f"i{number:02d}" for number in range(20))


@pytest.fixture
def data_dir(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("QGBENCH_DATA", str(folder))
    monkeypatch.setenv("QGBENCH_CACHE", str(cache_dir))
    monkeypatch.setenv("COLUMNS", "200")
    return folder


def qgbench(*words: str) -> Result:
    result = CliRunner().invoke(app, ["data", *words])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def own(data_dir: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "raw", IDS)
    groups = tmp_path / "groups.csv"
    groups.write_text("stem,group\n" + "".join(f"{id},p{int(id[1:]) // 2}\n" for id in IDS))
    words = ("--images", str(tmp_path / "raw/images"), "--masks", str(tmp_path / "raw/masks"), "--groups", str(groups))
    result = qgbench("add", "mine", *words, "--domain", "skin", "--unit", "patient")
    assert result.stdout.strip() == str(data_dir / "mine")


def test_what_is_said_to_type_next_finds_what_was_added(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("QGBENCH_DATA")
    write_tree(tmp_path / "raw", IDS)
    words = ("--images", str(tmp_path / "raw/images"), "--masks", str(tmp_path / "raw/masks"))
    qgbench("add", "mine", *words, "--data-dir", str(tmp_path / "my data"))
    (said,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("next: ")]
    verify, show, run = (shlex.split(command) for command in said.removeprefix("next: ").split(", "))
    assert qgbench(*verify[2:]).exit_code == 0
    assert show[2:] == ["show", "mine", "--data-dir", str(tmp_path / "my data")]
    assert CliRunner().invoke(app, [*run[1:], "--dry-run"]).exit_code == 0


def test_add_list_verify_split_show_and_run_by_name(data_dir: Path, tmp_path: Path) -> None:
    own(data_dir, tmp_path)
    listed = qgbench("list").stdout
    line = next(line for line in listed.splitlines() if line.startswith("mine"))
    assert line.split()[:5] == ["mine", "labelled", "skin", "20", "ready"]
    assert qgbench("verify", "mine").exit_code == 0
    file = tmp_path / "split.csv"
    words = ("--shares", "60/20/20", "--seed", "3", "--labelled", "25%", "--draws", "2", "--output", str(file))
    shown = qgbench("split", "mine", *words).stdout
    table = pd.read_csv(file, keep_default_na=False)
    assert list(table.columns) == ["id", "group", "split", "labelled_0", "labelled_1"]
    assert table["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert [(table[column] == "yes").sum() for column in ("labelled_0", "labelled_1")] == [3, 3]
    assert "groups in several parts: 0" in shown
    again = qgbench("split", "mine", "--split-from", str(file)).stdout
    assert shown.splitlines()[-2] == again.splitlines()[-1]  # the fingerprint
    qgbench("show", "mine", "i03", "i05", "--output", str(tmp_path / "sheet.png"))
    assert Image.open(tmp_path / "sheet.png").size == (2 * 248 + 8, 272)
    with pytest.raises(UserError, match="unknown image 'i99'"):
        qgbench("show", "mine", "i99")
    spec = [
        "run",
        "--method",
        "fixmatch",
        "--dataset",
        "mine",
        "--labelled",
        "4",
        "--split-from",
        str(file),
        "--dry-run",
    ]
    regime = json.loads(CliRunner().invoke(app, spec).stdout)["spec"]["regime"]
    assert regime.startswith("n4@given-")


def test_a_folder_here_does_not_stand_in_for_what_was_added(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(data_dir, tmp_path)
    (tmp_path / "raw").rename(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    lines = {line.split()[0]: line.split() for line in qgbench("split", "mine").stdout.splitlines()[2:5]}
    assert sum(int(line[2]) for line in lines.values()) == 10, "patients, not images"
    result = qgbench("split", "./mine")
    assert result.stdout.splitlines()[2].split()[1:3] == ["8", "8"], "the folder knows no groups"
    run = ["run", "--method", "fixmatch", "--dataset", "mine", "--pool", "mine", "--dry-run"]
    monkeypatch.delenv("QGBENCH_DATA")
    refused = CliRunner().invoke(app, run).exception
    assert isinstance(refused, UserError)
    assert "type ./mine" in str(refused)


def test_groups_that_may_be_one_are_named_by_the_file_that_was_given(data_dir: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "raw", IDS)
    groups = tmp_path / "patients.csv"
    groups.write_text("stem,group\n" + "".join(f"{id},{'p' if int(id[1:]) % 2 else 'P'}\n" for id in IDS))
    words = ("--images", str(tmp_path / "raw/images"), "--masks", str(tmp_path / "raw/masks"), "--groups", str(groups))
    with listening() as said:
        qgbench("add", "mine", *words)
    (warning,) = said
    assert warning.startswith(f"{groups.resolve()}: ")
    assert "('P' and 'p')" in warning


def test_soft_masks_are_added_with_a_threshold(data_dir: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "raw", mask_suffix=".tif")
    for file in (tmp_path / "raw/masks").iterdir():
        Image.open(file).point(lambda value: value // 2 + 20).save(file)
    words = ("add", "soft", "--images", str(tmp_path / "raw/images"), "--masks", str(tmp_path / "raw/masks"))
    with pytest.raises(UserError, match="--threshold"):
        qgbench(*words)
    qgbench(*words, "--threshold", "127")
    assert open_source("soft", data_dir).mask("a").sum() == 16
    assert "values above 127 were taken" in qgbench("list", "soft").stdout


def test_prepare_from_a_folder_then_without_one(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path / "cache"))
    raw = build("ph2", tmp_path / "raw")
    first = qgbench("prepare", "ph2", "--source", str(raw), "--protocol", "smoke")
    assert first.stdout.strip() == str(data_dir / "ph2")
    entries = sorted(entry.name for entry in (tmp_path / "cache").iterdir() if entry.name.startswith("ph2-64-"))
    assert len(entries) == 1
    assert qgbench("prepare", "ph2", "--protocol", "smoke").exit_code == 0
    with pytest.raises(UserError, match="is there already"):
        qgbench("prepare", "ph2", "--source", str(raw))
    with pytest.raises(UserError, match="unknown dataset 'ph3'"):
        qgbench("prepare", "ph3", "--source", str(raw))


def test_verify_exits_with_1_on_an_error_and_writes_its_findings(data_dir: Path, tmp_path: Path) -> None:
    own(data_dir, tmp_path)
    Image.new("L", (31, 20)).save(data_dir / "mine/masks/i00.png")
    (data_dir / "mine/images/i01.png").write_bytes(b"no picture")
    result = qgbench("verify", "mine", "--output", str(tmp_path / "findings.json"))
    assert result.exit_code == 1
    assert "i01" in result.stdout
    assert "i01" in (tmp_path / "findings.json").read_text()


def test_fetch_downloads_goes_on_after_a_cut_and_brings_it_into_place(
    data_dir: Path, tmp_path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = build("kvasir_seg", tmp_path / "raw")
    archive = Path(shutil.make_archive(str(tmp_path / "kvasir-seg"), "zip", raw))
    owner.content = archive.read_bytes()
    link = Download(url=owner.url, file="kvasir-seg.zip", sha256=hashlib.sha256(owner.content).hexdigest())
    card = load_card("kvasir_seg").model_copy(update={"downloads": (link,)})
    monkeypatch.setattr("qgbench.data.cards.load_card", lambda name: card)
    owner.cuts = [1000]
    assert qgbench("fetch", "kvasir_seg").stdout.strip() == str(data_dir / "kvasir_seg")
    assert owner.requests[1]["Range"] == "bytes=1000-"
    found, expected = open_source(str(data_dir / "kvasir_seg")), open_source(str(raw / "Kvasir-SEG"))
    assert found.ids == expected.ids
    assert sorted(entry.name for entry in data_dir.iterdir() if not entry.name.endswith(".lock")) == ["kvasir_seg"]


def test_fetch_of_what_has_no_link_says_what_to_do(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"qgbench data prepare ph2 --source"):
        qgbench("fetch", "ph2")
    write_tree(data_dir / "kvasir_seg")
    with pytest.raises(UserError, match="is there already"):
        qgbench("fetch", "kvasir_seg")


def test_groups_that_hold_copies_together_make_a_data_set_without_leaks(data_dir: Path, tmp_path: Path) -> None:
    parts = parts_of(tree := write_set(tmp_path / "mine"))
    near_copy(tree, parts["train"][0], parts["test"][0])
    words = ("--images", str(tree / "images"), "--masks", str(tree / "masks"), "--groups", str(tree / "groups.csv"))
    qgbench("add", "mine", *words, "--domain", "skin", "--terms", "ours")
    file = tmp_path / "joined.csv"
    result = qgbench("verify", "mine", "--write-groups", str(file))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == f"{file}: 24 images in 11 groups; 12 before copies were joined"
    assert qgbench("add", "joined", "--from", "mine", "--groups", str(file)).stdout.strip() == str(data_dir / "joined")
    assert qgbench("verify", "joined", "--write-groups", str(file)).exit_code == 0
    one, other = open_source("mine"), open_source("joined")
    assert [one.image(id).tolist() for id in one.ids[:3]] == [other.image(id).tolist() for id in other.ids[:3]]
    assert (other.ids, len(set(one.groups)), len(set(other.groups))) == (one.ids, 12, 11)
    assert (other.card.domain, other.card.terms, other.card.title) == ("skin", "ours", "mine, other groups")
    assert qgbench("prepare", "mine", "--groups", str(file)).stdout.strip() == str(data_dir / "mine" / "groups.csv")
    assert open_source("mine").groups == other.groups
    assert load_split(open_source("mine")).equals(load_split(other)), "a new split follows"


def test_a_committed_split_keeps_its_groups(data_dir: Path, tmp_path: Path) -> None:
    write_tree(data_dir / "ph2", IDS)
    (file := tmp_path / "groups.csv").write_text("stem,group\n" + "".join(f"{id},one\n" for id in IDS))
    with pytest.raises(UserError, match="qgbench data add NEW --from ph2 --groups"):
        qgbench("prepare", "ph2", "--groups", str(file))
    assert not (data_dir / "ph2" / "groups.csv").exists()


def test_groups_that_do_not_fit_the_data_set_are_refused_and_nothing_is_left(data_dir: Path, tmp_path: Path) -> None:
    own(data_dir, tmp_path)
    (file := tmp_path / "other.csv").write_text("stem,group\ni00,p\n")
    with pytest.raises(UserError, match=rf"^{file}: 19 images \(i01, .* not listed"):
        qgbench("add", "new", "--from", "mine", "--groups", str(file))
    assert sorted(entry.name for entry in data_dir.iterdir() if not entry.name.endswith(".lock")) == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "p"], "Give --images DIR, or --from NAME with --groups"),
        (["add", "p", "--from", "mine"], "give it with --groups, alone"),
        (["add", "p", "--from", "mine", "--groups", "g.csv", "--images", "."], "give it with --groups, alone"),
        (["add", "p", "--from", "mine", "--groups", "nowhere.csv"], r"there is no file nowhere\.csv"),
        (["add", "p", "--from", "phantom", "--groups", "nowhere.csv"], "images of 'phantom' are drawn"),
        (["add", "ph2", "--from", "mine", "--groups", "nowhere.csv"], "'ph2' is a data set that qgbench knows"),
        (["verify", "mine", "phantom", "--write-groups", "g.csv"], "for one labelled data set, and 2 are"),
    ],
)
def test_mistakes_about_groups_get_one_message(data_dir: Path, tmp_path: Path, words: list[str], message: str) -> None:
    own(data_dir, tmp_path)
    with pytest.raises(UserError, match=message):
        qgbench(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split", "phantom", "--split", "video"], "expected grouped or image"),
        (["split", "phantom", "--shares", "40/60"], "such as 40/10/50"),
        (["split", "phantom", "--shares", "40/10/60"], "add up to 1"),
        (["split", "phantom", "--labelled", "0"], "its budget is 0; give at least 1"),
        (["split", "phantom", "--labelled", "97"], "expected 1 to 96"),
        (["add", "ph2", "--images", "."], "is a data set that qgbench knows"),
        (["add", "p", "--images", ".", "--groups", "g.csv"], "a pool is not split"),
        (["add", "p", "--images", "nowhere"], "nowhere"),
        (["add", "p", "--images", ".", "--threshold", "127"], "a pool has none"),
        (["show", "nothing"], "unknown dataset 'nothing'"),
        (["verify", "phantom", "nothing"], "unknown dataset 'nothing'"),
        (["verify", "./nothing"], "there is no folder ./nothing"),
        (["verify", "ph2"], "there is no folder .*ph2"),
    ],
)
def test_mistakes_get_one_message(data_dir: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        qgbench(*words)


def test_a_split_that_cannot_be_read_is_found_out_before_images_are(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path / "cache"))
    own(data_dir, tmp_path)
    (tmp_path / "split.csv").write_text("id,split\n" + "".join(f"i{n:02d},{p}\n" for n, p in enumerate(PARTS)))
    for words, message in (
        (["--split-from", "nowhere.csv"], "there is no file or folder nowhere.csv"),
        (["--split-from", str(tmp_path / "split.csv"), "--labelled", "2"], "names its labelled images"),
        (["--labelled", "0"], "its budget is 0; give at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            qgbench("split", "mine", *words)
    assert not list((tmp_path / "cache").glob("mine-*"))


def test_list_without_a_data_folder_says_how_to_get_each_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    lines = {line.split()[0]: line for line in qgbench("list").stdout.splitlines() if line.strip()}
    assert "ready" in lines["phantom"]
    assert lines["kvasir_seg"].split()[3:6] == ["1,000", "absent", "fetch"]
    assert "absent  by hand" in lines["ph2"]
    assert "qgbench data fetch kvasir_seg" in qgbench("list", "kvasir_seg").stdout
    assert load_card("ph2").citation.split()[0] in qgbench("list", "ph2").stdout
    with pytest.raises(UserError, match="unknown dataset 'ph3'"):
        qgbench("list", "ph3")


def test_the_committed_split_of_the_phantom(data_dir: Path) -> None:
    text = qgbench("split", "phantom", "--labelled", "12", "--draws", "1").stdout
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert [rows[part][1:3] for part in ("train", "val", "test")] == [["96", "48"], ["24", "12"], ["120", "60"]]
    assert rows["labelled, draw 0"][3:5] == ["12", "12"]


def test_a_split_counts_volumes_slices_and_patients_and_a_budget_what_runs_count(data_dir: Path) -> None:
    text = qgbench("split", "phantom3d", "--labelled", "2", "--draws", "1").stdout
    assert "phantom3d, 24 volumes, 192 slices" in text
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert rows["part"][1:4] == ["volumes", "slices", "patients"]
    assert rows["test"][1:4] == ["12", "96", "6"]
    assert rows["labelled, draw 0"][3:6] == ["4", "32", "2"]
    assert "patients in several parts: 0" in text
    with pytest.raises(UserError, match="'phantom' is pictures, whose budget counts images; write 'n3@grouped'"):
        qgbench("split", "phantom", "--labelled", "3patients")
