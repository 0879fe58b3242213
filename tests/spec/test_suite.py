"""Suite files: what they declare, what they expand to, what is refused."""

import itertools
import re
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.spec.arm import AddOnName, Arm, ArmName, parse_row
from qgbench.spec.run_spec import Place
from qgbench.spec.suite import load_suite, suite_names

TINY = """
name = "tiny"
about = "two rows"
protocol = "smoke"

[[confirm]]
name = "first"
question = "Does QW change Dice?"
compare = "*+qw:*"
rows = ["fixmatch"]
block = "core"
equivalence = 0.5

# further questions

[rows.sharp]
method = "pseudo_label"
set = { "method.threshold" = 0.8 }

[[block]]
name = "core"
rows = ["fixmatch", "fixmatch+qw", "sharp"]
seeds = [0, 1]
[block.regimes]
phantom = ["n12"]

[[block]]
name = "taus"
rows = ["fixmatch", "fixmatch+qw"]
seeds = [0]
vary = { "qg.tau" = [0.5, 0.9], "train.steps" = [24, 12] }
[block.regimes]
phantom = ["n12@grouped"]
"""


def written(folder: Path, text: str) -> str:
    file = folder / "tiny.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_suite_is_expanded_by_block_seed_data_set_regime_arch_and_row_without_doubles(tmp_path: Path) -> None:
    entries = load_suite(written(tmp_path, TINY)).entries()
    listed = [(entry.block, entry.seed, entry.row, dict(entry.arm.overrides)) for entry in entries]
    core = [("core", seed, row) for seed in (0, 1) for row in ("fixmatch", "fixmatch+qw", "sharp")]
    assert [entry[:3] for entry in listed[:6]] == core
    assert [entry[3] for entry in listed[:6]] == [{}, {}, {"method.threshold": 0.8}] * 2
    # tau 0.5 and 24 steps are the protocol's: those runs are in the block before; tau says nothing to a base row.
    assert listed[6:] == [
        ("taus", 0, "fixmatch", {"train.steps": 12}),
        ("taus", 0, "fixmatch+qw", {"qg.tau": 0.5, "train.steps": 12}),
        ("taus", 0, "fixmatch+qw", {"qg.tau": 0.9, "train.steps": 24}),
        ("taus", 0, "fixmatch+qw", {"qg.tau": 0.9, "train.steps": 12}),
    ]
    arm = ArmName("fixmatch", "train.steps=12", "qw-qg.tau=0.9")
    assert entries[-1].place == Place("smoke", "phantom", "n12@grouped", "unet", arm, 0)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("supervised", ("supervised", "none", "g", "weighted")),
        ("supervised+qar", ("supervised", "qar", "g", "weighted")),
        ("mean_teacher+qw+qar", ("mean_teacher", "both", "g", "weighted")),
        ("fixmatch+qw-oracle", ("fixmatch", "qw", "oracle", "weighted")),
        ("fixmatch+qw-unnormalised", ("fixmatch", "qw", "g", "none")),
        ("fixmatch+qw-shuffled-unnormalised", ("fixmatch", "qw", "shuffled", "none")),
        ("lab/mine.py:Mine+qw", ("lab/mine.py:Mine", "qw", "g", "weighted")),
    ],
)
def test_a_row_is_written_as_the_leaderboard_writes_it(row: str, parts: tuple[str, ...]) -> None:
    name, addon = parse_row(row)
    assert (name, *addon.values()) == parts
    assert Arm(method=name, **addon).arm.typed == row


def test_every_fault_of_a_suite_is_listed_at_once(tmp_path: Path) -> None:
    text = TINY.replace('"smoke"', '"smok"').replace('"fixmatch+qw", "sharp"', '"fixmatch+wq"')
    text = text.replace('"n12@grouped"', '"some"').replace('name = "taus"', 'name = "core"')
    text = text.replace("seeds = [0, 1]", "seeds = [0, 1]\nset = { sizes = 96 }").replace("train.steps", "trian.steps")
    with pytest.raises(UserError) as failure:
        load_suite(written(tmp_path, text))
    said = str(failure.value)
    named = ("'smok'", "Did you mean 'smoke'", "regime 'some'", "'core' is there 2", "[rows.sharp]")
    for part in (*named, "setting 'sizes'", "setting 'trian.steps'"):
        assert part in said


def test_a_question_to_confirm_that_no_block_answers_is_refused(tmp_path: Path) -> None:
    text = TINY.replace('rows = ["fixmatch"]', 'rows = ["fixmatch", "sharp"]')
    with pytest.raises(UserError, match=r"needs sharp\+qw phantom n12@grouped unet, which no block runs"):
        load_suite(written(tmp_path, text))


def test_questions_to_confirm_keep_their_order_and_the_form_of_old_is_refused_with_the_new_one(tmp_path: Path) -> None:
    second = '[[confirm]]\nname = "second"\nquestion = "?"\ncompare = "sharp:fixmatch"\nblock = "core"\n\n# further'
    suite = load_suite(written(tmp_path, TINY.replace("# further", second)))
    assert [(one.name, one.equivalence) for one in suite.confirm] == [("first", 0.5), ("second", None)]
    for text, said in (
        (TINY.replace("[[confirm]]", "[primary]"), r"\[primary\], of a former form: \[\[confirm\]\]"),
        (TINY.replace("0.5", "-1"), "confirm.0.equivalence"),
        (TINY.replace('block = "core"\nequ', 'block = "core"\neach = true\nequ'), "confirm.0.each"),
    ):
        with pytest.raises(UserError, match=said):
            load_suite(written(tmp_path, text))


def test_a_suite_is_read_from_a_file_with_a_mark_and_refused_in_utf_16(tmp_path: Path) -> None:
    file = Path(written(tmp_path, TINY))
    plain = load_suite(str(file))
    file.write_text(TINY, encoding="utf-8-sig")
    assert load_suite(str(file)) == plain
    file.write_text(TINY, encoding="utf-16")
    with pytest.raises(UserError, match=r"tiny\.toml is not UTF-8 .*save it as UTF-8"):
        load_suite(str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not valid TOML"),
        (TINY.replace("seeds = [0, 1]", "seeds = []"), "block.0.seeds"),
        (TINY.replace("seeds = [0, 1]", "sedes = [0, 1]"), "block.0.sedes"),
        (TINY.replace('name = "tiny"', 'name = "../tiny"'), "name: "),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as failure:
        load_suite(written(tmp_path, text))
    assert said in str(failure.value)


def test_an_unknown_suite_is_refused_with_the_nearest_and_a_missing_file_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'small'"):
        load_suite("smal")
    with pytest.raises(UserError, match=r"gone\.toml"):
        load_suite(str(tmp_path / "gone.toml"))


def test_the_example_of_the_documentation_is_a_suite(tmp_path: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "how-to" / "suite.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", documented, re.DOTALL)
    suite = load_suite(written(tmp_path, example))
    assert [len([entry for entry in suite.entries() if entry.block == block.name]) for block in suite.block] == [
        24,
        6,
        6,
    ]


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_name_themselves_and_answer_their_question(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    entries = suite.entries()
    assert len({entry.place for entry in entries}) == len(entries)


def test_unimatch_on_volumes_is_the_form_that_its_authors_have_for_them() -> None:
    entries = [entry for entry in load_suite("acdc").entries() if entry.arm.method == "unimatch"]
    assert {dict(entry.arm.overrides)["method.unlabelled_loss"] for entry in entries} == {"dice"}


def test_the_paper_suite_is_five_sets_by_three_archs_by_the_papers_rows_and_two_twins_by_three_seeds() -> None:
    entries = load_suite("paper").entries()
    assert len(entries) == 5 * 3 * (14 + 2) * 3
    places = {(entry.dataset, entry.arch, entry.seed) for entry in entries}
    sets = ("ph2", "scd", "dermofit", "cvc_colondb", "cvc_clinicdb")
    assert places == set(itertools.product(sets, ("unetpp", "attention_unet", "swin_unet"), range(3)))
    paper_labels = {"method.threshold": 0.0, "method.labels_from": "teacher"}
    for method, loss in (("pseudo_label", {"method.loss": "bce_dice"}), ("contrastive", {})):
        weighed = [entry for entry in entries if entry.arm.method == method and entry.arm.qg_mode == "qw"]
        assert weighed
        assert all(dict(entry.arm.overrides) == paper_labels | loss for entry in weighed)


ASKING = """
[[question]]
name = "qw"
question = "Does QW change *?"
compare = "*+qw:*"
rows = ["fixmatch"]
each = true
block = "core"

[[question]]
name = "sharp"
question = "Is a lower threshold better than FixMatch?"
compare = "sharp:fixmatch"
block = "core"

# further questions"""


def test_a_question_asks_something_of_each_row_or_one_thing_of_all(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, TINY.replace("# further questions", ASKING)))
    each, one = suite.questions()
    assert (each.name, each.question, each.sides) == (
        "qw-fixmatch",
        "Does QW change fixmatch?",
        (("fixmatch+qw", "fixmatch"),),
    )
    assert one.sides == (("sharp", "fixmatch"),)
    assert suite.regimes_of(one) == {"phantom": ("n12@grouped", "n12@grouped")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('block = "core"\n\n# fur', 'block = "cor"\n\n# fur', "Did you mean 'core'"),
        ('block = "core"\n\n# fur', 'block = "taus"\n\n# fur', "block 'taus' sets or varies settings"),
        ('"sharp:fixmatch"', '"sharp"', "expected 'A:B'"),
        ('"sharp:fixmatch"', '"sharp:*"', "give rows if compare has a *"),
        ('name = "sharp"\nq', 'name = "qw-fixmatch"\nq', "question 'qw-fixmatch' is there twice"),
        ('name = "sharp"\nq', 'name = "first"\nq', "question 'first' is there twice"),
        ('"sharp:fixmatch"', '"sharp+qw:fixmatch"', r"question 'sharp' needs sharp\+qw phantom n12@grouped unet"),
        ('block = "core"\n\n# fur', 'block = "core"\nagainst = "none"\n\n# fur', "unknown block 'none'"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = TINY.replace("# further questions", ASKING)
    assert text.count(old) == 1
    with pytest.raises(UserError, match=said):
        load_suite(written(tmp_path, text.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "addon"),
    [
        ("qw", AddOnName("qw")),
        ("my-lab.py:Capped", AddOnName("my-lab.py:Capped")),
        ("qw-my-lab.py:Sharp", AddOnName("qw", "my-lab.py:Sharp")),
        ("qw-quality.py:Sharp", AddOnName("qw", "quality.py:Sharp")),
        ("my-lab.py:Capped-other-lab.py-unnormalised", AddOnName("my-lab.py:Capped", "other-lab.py", "none")),
        ("qw+my-lab.py:Capped-one", AddOnName("qw+my-lab.py:Capped", "one")),
        ("my-lab.py:Capped-qg.cap=0.4", AddOnName("my-lab.py:Capped", settings="-qg.cap=0.4")),
        (
            "qw-shuffled-qg.tau=0.6-quality.steps=600",
            AddOnName("qw", "shuffled", "weighted", "-qg.tau=0.6-quality.steps=600"),
        ),
    ],
)
def test_an_add_on_is_read_as_it_is_written(text: str, addon: AddOnName) -> None:
    assert AddOnName.parse(text) == addon
    assert str(addon) == text


@pytest.mark.parametrize("text", ["qw-qg.tau", "qw-quality.steps", "qw-", "-one", "a-b-c"])
def test_what_is_no_add_on_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"add-on '{text}' is not understood"):
        AddOnName.parse(text)
