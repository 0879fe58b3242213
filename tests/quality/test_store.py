from types import SimpleNamespace
from typing import Any

from qgbench.quality.store import predictor_id
from qgbench.run.request import make_spec
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import QualitySettings
from qgbench.spec.run_spec import RunSpec
from tests.later import later_setting


def id_of(spec: RunSpec, labelled: tuple[str, ...] = ("a", "b"), data: str = "d", split: str = "s") -> str:
    training: Any = SimpleNamespace(labelled=_Images(labelled))
    return predictor_id(spec, spec.resolve(), training, data, split)


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
        id_of(spec, split="t"),
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
