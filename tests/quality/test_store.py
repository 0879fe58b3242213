from types import SimpleNamespace
from typing import Any

import pandas as pd

from qgbench.quality.store import _seed, predictor_id
from qgbench.run.request import make_spec
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import QualitySettings
from qgbench.spec.run_spec import RunSpec
from tests.later import later_setting


def id_of(spec: RunSpec, labelled: tuple[str, ...] = ("a", "b"), data: str = "d", split: str = "train") -> str:
    run_data: Any = SimpleNamespace(
        training=SimpleNamespace(labelled=_Images(labelled)),
        prepared=SimpleNamespace(fingerprint=data),
        split=pd.DataFrame({"id": ["a"], "group": ["a"], "split": [split]}),
    )
    return predictor_id(spec, spec.resolve(), run_data)


class _Images(tuple[str, ...]):
    @property
    def ids(self) -> list[str]:
        return list(self)


def test_g_is_named_after_what_its_weights_depend_on_and_nothing_else() -> None:
    spec = make_spec("smoke", "phantom", "n2", Arm(method="fixmatch", qg_mode="qw"), device="cpu")
    known = id_of(spec)
    others = [
        id_of(spec, labelled=("a", "c")),
        id_of(spec, data="e"),
        id_of(spec, split="test"),
        id_of(spec.model_copy(update={"seed": 1})),
        id_of(spec.model_copy(update={"overrides": {"quality.lr": 0.5}})),
    ]
    assert len({known, *others}) == 6
    assert id_of(spec, labelled=("b", "a")) == known
    assert id_of(spec.model_copy(update={"method": "mean_teacher", "overrides": {"qg.tau": 0.1}})) == known
    with later_setting(QualitySettings):
        assert id_of(spec) == known
    with later_setting(QualitySettings, before=0.25):
        assert id_of(spec) != known


def test_seeds_of_g_differ_between_data_sets_and_numbers_of_labels_and_agree_between_methods() -> None:
    def seed(dataset: str = "phantom", labelled: int = 2, k: int = 0, method: str = "fixmatch") -> int:
        return _seed(
            make_spec("smoke", dataset, "n2", Arm(method=method, qg_mode="qw"), seed=k, device="cpu"), labelled
        )

    assert len({seed(), seed(dataset="phantom3d"), seed(labelled=3), seed(k=1)}) == 4
    assert seed() == seed(method="mean_teacher")
