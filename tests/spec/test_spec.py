import math
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgbench.base.errors import UserError
from qgbench.spec.arm import RegularisationSettings, WeightingSettings
from qgbench.spec.protocol import Protocol, QualitySettings, TrainSettings, load_protocol, protocol_names
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import apply_settings, parse_assignments
from qgbench.training.loop import decay_of_release, learning_rate
from tests.later import later_setting

pool_names = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
regimes = st.builds(
    Regime,
    budget=st.none() | st.integers(1, 10**6),
    pools=st.lists(pool_names, max_size=3).map(tuple),
    split=st.sampled_from(["grouped", "image"]),
)


def spec(**changes: Any) -> RunSpec:
    fields = {
        "protocol": "small",
        "dataset": "phantom",
        "regime": "n28@grouped",
        "method": "fixmatch",
        "arch": "unet",
        "encoder": "tf_efficientnet_lite0",
        "seed": 0,
        "precision": "bf16",
        "device": "cpu",
        "threads": load_protocol("small").threads,
    }
    return RunSpec.model_validate({**fields, **changes})


# Regimes


@settings(deadline=None)
@given(regimes)
def test_a_regime_survives_being_written_and_read(regime: Regime) -> None:
    assert Regime.parse(str(regime)) == regime


@pytest.mark.parametrize(
    ("text", "budget", "pools", "split", "canonical"),
    [
        ("n28+isic_pool@grouped", 28, ("isic_pool",), "grouped", "n28+isic_pool@grouped"),
        ("28", 28, (), "grouped", "n28@grouped"),
        ("n028", 28, (), "grouped", "n28@grouped"),
        ("all", None, (), "grouped", "all@grouped"),
        ("all+a+b@image", None, ("a", "b"), "image", "all+a+b@image"),
    ],
)
def test_regimes_as_users_write_them(
    text: str, budget: int | None, pools: tuple[str, ...], split: str, canonical: str
) -> None:
    regime = Regime.parse(text)
    assert (regime.budget, regime.pools, regime.split) == (budget, pools, split)
    assert str(regime) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@image",
        "n",
        "nall",
        "n-3",
        "n2.5",
        "28n",
        "n28@video",
        "n28@grouped@image",
        "n28+",
        "n28++a",
        "+a",
        "All",
        "n28 ",
    ],
)
def test_a_regime_of_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"is not understood.*'n28@grouped'") as caught:
        Regime.parse(text)
    assert f"regime '{text}'" in str(caught.value)


@pytest.mark.parametrize("text", ["n0", "0@image"])
def test_a_budget_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="its budget is 0; give at least 1"):
        Regime.parse(text)


# Settings


def test_changed_settings_replace_the_others_stay() -> None:
    train = load_protocol("small").train
    changed = apply_settings(train, {"lr": 0.5, "steps": 7}, "train.")
    assert changed.model_dump() == {**train.model_dump(), "lr": 0.5, "steps": 7}
    assert train == load_protocol("small").train


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("train", {"stesp": 3}, "unknown setting 'train.stesp'.*Did you mean 'train.steps'"),
        ("qg", {"Tau": 0.5}, "unknown setting 'qg.Tau'.*Did you mean 'qg.tau'"),
        ("train", {"steps": "ten"}, r"train\.steps = 'ten'.*integer"),
        ("train", {"steps": 2.5}, r"train\.steps = 2\.5.*integer"),
        ("train", {"steps": 0}, r"train\.steps = 0.*greater than or equal to 1"),
        ("train", {"lr": 0.0}, r"train\.lr = 0\.0.*greater than 0"),
        ("train", {"lr": math.nan}, r"train\.lr = nan"),
        ("train", {"rotation": 181}, r"train\.rotation = 181.*less than or equal to 180"),
        ("train", {"rotation_p": 1.5}, r"train\.rotation_p = 1\.5.*less than or equal to 1"),
        ("train", {"lr": [1e-3]}, r"train\.lr = \[0\.001\].*number"),
        ("qg", {"tau": 1.01}, r"qg\.tau = 1\.01.*less than or equal to 1"),
        ("qg", {"temperature": -1}, r"qg\.temperature = -1.*greater than 0"),
        ("quality", {"weak_epochs": []}, r"quality\.weak_epochs = \[\]"),
        ("quality", {"backbone_weights": "coco"}, r"quality\.backbone_weights = 'coco'.*'imagenet' or 'none'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(part: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_settings(
            WeightingSettings() if part == "qg" else getattr(load_protocol("small"), part), change, f"{part}."
        )


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("method.threshold=0.9", {"method.threshold": 0.9}),
        ("train.steps=300", {"train.steps": 300}),
        ("train.lr = 1e-3", {"train.lr": 1e-3}),
        ("method.labels_from=teacher", {"method.labels_from": "teacher"}),
        ("method.flag=true", {"method.flag": True}),
        ("quality.weak_epochs=[1, 3]", {"quality.weak_epochs": [1, 3]}),
        ('method.name="a = b"', {"method.name": "a = b"}),
        ("method.name=a = b", {"method.name": "a = b"}),
        ("encoder_weights=none", {"encoder_weights": "none"}),
        ("size=128", {"size": 128}),
        ("qg.tau=", {"qg.tau": ""}),
    ],
)
def test_assignments_are_read(pair: str, expected: dict[str, Any]) -> None:
    found = parse_assignments([pair])
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


def test_the_last_of_two_assignments_to_one_name_counts() -> None:
    assert parse_assignments(["qg.tau=0.1", "train.lr=1.0", "qg.tau=0.3"]) == {"qg.tau": 0.3, "train.lr": 1.0}


@pytest.mark.parametrize("pair", ["threshold=0.9", "method.threshold", "method.=1", "model.x=1", "train.a.b=1", "=1"])
def test_an_assignment_of_another_form_is_refused(pair: str) -> None:
    with pytest.raises(UserError, match=r"expected method\.NAME=VALUE") as caught:
        parse_assignments([pair])
    assert f"--set {pair}" in str(caught.value)


# Protocols


@pytest.mark.parametrize("name", ["paper", "small", "smoke"])
def test_protocols_load_and_are_called_what_they_are(name: str) -> None:
    protocol = load_protocol(name)
    assert isinstance(protocol, Protocol)
    assert protocol.name == name
    assert protocol.size % 32 == 0
    assert sum(protocol.fractions) == pytest.approx(1)
    assert name in protocol_names()


def test_the_papers_protocol_holds_the_papers_settings() -> None:
    paper = load_protocol("paper")
    assert (paper.arch, paper.encoder, paper.size, paper.train.steps) == ("unet", "resnet34", 224, 15600)
    assert (paper.train.lr, paper.train.weight_decay, paper.train.grad_clip) == (1e-4, 1e-4, 1.0)
    assert (paper.train.batch_labelled, paper.train.batch_unlabelled) == (32, 64)
    assert WeightingSettings().model_dump() == {"tau": 0.5, "temperature": 2.0}
    assert RegularisationSettings().model_dump() == {"lambda_qar": 0.01, "qar_warmup": 0.15, "qar_ramp": 0.2}
    assert paper.fractions == (0.7, 0.1, 0.2)


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown protocol 'smal'.*Did you mean 'small'"):
        load_protocol("smal")


# Runs


def test_a_run_resolves_to_its_protocol_with_its_overrides() -> None:
    plain = spec().resolve()
    assert plain == load_protocol("small")
    changed = spec(
        encoder="resnet18",
        overrides={"train.steps": 9, "quality.batch": 4, "method.threshold": 0.5} | {"encoder_weights": "none"},
    )
    expected = plain.model_dump()
    expected["encoder"], expected["encoder_weights"] = "resnet18", "none"
    expected["train"]["steps"], expected["quality"]["batch"] = 9, 4
    assert changed.resolve().model_dump() == expected
    assert changed.overrides_of("method") == {"threshold": 0.5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.stesp": 3}, r"Did you mean 'train\.steps'"),
        ({"encoder_weights": "coco"}, "encoder_weights = 'coco'"),
    ],
)
def test_overrides_that_cannot_be_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(overrides=overrides).resolve()


CHANGES: list[dict[str, Any]] = [
    {"protocol": "smoke"},
    {"dataset": "ph2"},
    {"regime": "n29@grouped"},
    {"regime": "n28@image"},
    {"regime": "n28+pool@grouped"},
    {"regime": "all@grouped"},
    {"method": "mean_teacher"},
    {"arch": "unetplusplus"},
    {"encoder": "resnet18"},
    {"seed": 1},
    {"qg_mode": "qw"},
    {"qg_mode": "qar"},
    {"qg_mode": "both"},
    {"qg_mode": "qw", "qg_score": "shuffled"},
    {"qg_mode": "qw", "qg_norm": "none"},
    {"precision": "fp32"},
    {"device": "cuda"},
    {"threads": 7},
    {"overrides": {"method.threshold": 0.7}},
    {"overrides": {"method.threshold": 0.8}},
    {"overrides": {"train.steps": 7}},
    {"overrides": {"encoder_weights": "none"}},
]


def test_the_id_differs_with_every_field_that_differs() -> None:
    ids = [spec(**change).id for change in ({}, *CHANGES)]
    assert len(set(ids)) == len(ids)
    digests = [name.rpartition("-")[2] for name in ids]
    assert len(set(digests)) == len(digests)


def test_another_version_of_g_names_other_runs_where_g_guides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    guided = [{"qg_mode": "qw"}, {"qg_mode": "qar"}, {"qg_mode": "both"}, {"qg_mode": "qw", "qg_score": "shuffled"}]
    without = [{}, *({"qg_mode": "qw", "qg_score": score} for score in ("oracle", "confidence", "agreement"))]
    before = [spec(**change).id for change in (*guided, *without)]
    newer = load_protocol("small").model_copy(update={"g_version": 99})
    monkeypatch.setattr("qgbench.spec.run_spec.load_protocol", lambda name: newer)
    after = [spec(**change).id for change in (*guided, *without)]
    assert [one != other for one, other in zip(before, after, strict=True)] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"qg_mode": "none", "qg_score": "g", "qg_norm": "weighted", "overrides": {}},
        {"regime": "28"},
        {"precision": load_protocol("small").precision, "encoder": load_protocol("small").encoder},
    ],
)
def test_the_id_is_the_same_when_defaults_are_spelt_out(change: dict[str, Any]) -> None:
    assert spec(**change).id == spec().id


@pytest.mark.parametrize("name", ["train.lr", "qg.tau", "quality.hidden", "encoder_weights"])
def test_an_override_with_the_protocols_own_value_changes_nothing(name: str) -> None:
    part, _, field = name.rpartition(".")
    protocol = load_protocol("small")
    whole = WeightingSettings() if part == "qg" else getattr(protocol, part) if part else protocol
    same = spec(overrides={name: getattr(whole, field)})
    assert same.resolve() == spec().resolve()
    assert (same.id, same.variant, same.addon) == (spec().id, "", "")


def test_the_order_of_overrides_does_not_matter() -> None:
    pairs = [("train.steps", 9), ("qg.temperature", 3.0), ("method.threshold", 0.5), ("qg.tau", 0.25)]
    forward, backward = (spec(qg_mode="qw", overrides=dict(order)) for order in (pairs, pairs[::-1]))
    assert forward.id == backward.id
    assert forward.variant == backward.variant == "method.threshold=0.5,train.steps=9"
    assert forward.addon == backward.addon == "qw-qg.tau=0.25-qg.temperature=3.0"


def test_twins_with_and_without_the_add_on_share_their_variant() -> None:
    twin = spec(overrides={"method.threshold": 0.5})
    guided = spec(qg_mode="qw", overrides={"method.threshold": 0.5, "qg.tau": 0.6, "quality.steps": 9})
    assert guided.variant == twin.variant
    assert twin.addon == ""


def test_the_id_is_readable_and_a_file_name() -> None:
    assert spec(qg_mode="qw", seed=3).id.startswith("small-phantom-n28@grouped-unet-fixmatch+qw-k3-")
    from_files = spec(method="../methods/my method.py", dataset="/data/My Images/").id
    assert from_files.startswith("small-My_Images-n28@grouped-unet-my_method-k0-")
    assert "/" not in from_files
    assert " " not in from_files


@pytest.mark.parametrize(
    "overrides",
    [
        {"quality.weak_epochs": [1, 3]},
        {"quality.backbone": "hf-hub:owner/model"},
        {"method.text": "a/b c"},
    ],
)
def test_no_setting_puts_a_separator_or_a_space_into_the_id(overrides: dict[str, Any]) -> None:
    name = spec(qg_mode="qw", overrides=overrides).id
    assert "/" not in name
    assert " " not in name


def test_the_id_is_the_same_in_another_process_and_needs_no_torch() -> None:
    expected = [spec(**change) for change in CHANGES[-4:]]
    code = (
        "import sys\nfrom qgbench.spec.run_spec import RunSpec\n"
        "for line in sys.stdin:\n    print(RunSpec.model_validate_json(line).id)\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(run.model_dump_json() for run in expected),
        env={**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [run.id for run in expected]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"qg_mode": "qw"}, "qw"),
        ({"qg_mode": "qar"}, "qar"),
        ({"qg_mode": "both"}, "qw+qar"),
        ({"qg_mode": "qw", "qg_score": "shuffled"}, "qw-shuffled"),
        ({"qg_mode": "qw", "qg_score": "confidence", "qg_norm": "none"}, "qw-confidence-unnormalised"),
    ],
)
def test_the_add_on_as_the_leaderboard_writes_it(change: dict[str, Any], expected: str) -> None:
    assert spec(**change).addon == expected


def test_a_spec_survives_being_written_and_read() -> None:
    for change in CHANGES:
        run = spec(**change)
        assert RunSpec.model_validate_json(run.model_dump_json()) == run


def test_a_spec_of_a_former_version_of_its_protocol_keeps_its_overrides() -> None:
    """What repeats a value of the present version may have been another one then."""
    overrides = {"train.lr": load_protocol("small").train.lr}
    assert spec(overrides=overrides).overrides == {}
    former = spec(protocol_version=1, overrides=overrides)
    assert (former.overrides, former.variant) == (overrides, f"train.lr={overrides['train.lr']}")


# Settings that come when there are records already


def test_an_id_says_what_a_run_does_and_not_which_settings_there_are() -> None:
    fields = {"protocol": "small", "dataset": "ph2", "regime": "n28@grouped", "method": "fixmatch", "arch": "unet"}
    fields |= {"encoder": "resnet34", "seed": 0, "precision": "bf16", "device": "cpu", "threads": 2}
    spec = RunSpec.model_validate(fields)
    stored, known = spec.model_dump(mode="json"), spec.id
    with later_setting(RunSpec, before=0.25):
        assert RunSpec.model_validate(RunSpec.completed(stored)).id == known
        assert RunSpec.model_validate(fields).id != known, "the new default is another run"
    with later_setting(RunSpec):
        assert RunSpec.model_validate(fields).id == known


def test_the_parts_of_stored_settings_are_completed_too() -> None:
    stored = load_protocol("small").model_dump(mode="json")
    del stored["g_version"]
    with later_setting(TrainSettings, before=0.25):
        completed = Protocol.completed(stored)
    assert completed["g_version"] == 1
    assert completed["train"] == {**stored["train"], "later": 0.25}
    assert completed["quality"] == stored["quality"]


def test_what_an_id_is_made_of_has_every_setting_that_was_always_there() -> None:
    quality = load_protocol("paper").quality
    assert {**quality.before(), **quality.telling()} == quality.model_dump(mode="json")
    assert set(quality.model_dump()) - set(quality.telling()) <= set(quality.before())
    with later_setting(QualitySettings, default=0.5, before=0.25):
        assert load_protocol("paper").quality.telling() == {**quality.telling(), "later": 0.5}


# Schedules


def test_the_releases_decay_of_the_teacher_is_0_999_after_1000_steps() -> None:
    assert load_protocol("paper").train.ema == "release"
    assert [decay_of_release(step) for step in (0, 499, 999, 15599)] == pytest.approx(
        [0.500499, 0.7495, 0.999, 0.999], rel=1e-9
    )


def test_the_learning_rate_falls_along_a_cosine() -> None:
    assert learning_rate(0.0, 1e-3, 1e-5) == pytest.approx(1e-3)
    assert learning_rate(1.0, 1e-3, 1e-5) == pytest.approx(1e-5)
    assert learning_rate(0.5, 1e-3, 1e-5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(1 / 3, 1e-3, 0.0) == pytest.approx(0.75e-3)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_the_learning_rate_never_rises(progress: list[float]) -> None:
    first, second = (learning_rate(value, 1e-3, 1e-5) for value in sorted(progress))
    assert 1e-5 * (1 - 1e-9) <= second <= first <= 1e-3 * (1 + 1e-9)
