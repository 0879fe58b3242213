"""Statistics in words, from numbers that are known."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from qgbench.metrics.table import METRICS
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast, Kind
from qgbench.report.declared import Answer, Answers, DeclaredQuestion, DeclaredSuite, Verdict
from qgbench.report.page.words import (
    addon_words,
    details,
    first_words,
    headline,
    method_words,
    name_words,
    probability,
    regime_words,
)
from qgbench.report.scores import Scores
from qgbench.report.sections import Section
from qgbench.report.wording import RISING, number, signed
from qgbench.spec.arm import ArmName
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import Setting
from qgbench.stats.crossed import Estimate
from qgbench.stats.effects import Spread

DICE, HD95 = METRICS["dice"], METRICS["hd95"]
BASE, ADDON = ArmName("fixmatch", "", ""), ArmName("fixmatch", "", "qw")
PH2 = Setting(
    protocol="small",
    protocol_version=1,
    dataset="ph2",
    regime="n28@grouped",
    arch="unet",
    encoder="tf_efficientnet_lite0",
)


def known(
    mean: float = 0.013,
    interval: tuple[float, float] | None = (0.004, 0.022),
    p: float | None = 0.02,
    reason: str = "",
    groups: int = 100,
) -> Estimate:
    p_one_sided = None if p is None else p / 2
    return Estimate(groups, 3, mean, interval, 0.004, p, p_one_sided, None if p is None else 0.0004, reason)


def scores(found: Estimate, images: int = 100) -> Scores:
    table = np.full((found.groups, found.seeds), found.mean)
    spread = Spread(images=0.041, groups=0.02, seeds=None)
    return Scores([0, 1, 2], images, [f"g{i}" for i in range(found.groups)], table, found, spread, {}, {}, {})


def contrast(found: Estimate | None = None, kind: Kind = "twin", images: int = 100, refused: str = "") -> Contrast:
    """FixMatch + QW against FixMatch; without an estimate there is no difference."""
    side = scores(known(), images)
    if found is None:
        missing = "" if refused else "no usable record without an add-on"
        return Contrast(kind, ADDON, BASE, side, side if refused else None, None, refused, missing=missing)
    return Contrast(kind, ADDON, BASE, side, side, scores(found, images), "", 0.04, 0.71, 0.305, 0.234, tested=True)


def test_headline_is_the_sentence_that_was_asked_for() -> None:
    assert headline(contrast(known()), "PH2, 28 labels", DICE) == (
        "FixMatch + QW against FixMatch on PH2, 28 labels: +1.3 Dice points, CI 0.4 to 2.2; 100 images, 3 seeds; "
        "one-sided p 0.01."
    )


def test_headline_of_a_loss_counts_groups_and_writes_true_minus_signs() -> None:
    found = known(-0.0135, (-0.0463, 0.0193), 0.227, groups=14)
    assert headline(contrast(found, images=305), "CVC, 28 labels", DICE) == (
        "FixMatch + QW against FixMatch on CVC, 28 labels: −1.4 Dice points, CI −4.6 to 1.9; 305 images in 14 groups, "
        "3 seeds; one-sided p 0.11."
    )


def test_headline_of_a_distance_has_its_unit_and_says_which_way_is_better() -> None:
    found = known(-2.13, (-4.0, -0.26))
    assert ": −2.1 px HD95 (pooled), CI −4.0 to −0.3;" in headline(contrast(found), "PH2", HD95)
    assert details(contrast(found), HD95)[0] == "Lower HD95 (pooled) is better: a negative difference is a gain."


def test_withheld_p_is_said_with_its_reason() -> None:
    reason = "p withheld: 5 test groups, at least 6 are needed; the interval is over test groups only"
    found = contrast(known(p=None, reason=reason))
    assert headline(found, "PH2", DICE).endswith("; p is withheld.")
    assert details(found, DICE)[:2] == [
        "p is withheld: 5 test groups, at least 6 are needed.",
        "The interval is over test groups only.",
    ]
    assert not any(line.startswith("p =") for line in details(found, DICE))


def test_refusal_and_missing_records_are_said() -> None:
    refused = headline(contrast(refused="the test images differ"), "PH2", DICE)
    assert refused == "FixMatch + QW against FixMatch on PH2: refused, the test images differ."
    assert (
        headline(contrast(), "PH2", DICE)
        == "FixMatch + QW against FixMatch on PH2: no usable record without an add-on."
    )
    alone = Contrast("twin", BASE, BASE, None, scores(known()), None, "", missing="no usable record with an add-on")
    assert headline(alone, "PH2", DICE) == "FixMatch on PH2: no usable record with an add-on."
    assert details(contrast(), DICE) == []


def test_details_hold_every_statistic() -> None:
    assert details(contrast(known()), DICE) == [
        "p = 0.02; adjusted by Holm's method for all comparisons of its kind in the report, p = 0.04: the data tell "
        "the two apart at the 5 % level.",
        "Wilcoxon's signed-rank test on the means of test groups gives p < 0.001; it does not see how much results "
        "change from seed to seed.",
        "In one run of each, a test group does better with probability 0.71 (that of improvement).",
        "Effect size: 0.30 standard deviations over test groups.",
        "The difference covers 23 % of the distance from supervised training with these labels to supervised training "
        "with all labels.",
    ]


def test_large_adjusted_p_does_not_tell_apart() -> None:
    found = Contrast("twin", ADDON, BASE, None, None, scores(known()), "", holm_p=0.05)
    assert "the data do not tell the two apart" in details(found, DICE)[0]


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.0134, "1.3", "+1.3"),
        (-0.0134, "−1.3", "−1.3"),
        (-0.0004, "0.0", "0.0"),
        (0.0004, "0.0", "0.0"),
        (0.1, "10.0", "+10.0"),
    ],
)
def test_numbers_round_with_true_signs(value: float, plain: str, with_sign: str) -> None:
    assert number(value, 100) == plain
    assert signed(value, 100) == with_sign


def test_unknown_numbers_are_dashes() -> None:
    assert (number(None), number(float("nan")), number(float("inf"))) == ("–", "–", "–")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "withheld"),
        (0.0, "below 0.001"),
        (0.0009, "below 0.001"),
        (0.00123, "0.0012"),
        (0.012, "0.012"),
        (0.5, "0.50"),
        (1.0, "1.00"),
    ],
)
def test_probabilities(value: float | None, text: str) -> None:
    assert probability(value) == text


@pytest.mark.parametrize(
    ("regime", "text"),
    [
        ("n28@grouped", "28 labels"),
        ("n1@grouped", "1 label"),
        ("n7patients@grouped", "7 patients"),
        ("all@image", "all labels, image split"),
        ("p12.5+isic_pool@grouped", "12.5 % of the labels + isic_pool"),
        ("<b>", "<b>"),
    ],
)
def test_regimes(regime: str, text: str) -> None:
    assert regime_words(regime) == text


def test_names() -> None:
    assert name_words(ArmName("fixmatch", "method.threshold=0.9", "qw-shuffled")) == (
        "FixMatch (method.threshold=0.9) + QW (shuffled)"
    )
    assert (addon_words("qw+qar"), addon_words(""), addon_words("<i>-x")) == ("QW+QAR", "", "<i>-x")
    assert (method_words("ua_mt"), method_words("lab.py:Mine")) == ("UA-MT", "lab.py:Mine")


TWO = {"ph2": ("n28@grouped", "n28@grouped"), "scd": ("n28@grouped", "n28@grouped")}


def answered(
    found: Estimate | None, verdict: Verdict, *pairs: tuple[str, str], margin: float | None = None
) -> tuple[str, str]:
    asked = DeclaredQuestion("primary", "Does it help?", pairs, TWO, ("unet",), margin)
    answer = Answer(asked, [] if found else ["ph2: no record"], {}, found, verdict=verdict)
    units = dict.fromkeys(TWO, "points")
    suite = DeclaredSuite("tiny", frozenset(), 2, (asked,))
    return first_words(Analysis(DICE, [], [], [], [], Answers(suite, [], 0, "", [answer], [], units, False)))


SHOWN = Verdict(True, True, None, False, "")
NOT_SHOWN = replace(SHOWN, shown=False)


@pytest.mark.parametrize(
    ("mean", "verdict", "said"),
    [
        (0.013, SHOWN, "QW raises Dice: +1.3 points on average, 95 % interval 0.4 to 2.2."),
        (-0.013, SHOWN, "QW lowers Dice: −1.3 points on average, 95 % interval 0.4 to 2.2."),
        (0.013, NOT_SHOWN, "Not settled whether QW changes Dice: +1.3 points on average, 95 % interval 0.4 to 2.2."),
        (
            0.001,
            replace(NOT_SHOWN, equivalent=True),
            "QW changes Dice by less than 3 points, if at all: +0.1 points on average, 95 % interval 0.4 to 2.2.",
        ),
        (
            0.013,
            replace(SHOWN, equivalent=True),
            "QW raises Dice, by less than 3 points: +1.3 points on average, 95 % interval 0.4 to 2.2.",
        ),
        (
            0.013,
            replace(NOT_SHOWN, tested=False),
            "Too few test groups or seeds to test whether QW changes Dice: +1.3 points on average, 95 % interval 0.4 "
            "to 2.2.",
        ),
    ],
)
def test_first_sentence_answers_the_suites_first_question(mean: float, verdict: Verdict, said: str) -> None:
    pairs = (("fixmatch(threshold=0.9)+qw", "fixmatch(threshold=0.9)"), ("cps+qw", "cps"))
    assert answered(known(mean), verdict, *pairs, margin=3) == ("Does it help?", said)


def test_first_sentence_of_other_pairs_names_no_add_on_and_of_missing_runs_gives_no_number() -> None:
    for pairs in ([("fixmatch", "supervised")], [("cps+qw", "cps"), ("cps+qar", "cps")]):
        _, said = answered(known(), NOT_SHOWN, *pairs)
        assert said == "Not settled whether Dice differs: +1.3 points on average, 95 % interval 0.4 to 2.2."
    _, said = answered(None, replace(NOT_SHOWN, tested=False), ("cps+qw", "cps"))
    assert said == "Not answered yet whether QW changes Dice: runs that it needs are missing."


def twins(*found: tuple[float, float | None]) -> str:
    """The first sentence about pairs of twins, given as mean and adjusted p."""
    pairs = [replace(contrast(known(mean)), holm_p=p) for mean, p in found]
    section = Section(PH2, DICE, [], {}, pairs, [], {}, [])
    return first_words(Analysis(DICE, [section], [], []))[1]


def test_first_sentence_without_a_suite_counts_the_pairs_of_twins() -> None:
    assert twins((0.01, 0.01), (0.02, 0.04), (-0.01, 0.01), (0.01, 0.05), (0.01, None)) == (
        "With the add-on Dice is better in 2 and worse in 1 of 5 pairs; not settled in 2."
    )
    assert twins((0.01, 0.01)) == "With the add-on Dice is better in 1 of 1 pair; all are settled."
    assert twins((0.01, 0.5), (0.01, 0.6)) == ("Not settled whether the add-on changes Dice: shown in none of 2 pairs.")
    assert twins((0.01, None), (-0.01, None)) == (
        "Estimates only: Dice is better with the add-on in 1 of 2 pairs, untested."
    )
    assert twins() == "Only a leaderboard: no method is here both with and without an add-on."
    refused = Section(PH2, DICE, [], {}, [contrast(refused="the test images differ")], [], {}, [])
    assert first_words(Analysis(DICE, [refused], [], []))[1] == "Only a leaderboard: none of 1 pair can be compared."


def test_what_still_rises_is_what_the_kept_trainings_say() -> None:
    lines = (Path(__file__).parents[2] / "perf/kept/small_settings.jsonl").read_text().splitlines()
    dice: dict[tuple[str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    for result in map(json.loads, lines):
        trial, changes = result["trial"], result["trial"]["overrides"]
        asked = {"method.apart": True} if trial["method"] in ("fixmatch", "unimatch") else {}
        place = (trial["dataset"], trial["seed"])
        if (
            place[0] in ("isic2017", "scd", "cvc_clinicdb")
            and changes == {"train.steps": changes["train.steps"]} | asked
        ):
            dice[trial["method"], changes["train.steps"]][place] = 100 * result["dice"]
    steps = load_protocol("small").train.steps
    found = {}
    for method in {method for method, _ in dice}:
        before, after = dice[method, steps // 2], dice[method, steps]
        assert before.keys() == after.keys()
        assert len(after) == 9
        gain = stats.ttest_1samp([after[place] - before[place] for place in after], 0).confidence_interval()
        if gain.low > 0:
            found[method] = ((gain.low + gain.high) / 2, gain.low, gain.high)
    said = RISING["small", load_protocol("small").version]
    assert found.keys() == said.keys()
    for method, numbers in found.items():
        assert said[method] == pytest.approx(numbers, abs=0.005)
