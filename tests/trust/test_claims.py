from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.trust.claims import read_claims

ROOT = Path(__file__).parents[2]
HEAD = 'source = "A paper"\nreference = "arXiv 2606.01753"\n'
CLAIM = {
    "table": '"Table 2"',
    "about": '"segmentation"',
    "dataset": '"ph2"',
    "method": '"fixmatch"',
    "addon": '"qw"',
    "metric": '"dice"',
    "least": "0.913",
    "most": "0.913",
    "unit": '"share"',
    "note": '"three seeds"',
    "differs": '"all labels; here 28"',
}


def write(folder: Path, head: str = HEAD, name: str = "a.toml", **changes: str | None) -> Path:
    fields = {key: value for key, value in (CLAIM | changes).items() if value is not None}
    text = head + "\n[[claim]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())
    (folder / name).write_text(text)
    return folder


def test_what_is_claimed_in_this_repository_can_be_read() -> None:
    claims = read_claims(ROOT / "results/claims")
    found = {(claim.reference, claim.about, claim.metric): claim.text for claim in claims}
    assert found[("arXiv 2606.01753", "predictor", "pearson")] == "> 0.92"
    assert found[("arXiv 2606.01753", "predictor", "mae")] == "0.043 to 0.088"
    assert all("here: " in claim.differs for claim in claims)  # each has two sides


def test_a_claim_is_read_whole_and_files_come_by_name(tmp_path: Path) -> None:
    write(tmp_path, name="b.toml", dataset='"scd"')
    (claim, other) = read_claims(write(tmp_path))
    assert (claim.source, claim.reference, claim.table) == ("A paper", "arXiv 2606.01753", "Table 2")
    assert (claim.dataset, claim.method, claim.addon, claim.metric) == ("ph2", "fixmatch", "qw", "dice")
    assert (claim.least, claim.most, claim.unit, claim.note) == (0.913, 0.913, "share", "three seeds")
    assert claim.differs == "all labels; here 28"
    assert other.dataset == "scd"
    assert read_claims(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [("0.9", "0.9", "0.9"), ("0.9", None, "> 0.9"), (None, "0.1", "< 0.1"), ("0.043", "0.088", "0.043 to 0.088")],
)
def test_values_open_and_closed(tmp_path: Path, least: str | None, most: str | None, text: str) -> None:
    (claim,) = read_claims(write(tmp_path, least=least, most=most))
    assert claim.text == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"least": "91.3", "most": "91.3"}, "between 0 and 1"),
        ({"least": None, "most": None}, "give at least one"),
        ({"least": "0.9", "most": "0.8"}, "least not above most"),
        ({"least": "nan"}, "least"),
        ({"unit": '"points"'}, "unit"),
        ({"about": '"predictor"'}, "names none"),
        ({"method": None}, "names a method"),
        ({"metrics": '"dice"'}, "metrics"),
        ({"metric": None}, "metric: Field required"),
        ({"differs": None}, "differs: Field required"),
        ({"differs": '""'}, "differs: "),
        ({"head": 'source = "A"\nreference = "somewhere"\n'}, "reference"),
        ({"head": 'reference = "10.1000/182"\n'}, "source"),
        ({"head": HEAD + "year = 2026\n"}, "year"),
    ],
)
def test_a_claim_that_cannot_be_is_refused_by_file_and_number(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    head = changes.get("head") or HEAD
    write(tmp_path, head, **{key: value for key, value in changes.items() if key != "head"})
    with pytest.raises(UserError, match=rf"a\.toml, claim 1: .*{message}"):
        read_claims(tmp_path)


def test_a_claim_is_read_from_a_file_with_a_mark_and_refused_in_utf_16(tmp_path: Path) -> None:
    file = write(tmp_path) / "a.toml"
    text = file.read_text()
    file.write_text(text, encoding="utf-8-sig")
    assert read_claims(tmp_path)[0].source == "A paper"
    file.write_text(text, encoding="utf-16")
    with pytest.raises(UserError, match=r"a\.toml is not UTF-8 .*save it as UTF-8"):
        read_claims(tmp_path)


@pytest.mark.parametrize("content", ["", "claim = 1", "claim = [1]", "source ="])
def test_a_file_without_claims_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(UserError, match=r"a\.toml"):
        read_claims(tmp_path)
